"""Rendered clips of faces in motion: emotions, action units and time courses that are known exactly.

``python -m streamfer_train.render --help`` writes them; :func:`streamfer_train.render.clips.load_shards` reads them.
"""
