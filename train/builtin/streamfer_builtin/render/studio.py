"""The studio: one clip from its number, with everything random in it drawn from that number.

Shape suffixes: T = 16 frames, A action units, E expression shapes, V vertices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.faces.alignment import similarity_transforms
from streamfer.geometry import LOOSE_TEMPLATE_128
from streamfer_builtin.render.actions import ACTION_UNITS, UNIT, shape_matrix, shape_weights
from streamfer_builtin.render.appearance import Light, Painter, developed, drawn_light, lit, softened
from streamfer_builtin.render.backgrounds import random_background
from streamfer_builtin.render.course import (
    DIRECTIONS,
    FRAMES,
    blinks,
    combined,
    drawn_course,
    drawn_preceding,
    head_motion,
    intensities,
    speech,
    wandering,
)  # fmt: skip
from streamfer_builtin.render.expressions import EMOTIONS, drawn_expression, habitual_face
from streamfer_builtin.render.model import FloatArray, identity_weights, load_face_model
from streamfer_builtin.render.rasterise import Rasteriser, perspective, resolved

SIDE = 64
"""Side of a frame, pixels."""
TEMPLATE_52 = (np.array(LOOSE_TEMPLATE_128) - 64) * (59.08 / 128) + SIDE / 2
"""Where the five landmarks of an aligned face lie in a frame, pixels."""
PEOPLE = {"train": 600, "val": 120}
"""Identities of each split."""
PAIR_PERIOD = 8
"""Of so many clips the last shows the frames of the one before it in reverse."""
_NECK = np.array([0, 0, 3], np.float32)


@dataclass(frozen=True, slots=True)
class Performance:
    """What a face does in a clip; the fields are those of :class:`streamfer_builtin.render.clips.RenderedClips`."""

    emotion: int
    preceding: int
    action_units_TA: FloatArray
    envelope_T: FloatArray
    phase_T: NDArray[np.uint8]
    direction: int


@dataclass(frozen=True, slots=True)
class Clip:
    """One rendered clip: grey frames uint8 (T, 64, 64) and what they show."""

    frames: NDArray[np.uint8]
    performance: Performance
    identity: int
    pose_T3: FloatArray
    light: Light
    reverse_of: int


class ClipRenderer:
    """Renders clips of one split; the same seed and number always give the same clip.

    Raises:
        SourceNotFoundError: the face model is absent.
        SourceUnreadableError: the face model cannot be read.
    """

    def __init__(self, model_path: Path, split: str, seed: int) -> None:
        self.model = load_face_model(model_path)
        self._rasteriser = Rasteriser(self.model)
        self._painter = Painter(self.model, self._rasteriser.surfels)
        self._matrix = shape_matrix(self.model.shapes)
        self._split, self._seed = split, seed
        self._last: tuple[int, Clip] | None = None

    def clip(self, number: int) -> Clip:
        """Render clip ``number``."""
        if number % PAIR_PERIOD == PAIR_PERIOD - 1:
            forward = self._last[1] if self._last and self._last[0] == number - 1 else self._rendered(number - 1)
            return _reversed(forward, number - 1)
        clip = self._rendered(number)
        self._last = (number, clip)
        return clip

    def _rendered(self, number: int) -> Clip:
        rng = np.random.default_rng([self._seed, {"train": 0, "val": 1}[self._split], number])
        identity = int(rng.integers(PEOPLE[self._split]))
        performance = drawn_performance(number, rng)
        pose_T3 = head_motion(rng)
        light = drawn_light(rng)
        frames = self.filmed(identity, performance, pose_T3, light, rng)
        return Clip(frames, performance, identity, pose_T3, light, -1)

    def filmed(
        self, identity: int, performance: Performance, pose_T3: FloatArray, light: Light, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Frames (T, 64, 64) of a performance by person ``identity``; looks, distance and camera are drawn."""
        looks = self._painter.paint(rng)
        weights_TE = self._weights(performance.action_units_TA, pose_T3, rng)
        person_V3 = self.model.person(identity_weights(identity, self._split, len(self.model.identity_IV3)))
        moved_TV3 = self.model.performed(person_V3 - _NECK, weights_TE)
        distance = float(rng.uniform(45, 140))
        scenery = random_background(rng, SIDE, SIDE, held_out=self._split == "val").mean(axis=2) / 255
        background = scenery.astype(np.float32)
        grey_TSS, share_TSS = np.empty((2, FRAMES, SIDE, SIDE), np.float32)
        place_noise = rng.normal(size=(5, 2)) * 0.35
        shake = rng.uniform(0.05, 0.25)
        for frame in range(FRAMES):
            turn = rotation(pose_T3[frame])
            vertices_V3 = moved_TV3[frame] @ turn.T
            noise = place_noise + rng.normal(size=(5, 2)) * shake
            affine = aligned(vertices_V3[self.model.landmarks], distance, noise)
            raised_S3 = looks.raised_S3 @ turn.T
            splat = self._rasteriser.splat(vertices_V3, affine, distance, SIDE, raised_S3)
            light_P = lit(splat, looks, light, performance.action_units_TA[frame])
            grey_TSS[frame], share_TSS[frame] = resolved(splat, light_P)
        return _photographed(grey_TSS, share_TSS, background, rng)

    def _weights(self, units_TA: FloatArray, pose_T3: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Weights (T, E) of the action units, with a lopsided face and a gaze that seeks the camera now and then."""
        sides_2A = (1 + rng.normal(size=(2, len(ACTION_UNITS))) * 0.1).clip(0.6, 1.3).astype(np.float32)
        sides_2A[:, UNIT["AU43"]] = 1
        weights_TE = shape_weights(units_TA, sides_2A, self._matrix)
        place = {name: position for position, name in enumerate(self.model.shapes)}
        across, down = (rng.normal(size=(2, 1)) * [[0.2], [0.12]]) + wandering(rng, 2, 0.04, 0.5).T
        if rng.random() < 0.6:
            across, down = across - pose_T3[:, 0] / 45, down - pose_T3[:, 1] / 45
        # A gaze to the right of the picture turns the picture's right eye outwards and its left eye inwards.
        gaze = {
            "eyeLookOut_L": across, "eyeLookIn_R": across, "eyeLookIn_L": -across, "eyeLookOut_R": -across,
            "eyeLookDown_L": down, "eyeLookDown_R": down, "eyeLookUp_L": -down, "eyeLookUp_R": -down,
        }  # fmt: skip
        for name, value in gaze.items():
            weights_TE[:, place[name]] += np.clip(value, 0, 0.7)
        return weights_TE


def drawn_performance(number: int, rng: np.random.Generator) -> Performance:
    """What clip ``number`` shows: classes take turns, courses and traces are drawn."""
    forward = number % PAIR_PERIOD == PAIR_PERIOD - 2
    emotion = int(rng.integers(len(EMOTIONS)))
    if forward and EMOTIONS[emotion] == "neutral":
        emotion = (emotion + 1 + int(rng.integers(len(EMOTIONS) - 1))) % len(EMOTIONS)
    traces = [np.repeat(habitual_face(rng)[None], FRAMES, axis=0), wandering(rng, len(ACTION_UNITS), 0.02)]
    blink = np.zeros((FRAMES, len(ACTION_UNITS)), np.float32)
    blink[:, UNIT["AU43"]] = blinks(rng, 0.25)
    traces.append(blink)
    if EMOTIONS[emotion] == "neutral":
        return _neutral(emotion, traces, rng)
    preceding, before = -1, None
    strength = float(rng.uniform(0.5, 1.1))
    if not forward and rng.random() < 0.3:
        before, course = drawn_preceding(rng)
        others = [k for k, name in enumerate(EMOTIONS) if k != emotion and name != "neutral"]
        preceding = int(rng.choice(others))
        weaker = strength * float(rng.uniform(0.6, 1.0))
        traces.append(intensities(drawn_expression(EMOTIONS[preceding], weaker, rng), before, rng))
    else:
        kinds, odds = (("onset", "offset"), (0.5, 0.5)) if forward else (DIRECTIONS[:4], (0.27, 0.2, 0.28, 0.25))
        course = drawn_course(str(rng.choice(kinds, p=odds)), rng)
    peaks_A = drawn_expression(EMOTIONS[emotion], strength, rng)
    units_TA = combined([intensities(peaks_A, course, rng), *traces])
    envelope_T = course.at(np.arange(FRAMES)) * np.float32(min(1.0, strength))
    return Performance(emotion, preceding, units_TA, envelope_T, course.phases(), DIRECTIONS.index(course.kind))


def _neutral(emotion: int, traces: list[FloatArray], rng: np.random.Generator) -> Performance:
    if rng.random() < 0.55:
        traces.append(speech(rng, float(rng.uniform(0.25, 0.8))))
    still = np.zeros(FRAMES, np.float32)
    return Performance(
        emotion, -1, combined(traces), still, np.zeros(FRAMES, np.uint8), DIRECTIONS.index("none")
    )  # fmt: skip


def rotation(pose_3: FloatArray) -> FloatArray:
    """Rotation (3, 3) of yaw, pitch and roll in degrees; signs as in the labels of the shards."""
    yaw, pitch, roll = np.deg2rad(pose_3.astype(np.float64))
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y, np.float32)


def five_points(landmarks_683: FloatArray) -> FloatArray:
    """The five points (5, 3) of a detector: middles of the eyes, tip of the nose, corners of the mouth."""
    eyes = [landmarks_683[[36, 39]].mean(axis=0), landmarks_683[[42, 45]].mean(axis=0)]
    return np.asarray(np.stack([*eyes, landmarks_683[30], landmarks_683[48], landmarks_683[54]]), np.float32)


def aligned(landmarks_683: FloatArray, distance: float, noise_52: NDArray[np.floating]) -> FloatArray:
    """Map (2, 3) from the picture plane to a frame with the face aligned, as if found ``noise_52`` pixels off."""
    places = perspective(five_points(landmarks_683), distance)
    return np.asarray(similarity_transforms(places[None], TEMPLATE_52 + noise_52)[0], np.float32)


def _reversed(clip: Clip, number: int) -> Clip:
    """The clip backwards: an onset becomes an offset, and the other way round."""
    done = clip.performance
    swap = {"onset": "offset", "offset": "onset"}
    direction = DIRECTIONS.index(swap.get(DIRECTIONS[done.direction], DIRECTIONS[done.direction]))
    phase = done.phase_T[::-1]
    phase = np.where(phase == 1, 3, np.where(phase == 3, 1, phase)).astype(np.uint8)
    performance = Performance(
        done.emotion, done.preceding, done.action_units_TA[::-1], done.envelope_T[::-1], phase, direction
    )  # fmt: skip
    return Clip(clip.frames[::-1], performance, clip.identity, clip.pose_T3[::-1], clip.light, number)


def _photographed(
    light_TSS: FloatArray, share_TSS: FloatArray, background: FloatArray, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Expose for the face, put the background behind it, soften and add a sensor's noise."""
    middle = (slice(None), slice(16, 48), slice(16, 48))
    typical = float(np.median(light_TSS[middle][share_TSS[middle] > 0.5]))
    contrast = float(rng.uniform(1.0, 1.9))
    exposure = float(rng.uniform(0.36, 0.74)) ** (2.2 / contrast) / max(typical, 1e-4)
    sigma, noise = float(rng.uniform(0.0, 0.65)), float(rng.choice([0.0, rng.uniform(0, 0.02)], p=[0.6, 0.4]))
    frames = np.empty(light_TSS.shape, np.uint8)
    drift = rng.normal(size=2) * 0.15
    for frame, (light, share) in enumerate(zip(light_TSS, share_TSS, strict=True)):
        shift = np.array([[1, 0, drift[0] * frame], [0, 1, drift[1] * frame]])
        behind = cv2.warpAffine(background, shift, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
        picture = softened(developed(light, exposure, contrast) * share + behind * (1 - share), sigma)
        picture = picture + rng.standard_normal(picture.shape, np.float32) * np.float32(noise)
        frames[frame] = np.clip(picture * 255 + 0.5, 0, 255)
    return frames
