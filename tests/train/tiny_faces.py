"""Synthetic faces in three colours with captions, tiny language models, and settings for seconds of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lavis_checkpoint import Sizes, question_tokenizer, write_language_model
from PIL import Image

SIDE = 28
#: Colour (RGB), caption of the actions, and of the emotion.
FACES = (
    ((220, 40, 40), "The face pulls the lip corner.", "the face raises happiness", [12, 6], "happiness"),
    ((40, 60, 220), "The face raises the inner brow.", "the person parts sadness", [1, 4], "sadness"),
    ((40, 200, 60), "The person drops the jaw and parts the lips.", "the person is surprise", [26, 25], "surprise"),
)
TINY_SIZES = {
    "image": SIDE, "patch": 7, "vision_width": 16, "vision_layers": 2, "vision_heads": 2, "vision_mlp": 16,
    "queries": 4, "qformer_width": 16, "qformer_layers": 2, "qformer_heads": 2, "qformer_mlp": 32,
    "vocabulary": 96, "positions": 64,
}  # fmt: skip


def write_faces(folder: Path, count: int = 9) -> None:
    """Write pictures and their lists: ``au.json``, ``emotion.json``, ``labels.json``, ``questions.json``."""
    rng = np.random.default_rng(0)
    (folder / "faces").mkdir(parents=True)
    au, emotion, labels, asked = [], [], [], []
    for number in range(count):
        colour, action, feeling, units, word = FACES[number % 3]
        noise = rng.integers(-30, 30, (SIDE + 4, SIDE, 3))
        picture = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
        name = f"faces/{number:02d}.png"
        Image.fromarray(picture).save(folder / name)
        au.append({"image": name, "caption": action, "image_id": number})
        emotion.append({"image": name, "caption": feeling, "image_id": number})
        labels.append({"image": name, "action_units": units, "emotions": [word], "coded": [1, 4, 6, 12, 25, 26]})
        for part, unit in (("lip corner pulled", 12), ("jaw dropped", 26)):
            answer = "yes" if unit in units else "no"
            asked.append({"image": name, "image_id": number, "text_input": f"is the {part}?", "text_output": answer})
    for name, entries in (("au", au), ("emotion", emotion), ("labels", labels), ("questions", asked)):
        (folder / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")


def write_models(folder: Path, kind: str) -> None:
    """Write a tiny language model and the tokenizer of the Q-Former."""
    write_language_model(folder / "language", Sizes(kind=kind, language=16, language_heads=2))
    question_tokenizer().save_pretrained(folder / "words")


def settings(folder: Path, kind: str = "exp-blip", **changes: Any) -> dict[str, Any]:
    """Write everything once and return plain settings; ``changes`` are merged one level deep."""
    if not (folder / "faces").exists():
        write_faces(folder)
        write_models(folder, kind)
    fast = {"batch": 3, "epochs": 2, "lr": 5e-3, "min_lr": 1e-3, "warmup": 0, "schedule": "cosine"}
    plain: dict[str, Any] = {
        "model": {
            "language_model": str(folder / "language"),
            "tokenizer": str(folder / "words"),
            "sizes": TINY_SIZES,
            "projection": 8,
        },
        "augmentation": {"operations": 2},
        "run": {"out": str(folder / "run"), "device": "cpu"},
        "log": {"every": 1, "tensorboard": False, "progress": False},
    }

    def listed(name: str) -> list[dict[str, str]]:
        return [{"file": str(folder / f"{name}.json"), "images": str(folder)}]

    if kind == "exp-blip":
        plain["data"] = {"au": listed("au"), "emotion": listed("emotion"), "workers": 0}
        plain["step1"] = {**fast, "max_text_tokens": 24}
        plain["step2"] = {**fast, "max_text_tokens": 40, "num_beams": 1, "max_new_tokens": 12}
    else:
        plain["data"] = {"questions": listed("questions"), "workers": 0}
        plain["training"] = {**fast, "max_answer_tokens": 40, "max_question_tokens": 60, "num_beams": 1,
                             "max_new_tokens": 8}  # fmt: skip
    for section, values in changes.items():
        plain[section] = {**plain.get(section, {}), **values} if isinstance(values, dict) else values
    return plain


def write_config(folder: Path, kind: str = "exp-blip", **changes: Any) -> Path:
    """Write the settings as YAML."""
    path = folder / "config.yaml"
    plain = settings(folder, kind, **changes)
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return path
