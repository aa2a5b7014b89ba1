"""One video: what was found, as tables.    python examples/annotate_file.py VIDEO"""

import sys

import streamfer

annotation = streamfer.annotate(sys.argv[1])
print(annotation)
print(annotation.tracks[["track_id", "start_s", "end_s", "clips", "label"]].to_string(index=False))
for clip in annotation.clips.itertuples():
    print(f"{clip.start_s:6.1f}-{clip.end_s:.1f} s  {clip.track_id}  {clip.label} {clip.probability:.0%}")
