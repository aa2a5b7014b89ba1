"""Films for ``blur.py`` out of pictures that nothing of the blur was tuned on.

    python benchmarks/blur_films.py crowds.parquet scenes.parquet -o FILMS

Each film shows twelve pictures, cut hard one after the other, 20 frames each at 25 frames a second: a camera that pans,
zooms and shakes over them, with motion blur and noise. Of crowds.parquet only its part ``val`` is taken, which
no detector of ours was trained on; of scenes.parquet every 50th picture. Every run makes the same pictures.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas
from numpy.typing import NDArray
from PIL import Image

from streamfer.video import write_video

WIDTH, HEIGHT, FRAMES, SHOTS = 640, 360, 20, 12


def shot(picture: NDArray[np.uint8], rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """Yield frames, uint8 RGB, of a camera that moves over a picture."""
    tall, wide = picture.shape[:2]
    begin, end = rng.uniform(0, 1, (2, 2))
    zoom = rng.uniform(0.6, 0.95, 2)
    for number in range(FRAMES):
        # Three moments of an exposure make its motion blur.
        moments = []
        for moment in (0.0, 0.2, 0.4):
            part = (number + moment) / FRAMES
            share = zoom[0] + (zoom[1] - zoom[0]) * part
            side = min(wide * share, tall * share * WIDTH / HEIGHT)
            size = np.array([side, side * HEIGHT / WIDTH])
            corner = (begin + (end - begin) * part) * (np.array([wide, tall]) - size) + rng.normal(0, 0.6, 2)
            centre = corner + size / 2
            scale = WIDTH / side
            shift = np.array([WIDTH, HEIGHT]) / 2 - centre * scale
            place = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
            moments.append(cv2.warpAffine(picture, place, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT))
        seen = np.mean(moments, axis=0) + rng.normal(0, 4, (HEIGHT, WIDTH, 1))
        yield seen.clip(0, 255).astype(np.uint8)


def pictures(path: Path) -> list[bytes]:
    """Return the files of the pictures that are taken of a table."""
    table = pandas.read_parquet(path)
    chosen = table[table.split == "val"] if "split" in table else table.iloc[::50]
    return list(chosen.image)


def main() -> None:
    """Write the films."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--films", type=int, default=6, help="of each table")
    arguments = parser.parse_args()
    truths = {}
    for table in arguments.tables:
        files = pictures(table)
        for film in range(min(arguments.films, len(files) // SHOTS)):
            rng = np.random.default_rng(film)
            shown = files[film * SHOTS : (film + 1) * SHOTS]
            frames = (
                frame
                for file in shown
                for frame in shot(np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), np.uint8), rng)
            )
            name = f"{table.stem}-{film + 1}.mp4"
            write_video(arguments.output / name, frames, 25, codec="libx264")
            truths[name] = {"distinct_people": SHOTS}
    (arguments.output / "ground_truth.json").write_text(json.dumps({"videos": truths}, indent=1))


if __name__ == "__main__":
    main()
