"""Rendered clips of faces in motion: emotions, action units and time courses that are known exactly.

``python -m streamfer_builtin.mini render`` writes them;
:func:`~streamfer_builtin.render.clips.load_shards` reads them.
"""
