"""Video in: where sources are, frames out of them, which frames are looked at, random access, encoding."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
