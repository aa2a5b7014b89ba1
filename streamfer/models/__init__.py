"""Expression models: architectures, weights, and the seam that the pipeline drives them through."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
