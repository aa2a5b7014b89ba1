"""Files out: tables, record lines and overlay videos of annotated sources, whole or not at all."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
