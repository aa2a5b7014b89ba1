"""Cameras and files side by side; one that fails ends nobody else.    python examples/follow_cameras.py SOURCE..."""

import sys

import streamfer
from streamfer.records import ClipLabelled, SourceStateChanged

for record in streamfer.stream(sys.argv[1:], fps=8):
    if isinstance(record.data, ClipLabelled):
        for face in record.data.faces:
            print(f"{record.subject}: {face.track_id} shows {face.label}")
    elif isinstance(record.data, SourceStateChanged) and record.data.state == "ended":
        print(f"{record.subject} ended: {record.data.reason or 'complete'}")
