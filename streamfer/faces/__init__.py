"""Faces: detection, alignment, tracking, quality and privacy.

>>> from streamfer.faces import FaceTracker, crop_faces, load_detector
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
