"""Pictures of your own, from wherever they come: here a portrait and its mirror image, three seconds long."""

import numpy as np
from skimage import data

import streamfer

portrait = data.astronaut()
frames = [portrait if number % 10 < 5 else np.ascontiguousarray(portrait[:, ::-1]) for number in range(30)]

with streamfer.Session(clip__stride=0.5) as session:
    for record in session.stream(frames=((number / 10, frame) for number, frame in enumerate(frames))):
        for face in getattr(record.data, "faces", ()):
            print(record.subject, face.track_id, face.label, face.probability)
