"""Faces: detection, alignment, tracking, quality and privacy.

>>> from streamfer.faces import FaceTracker, crop_faces, load_detector
"""

from streamfer.faces.alignment import crop_faces
from streamfer.faces.detections import Detections, Detector, TrackedFace, TrackedFrame, Tracker
from streamfer.faces.detectors import load_detector
from streamfer.faces.fake import FakeDetector
from streamfer.faces.quality import face_quality

__all__ = [
    "Detections",
    "Detector",
    "FakeDetector",
    "TrackedFace",
    "TrackedFrame",
    "Tracker",
    "crop_faces",
    "face_quality",
    "load_detector",
]
