"""Data sets of faces with action units and emotions, read as their owners hand them out."""
