"""Looks: skin, brows, lips, eyes, hair, beard and creases of a person, and the light that falls on them.

A person is painted once, on a canvas that is the mean face seen from the front; surfels look their paint up by their
place on the mean face at rest. Values are linear reflectances; :func:`developed` turns light into grey levels.

Shape suffixes: S surfels, P cells that were hit, L crease layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer_builtin.render.actions import UNIT
from streamfer_builtin.render.canvas import Canvas
from streamfer_builtin.render.model import FaceModel, FloatArray
from streamfer_builtin.render.rasterise import Splat, Surfels

_CREASES: tuple[dict[str, float], ...] = (
    {"AU01": 0.6, "AU02": 0.8},
    {"AU04": 1.0, "AU09": 0.4},
    {"AU09": 1.0},
    {"AU12": 0.8, "AU10": 0.8, "AU09": 0.6, "AU20": 0.3},
    {"AU06": 1.0},
    {"AU06": 0.6, "AU07": 0.9, "AU09": 0.3},
    {"AU17": 1.0},
    {"AU15": 1.0, "AU14": 0.9},
)
"""Action units that deepen each crease layer, in the order of :meth:`Canvas.creases`."""
_IRIS, _PUPIL = 0.62, 0.26


@dataclass(frozen=True, slots=True)
class Looks:
    """One person's paint.

    Attributes:
        albedo_S: linear reflectance 0-1.
        creases_LS: how much each crease layer darkens a surfel at full intensity.
        gloss_S: strength of the highlight.
        sharpness_S: exponent of the highlight.
        raised_S3: how far hair stands off the skin, model frame, centimetres.
    """

    albedo_S: FloatArray
    creases_LS: FloatArray
    gloss_S: FloatArray
    sharpness_S: FloatArray
    raised_S3: FloatArray


@dataclass(frozen=True, slots=True)
class Light:
    """A main light, a weaker second one, and light from everywhere that comes mostly from above.

    Attributes:
        main_3: unit direction towards the main light, viewer's frame.
        second_3: unit direction towards the second light.
        ambient: share 0-1 of light from everywhere.
        second: strength of the second light relative to the main one.
    """

    main_3: FloatArray
    second_3: FloatArray
    ambient: float
    second: float


def drawn_light(rng: np.random.Generator) -> Light:
    """A random light, mostly from above and in front."""
    main = rng.normal(size=3) * [0.7, 0.45, 0.2] + [0, 0.45, 0.9]
    second = rng.normal(size=3) * [1.0, 0.4, 0.3] + [0, 0.1, 0.4]
    unit = [direction / np.linalg.norm(direction) for direction in (main, second)]
    ambient, strength = rng.uniform(0.25, 0.7), rng.uniform(0, 0.5)
    return Light(unit[0].astype(np.float32), unit[1].astype(np.float32), float(ambient), float(strength))


class Painter:
    """Paints people onto the surfels of a face model."""

    def __init__(self, model: FaceModel, surfels: Surfels) -> None:
        self._surfels = surfels
        self._landmarks_683 = model.neutral_V3[model.landmarks]
        parts = {name: surfels.part_S == position for position, name in enumerate(model.parts)}
        self._face_S, self._head_S = parts["face"], parts["head_neck"]
        self._mouth_S, self._tongue_S, self._teeth_S = parts["mouth_socket"], parts["gums_tongue"], parts["teeth"]
        self._socket_S = parts["eye_socket_left"] | parts["eye_socket_right"]
        self._lash_S = parts["eyelashes_left"] | parts["eyelashes_right"]
        self._eyes = [parts["eyeball_left"], parts["eyeball_right"]]
        centre = surfels.rest_S3[self._face_S | self._head_S].mean(axis=0) + np.array([0, 2, -1], np.float32)
        outward = surfels.rest_S3 - centre
        self._outward_S3 = (outward / (np.linalg.norm(outward, axis=1, keepdims=True) + 1e-6)).astype(np.float32)

    def paint(self, rng: np.random.Generator) -> Looks:
        """A random person's paint."""
        rest_S3 = self._surfels.rest_S3
        tone = float(np.exp(rng.uniform(np.log(0.12), np.log(0.62))))
        hair = float(tone * rng.uniform(0.05, 0.35) if rng.random() < 0.8 else tone * rng.uniform(0.35, 0.8))
        canvas = Canvas(self._landmarks_683, rng)
        skin = canvas.skin(tone, hair)
        front_S = self._face_S & (rest_S3[:, 2] > 1.5)
        albedo_S = np.full(len(rest_S3), tone, np.float32)
        albedo_S[front_S] = canvas.looked_up(skin, rest_S3[front_S])
        depth = rng.uniform(0.1, 0.55)
        layers = canvas.creases()
        creases_LS = np.zeros((len(layers), len(rest_S3)), np.float32)
        for crease_S, layer in zip(creases_LS, layers, strict=True):
            crease_S[front_S] = canvas.looked_up(layer, rest_S3[front_S]) * depth
        gloss_S = np.full(len(rest_S3), tone * rng.uniform(0, 0.25), np.float32)
        sharpness_S = np.full(len(rest_S3), rng.uniform(8, 24), np.float32)
        self._paint_mouth(albedo_S, gloss_S, tone, rng)
        self._paint_eyes(albedo_S, gloss_S, sharpness_S, tone, rng)
        albedo_S[self._lash_S] = min(hair, tone * 0.3) * rng.uniform(0.5, 1.0)
        # The chin keeps light from the throat.
        throat = np.clip((-6.2 - rest_S3[:, 1]) / 2, 0, 1) * np.clip((7.5 - rest_S3[:, 2]) / 3, 0, 1)
        albedo_S *= 1 - rng.uniform(0.3, 0.7) * throat
        raised_S3 = self._grow_hair(albedo_S, gloss_S, hair, rng)
        return Looks(albedo_S, creases_LS, gloss_S, sharpness_S, raised_S3)

    def _paint_mouth(self, albedo_S: FloatArray, gloss_S: FloatArray, tone: float, rng: np.random.Generator) -> None:
        rest_S3 = self._surfels.rest_S3
        # The deeper in the mouth, the darker.
        light_S = np.clip((rest_S3[:, 2] - 6.5) / 4, 0.0, 1)
        albedo_S[self._mouth_S] = tone * 0.25 * light_S[self._mouth_S] ** 2 + 0.004
        albedo_S[self._tongue_S] = (0.14 * light_S[self._tongue_S] + 0.006) * rng.uniform(0.6, 1.1)
        albedo_S[self._teeth_S] = tone**0.4 * rng.uniform(0.6, 0.95) * light_S[self._teeth_S] ** 1.5 + 0.01
        gloss_S[self._teeth_S] = 0.3 * tone
        albedo_S[self._socket_S] = tone * 0.15

    def _paint_eyes(
        self, albedo_S: FloatArray, gloss_S: FloatArray, sharpness_S: FloatArray, tone: float, rng: np.random.Generator
    ) -> None:
        iris, white = rng.uniform(0.015, 0.12), tone**0.5 * rng.uniform(0.65, 0.95)
        pupil = _PUPIL * rng.uniform(0.8, 1.3)
        for eye_S in self._eyes:
            rest = self._surfels.rest_S3[eye_S]
            middle = (rest.max(axis=0) + rest.min(axis=0)) / 2
            away = np.hypot(rest[:, 0] - middle[0], rest[:, 1] - middle[1])
            paint = np.where(away < _IRIS, iris, white)
            paint = np.where((away > _IRIS * 0.84) & (away < _IRIS * 1.04), iris * 0.5, paint)
            paint = np.where(away < pupil, 0.006, paint)
            # Lids keep light from the upper and outer parts of the ball.
            shade = 1 - 0.45 * np.clip((rest[:, 1] - middle[1] - 0.15) / 0.5, 0, 1)
            shade *= 1 - 0.35 * np.clip((np.abs(rest[:, 0] - middle[0]) - 0.7) / 0.6, 0, 1)
            albedo_S[eye_S] = paint * shade
            gloss_S[eye_S], sharpness_S[eye_S] = 1.2 * tone, 120.0

    def _grow_hair(
        self, albedo_S: FloatArray, gloss_S: FloatArray, hair: float, rng: np.random.Generator
    ) -> FloatArray:
        """Skin above a slanted hairline takes the hair's colour and moves outwards."""
        raised_S3 = np.zeros_like(self._surfels.rest_S3)
        x, y, z = self._surfels.rest_S3.T
        if rng.random() < 0.1:
            return raised_S3
        parting = rng.uniform(-3, 3)
        line = rng.uniform(9.3, 12.3) - 0.012 * (x - parting) ** 2 * rng.uniform(-1, 4)
        if rng.random() < 0.2:
            line = line - rng.uniform(1.0, 3.0) * (0.75 + 0.25 * np.sin(x * rng.uniform(0.5, 3) + rng.uniform(0, 6)))
        # Beside the ears it comes down; long hair hides them and the neck.
        line = line - np.clip(4.2 - z, 0, 3) * rng.uniform(1.5, 4.5)
        if rng.random() < 0.4:
            line = np.where(z < rng.uniform(2.0, 4.2), -30.0, line)
        grown_S = (self._face_S | self._head_S) & (y > line)
        edge_S = np.clip((y - line) / 1.3, 0, 1) * grown_S
        cover_S = np.clip(edge_S * rng.uniform(2, 6), 0, 1)
        direction = rng.normal(size=3) * [3, 0.7, 2.5]
        strands = 1 + rng.uniform(0.05, 0.3) * np.sin(self._surfels.rest_S3 @ direction + 2 * np.sin(y * 1.3))
        albedo_S[:] = albedo_S * (1 - cover_S) + hair * strands * cover_S
        gloss_S[grown_S] = hair * rng.uniform(0.0, 0.5)
        thickness = rng.uniform(0.1, 1.1) * (1 + 0.3 * np.sin(self._surfels.rest_S3 @ (rng.normal(size=3) * 0.7)))
        raised_S3[:] = self._outward_S3 * (thickness * edge_S)[:, None]
        return raised_S3


