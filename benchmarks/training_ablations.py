"""What goes beyond DFER-CLIP's paper, trained at toy size beside the published recipe: does it learn, at what cost?

    python benchmarks/training_ablations.py            # a few minutes on two cores

Clips are noise in which some frames show a class's colour, so that frames differ in how much they say; a share of the
training labels is a vote of ten. Every configuration of configs/train/dfer_clip/beyond is trained with towers of toy
size from the same random start. That an option works is all the numbers say; whether it is better takes the data sets.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from streamfer_train.dfer_clip import runs
from streamfer_train.dfer_clip.config import parse_config
from streamfer_train.dfer_clip.runs import folder_of

CLASSES = ("happiness", "sadness", "anger")
COLOURS = ((40, 40, 220), (220, 60, 40), (40, 200, 60))
BEYOND = Path(__file__).resolve().parents[1] / "configs" / "train" / "dfer_clip" / "beyond"
#: Towers of toy size; ViT-L/14 becomes one that is deeper and wider than the others.
TOWER = {"embed_dim": 32, "layers": 2, "width": 32, "head_width": 16, "patch": 8, "text_layers": 1, "text_width": 32}
LARGE = {**TOWER, "layers": 4, "width": 64}


def write_clips(folder: Path, count: int, seed: int) -> Path:
    """Write clips of eight frames, two to six of them coloured, and a list with votes; returns the list."""
    rng, lines = np.random.default_rng(seed), ["video,label," + ",".join(CLASSES)]
    for clip in range(count):
        label, place = clip % 3, folder / f"{seed}-{clip:04d}"
        place.mkdir(parents=True)
        shown = set(rng.permutation(8)[: rng.integers(2, 7)].tolist())
        for frame in range(8):
            centre = np.array(COLOURS[label]) if frame in shown else np.full(3, 110)
            picture = np.clip(centre + rng.integers(-60, 60, (24, 24, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(place / f"{frame}.png"), picture)
        votes = rng.multinomial(10, np.where(np.arange(3) == label, 0.8, 0.1))
        lines.append(f"{place},{CLASSES[label]},{','.join(map(str, votes))}")
    table = folder / f"{seed}.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def settings(folder: Path, options: argparse.Namespace, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the toy recipe with a configuration's own sections over it."""
    plain: dict[str, Any] = {
        "data": {
            "dataset": "csv", "train": str(folder / "0.csv"), "test": str(folder / "1.csv"), "labels": "names",
            "classes": list(CLASSES), "frames": 8, "size": 24, "workers": 0, "augmentation": "none",
            "votes": bool(changes.get("data", {}).get("votes")),
        },
        "backbone": {"name": "custom", "weights": "random",
                     "custom": LARGE if changes.get("backbone", {}).get("name") == "ViT-L-14" else TOWER},
        "temporal": {"heads": 2, "dim_head": 16, "mlp_dim": 64},
        "optimiser": {"kind": "adamw", "temporal_net": 3e-3, "image_encoder": 1e-3, "prompt_learner": 3e-3,
                      "batch": 12, "epochs": options.epochs, "milestones": []},
        "run": {"device": "cpu"},
        "log": {"tensorboard": False, "progress": False},
    }  # fmt: skip
    for section in ("lora", "adapters", "temporal", "optimiser"):
        own = {name: value for name, value in changes.get(section, {}).items() if name not in ("batch", "accumulate")}
        plain[section] = {**plain.get(section, {}), **own}
    if changes.get("lora") or changes.get("adapters"):
        plain["optimiser"]["adapters"] = 1e-2
    return plain


def main() -> None:
    """Train all, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=36, help="training clips; a third as many for testing")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write the table there too")
    options = parser.parse_args()
    variants = {"as published": {}} | {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(BEYOND.glob("*.yaml"))
    }
    rows = []
    with tempfile.TemporaryDirectory(prefix="ablations-") as name:
        folder = Path(name)
        for seed, count in ((0, options.clips), (1, options.clips // 3)):
            write_clips(folder, count, seed)
        for variant, changes in variants.items():
            config = parse_config(settings(folder, options, changes), variant)
            out = folder / variant.replace(" ", "_")
            config = config.model_copy(update={"run": config.run.model_copy(update={"out": out})})
            began = time.perf_counter()
            (last,) = (found for found in runs.train(config) if found.selection == "last")
            report = json.loads((folder_of(out, 1, 1) / "report.json").read_text(encoding="utf-8"))
            rows.append({
                "option": variant, "uar": round(100 * last.scores["uar"].mean, 1),
                "nll": round(report["protocols"]["last"]["scores"]["nll"], 3),
                "seconds": round(time.perf_counter() - began, 1), "exported": report["exported"] is not None,
            })  # fmt: skip
    print(f"| option | UAR (chance {100 / len(CLASSES):.0f}) | NLL | seconds | exported |\n|---|---|---|---|---|")
    for row in rows:
        cells = [row["option"], row["uar"], row["nll"], row["seconds"], "yes" if row["exported"] else "no"]
        print(f"| {' | '.join(map(str, cells))} |")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
