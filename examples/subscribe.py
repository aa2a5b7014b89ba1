"""Another program reads the records from Redis.    python examples/subscribe.py [URL] (first: streamfer run ...)"""

import sys

import streamfer

url = sys.argv[1] if len(sys.argv) > 1 else None
with streamfer.subscribe(url, since="start", idle_s=5) as records:
    for record in records:
        for face in getattr(record.data, "faces", ()):  # captions, gaps and states of cameras have none
            print(record.subject, face.track_id, face.label)