def crease_strengths(units_A: FloatArray) -> FloatArray:
    """How deep each crease layer (L,) is at the intensities of one frame."""
    deep = [sum(weight * float(units_A[UNIT[name]]) for name, weight in layer.items()) for layer in _CREASES]
    return np.clip(np.asarray(deep, np.float32), 0, 1.2)


def lit(splat: Splat, looks: Looks, light: Light, units_A: FloatArray) -> FloatArray:
    """Light (P,) that reaches the viewer from each cell: Lambert, highlights, and creases as deep as the units say."""
    surfel = splat.surfel_P
    _, up_P, towards_P = splat.normal_3P
    creases_P = crease_strengths(units_A) @ looks.creases_LS[:, surfel]
    albedo_P = looks.albedo_S[surfel] * np.clip(1 - creases_P, 0.2, 1)
    soft = 0.15
    main_P = np.maximum((light.main_3 @ splat.normal_3P + soft) / (1 + soft), 0)
    second_P = np.maximum(light.second_3 @ splat.normal_3P, 0) * light.second
    ambient_P = 0.65 + 0.35 * up_P + 0.2 * (towards_P - 0.6)
    shade_P = light.ambient * ambient_P + (1 - light.ambient) * (main_P + second_P)
    half_3 = light.main_3 + np.array([0, 0, 1], np.float32)
    half_3 /= np.linalg.norm(half_3)
    shine_P = np.maximum(half_3 @ splat.normal_3P, 0) ** looks.sharpness_S[surfel] * looks.gloss_S[surfel]
    return np.asarray(albedo_P * shade_P + shine_P * (1 - light.ambient), np.float32)


def developed(light: FloatArray, exposure: float, contrast: float) -> NDArray[np.float32]:
    """Light to grey levels 0-1: exposure, then a camera's curve of exponent ``contrast`` / 2.2."""
    return np.asarray(np.clip(light * exposure, 0, 1.2) ** (contrast / 2.2), np.float32)


def softened(picture: FloatArray, sigma: float) -> FloatArray:
    """A picture slightly out of focus; below 0.2 pixels it stays as it is."""
    if sigma < 0.2:
        return picture
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)
