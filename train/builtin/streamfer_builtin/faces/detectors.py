"""Detectors under one call, for the evaluation: ours, YuNet and the RFB-320 network."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import onnxruntime as ort

from streamfer.errors import CheckpointError
from streamfer_builtin.faces.labels import FloatArray, Picture
from streamfer_builtin.faces.network import ANCHORS, STRIDES
from streamfer_builtin.faces.teacher import Teacher

NMS_OVERLAP = 0.4


@dataclass(frozen=True, slots=True)
class Found:
    """Detections by falling score: ``boxes`` N x 4, ``landmarks`` N x 5 x 2 (picture pixels), ``scores`` N."""

    boxes: FloatArray
    landmarks: FloatArray
    scores: FloatArray

    def above(self, threshold: float) -> Found:
        """Only those scored at least ``threshold``."""
        kept = self.scores >= threshold
        return Found(self.boxes[kept], self.landmarks[kept], self.scores[kept])


class Detector(Protocol):
    """Anything that finds faces on an RGB uint8 picture."""

    def find(self, picture: Picture) -> Found:
        """Faces of ``picture``, without a threshold of its own beyond the one it was made with."""
        ...


class OnnxDetector:
    """An ONNX file in SCRFD's layout with nine outputs, run on the CPU by one thread.

    Raises:
        CheckpointError: the file is absent or is not such a network.
    """

    def __init__(self, path: Path, *, longer_side: int = 640, lowest: float = 0.05, enlarge: bool = False) -> None:
        self._session = one_thread_session(path)
        if len(self._session.get_outputs()) != 9:
            raise CheckpointError(f"{path}: has not the nine outputs of SCRFD with landmarks; export it again")
        self._longer_side = longer_side
        self._lowest = lowest
        self._enlarge = enlarge

    def find(self, picture: Picture) -> Found:
        """Faces with a score of at least ``lowest`` after non-maximum suppression at an overlap of 0.4."""
        height, width = picture.shape[:2]
        scale = self._longer_side / max(height, width)
        scale = scale if self._enlarge else min(1.0, scale)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        shown = picture
        if size != (width, height):
            shown = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        padded = np.zeros((-(-size[1] // 32) * 32, -(-size[0] // 32) * 32, 3), np.uint8)
        padded[: size[1], : size[0]] = shown
        found = self._raw(padded)
        return Found(found.boxes / scale, found.landmarks / scale, found.scores)

    def _raw(self, padded: Picture) -> Found:
        width = padded.shape[1]
        blob = ((padded.astype(np.float32) - 127.5) / 128).transpose(2, 0, 1)[None]
        outputs = self._session.run(None, {"input": np.ascontiguousarray(blob)})
        boxes, landmarks, scores = [], [], []
        for level, stride in enumerate(STRIDES):
            score = outputs[level][:, 0]
            kept = np.flatnonzero(score >= self._lowest)
            place = kept // ANCHORS
            columns = width // stride
            centres = np.stack([place % columns, place // columns], axis=1).astype(np.float32) * stride
            reach = outputs[level + 3][kept] * stride
            boxes.append(np.concatenate([centres - reach[:, :2], centres + reach[:, 2:]], axis=1))
            landmarks.append((outputs[level + 6][kept] * stride).reshape(-1, 5, 2) + centres[:, None])
            scores.append(score[kept])
        return suppressed(np.concatenate(boxes), np.concatenate(landmarks), np.concatenate(scores))


class YuNetDetector:
    """A YuNet file, called as the teacher is called."""

    def __init__(self, path: Path, *, lowest: float = 0.6) -> None:
        self._teacher = Teacher(path, threshold=lowest)

    def find(self, picture: Picture) -> Found:
        """Faces as YuNet reports them."""
        faces = self._teacher.faces(picture)
        return Found(faces.boxes, faces.landmarks, faces.scores)


class RfbDetector:
    """The Ultra-Light RFB-320 network (MIT, Linzaer): 320 x 240 input, boxes only (landmarks are NaN)."""

    def __init__(self, path: Path, *, lowest: float = 0.7) -> None:
        self._session = one_thread_session(path)
        self._lowest = lowest

    def find(self, picture: Picture) -> Found:
        """Faces with a score of at least ``lowest``; the picture is squeezed to 320 x 240 as its authors do."""
        height, width = picture.shape[:2]
        small = cv2.resize(picture, (320, 240)).astype(np.float32)
        blob = ((small - 127) / 128).transpose(2, 0, 1)[None]
        name = self._session.get_inputs()[0].name
        scores, boxes = self._session.run(None, {name: np.ascontiguousarray(blob)})
        kept = scores[0, :, 1] >= self._lowest
        corners = boxes[0][kept] * np.array([width, height, width, height], np.float32)
        blank = np.full((len(corners), 5, 2), np.nan, np.float32)
        return suppressed(corners, blank, scores[0, kept, 1])


def one_thread_session(path: Path) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU with one thread.

    Raises:
        CheckpointError: the file is absent or cannot be read.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; export the weights first")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exception classes share no public base
        raise CheckpointError(f"{path}: ONNX Runtime cannot read it; export the weights again") from error


def suppressed(boxes: FloatArray, landmarks: FloatArray, scores: FloatArray) -> Found:
    """Greedy non-maximum suppression by falling score."""
    order = np.argsort(-scores, kind="stable")[:2000]
    boxes, landmarks, scores = boxes[order], landmarks[order], scores[order]
    sides = [[float(x1), float(y1), float(x2 - x1), float(y2 - y1)] for x1, y1, x2, y2 in boxes]
    kept = np.asarray(cv2.dnn.NMSBoxes(sides, scores.tolist(), 0.0, NMS_OVERLAP), np.int64).reshape(-1)
    return Found(boxes[kept], landmarks[kept], scores[kept])


def milliseconds(path: Path, height: int, width: int, *, runs: int = 100) -> float:
    """Median CPU time in ms of one network pass (no resize, no decoding) at ``height`` x ``width`` by one thread.

    CPU time, not wall time: on a shared machine the latter measures the neighbours.
    """
    session = one_thread_session(path)
    blob = np.random.default_rng(0).standard_normal((1, 3, height, width), dtype=np.float32)
    name = session.get_inputs()[0].name
    times = []
    for _ in range(runs + 5):
        began = time.process_time()
        session.run(None, {name: blob})
        times.append(time.process_time() - began)
    return float(np.median(times[5:]) * 1000)
