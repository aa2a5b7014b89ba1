"""Faces: detection, alignment, tracking, quality and privacy.

>>> from streamfer.faces import FaceTracker, crop_faces, load_detector
"""

from streamfer.faces.alignment import crop_faces
from streamfer.faces.detections import (
    Detections,
    Detector,
    TrackedFace,
    TrackedFrame,
    Tracker,
    settle,
)
from streamfer.faces.detectors import load_detector
from streamfer.faces.privacy import TrackNames, blur_faces
from streamfer.faces.quality import face_quality
from streamfer.faces.tracking import FaceTracker, TrackerSettings

__all__ = [
    "Detections",
    "Detector",
    "FaceTracker",
    "TrackNames",
    "TrackedFace",
    "TrackedFrame",
    "Tracker",
    "TrackerSettings",
    "blur_faces",
    "crop_faces",
    "face_quality",
    "load_detector",
    "settle",
]
