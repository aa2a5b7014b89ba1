"""streamfer: video in, facial expressions out.

>>> import streamfer                                             # doctest: +SKIP
>>> annotation = streamfer.annotate("interview.mp4")             # doctest: +SKIP
>>> annotation.clips[["track_id", "start_s", "label"]]           # doctest: +SKIP
>>> for record in streamfer.stream("rtsp://camera/live"):        # doctest: +SKIP
...     print(record.subject, record.data)

What can be imported from here is listed in ``__init__.pyi``, and is loaded when it is first used.
"""

import logging

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
# A library says nothing unless who uses it configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())
