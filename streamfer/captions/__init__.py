"""Captioners: Exp-BLIP, Exp-VQA and any other behind :class:`streamfer.captions.protocol.Captioner`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
