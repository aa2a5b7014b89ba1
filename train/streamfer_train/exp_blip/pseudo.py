"""The second stage: every picture gets the half that its labels lack, written by a captioner, and both are joined.

Pictures are named from the deepest folder that all lists share. Source: Exp-BLIP (BMVC 2023), section 3.3.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from streamfer.captions.folder import is_captioner
from streamfer_train.captions.files import Pair, write_entries
from streamfer_train.captions.grammar import describe
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.rewrite import UNREAD, Policy, Rewriter, labels_of_texts
from streamfer_train.captions.writers import ReplyCache, named_writer
from streamfer_train.exp_blip.build import existing
from streamfer_train.exp_blip.captioned import LabelledPicture, caption_all, read_kept
from streamfer_train.exp_blip.config import ExpBlipConfig
from streamfer_train.exp_blip.data import read_pairs
from streamfer_train.exp_blip.stages import CAPTIONER, LISTS, Stage, Variant, folder_of, image_root

FOLDER = "pseudo"


def write(config: ExpBlipConfig) -> str:
    """Write missing halves and the three lists; returns what was done, in a line.

    Raises:
        ConfigError: lists, pictures or captioners are missing.
        RecordError: a line of what captioners wrote is damaged; delete the file.
    """
    folder = config.run.out / FOLDER
    lists = _lists(config)
    action, emotion = ({str(one.image): one.text for one in reversed(pairs)} for pairs in lists)
    images = list(dict.fromkeys(str(one.image) for pairs in lists for one in pairs))
    felt = _written(config, "emotion", [image for image in images if image not in emotion])
    moved = _written(config, "au", [image for image in images if image not in action])
    halves = [({**action, **moved}[image], {**emotion, **felt}[image]) for image in images]
    texts, said = _fused(config, halves)
    captions: dict[Variant, Iterable[tuple[str, str]]] = {
        "mix": [(str(one.image), one.text) for pairs in lists for one in pairs],
        "cat": zip(images, map(" ".join, halves), strict=True),
        "exp": zip(images, texts, strict=True),
    }
    root = image_root(config)
    for variant, pairs in captions.items():
        write_entries(folder / LISTS[variant], _entries(pairs, root))
    return (
        f"{folder}: {len(images)} pictures, {len(moved)} with pseudo actions, {len(felt)} with a pseudo emotion; {said}"
    )


def check(config: ExpBlipConfig) -> str:
    """Return what :func:`write` would have to write, without doing it; it raises what that would."""
    with_action, with_emotion = ({str(one.image) for one in pairs} for pairs in _lists(config))
    done = sum(len(read_kept(config.run.out / FOLDER / f"{half}.jsonl")) for half in ("au", "emotion"))
    lines = [f"{len(with_action | with_emotion)} pictures, {done} of them done"]
    lacking: dict[Stage, set[str]] = {"emotion": with_action - with_emotion, "au": with_emotion - with_action}
    lines += [f"{len(images)} halves by {_captioner(config, stage)}" for stage, images in lacking.items() if images]
    if config.pseudo.model is not None:
        lines.append(f"joined by {named_writer(config.pseudo.url, config.pseudo.model).name}")
    return "\n".join(lines)


def _lists(config: ExpBlipConfig) -> tuple[list[Pair], list[Pair]]:
    text = config.data.text
    return read_pairs(config.data.au, text, "data.au"), read_pairs(config.data.emotion, text, "data.emotion")


def _captioner(config: ExpBlipConfig, stage: Stage) -> str:
    """Return the captioner of a half: the one that is named, or the stage's own."""
    named = config.pseudo.au_captioner if stage == "au" else config.pseudo.emotion_captioner
    if named is not None:
        return named
    folder = folder_of(config.run.out, stage) / CAPTIONER
    existing(folder, f"run --stage {stage} first, or set pseudo.{stage}_captioner")
    return str(folder) if is_captioner(folder) else str(existing(folder / "streamfer.json", f"run --stage {stage}"))


def _written(config: ExpBlipConfig, stage: Stage, images: list[str]) -> dict[str, str]:
    """Return what the captioner of a stage says of pictures; what its file holds already is not asked again."""
    if not images:
        return {}
    from streamfer.captions import load_captioner

    model = load_captioner(_captioner(config, stage), device=config.run.device, batch=config.pseudo.batch)
    pictures = [LabelledPicture(image, Path(image), FaceLabels()) for image in images]
    said = caption_all(model, pictures, config.run.out / FOLDER / f"{stage}.jsonl", config.pseudo.batch)
    return dict(zip(images, said, strict=True))


def _fused(config: ExpBlipConfig, pairs: list[tuple[str, str]]) -> tuple[list[str], str]:
    """Return one text for each pair of halves and who wrote them: a language model, or the grammar."""
    asked = config.pseudo
    if asked.model is None:
        texts, unread = [], 0
        for place, (action, emotion) in enumerate(pairs):
            labels = labels_of_texts(action, emotion)
            unread += labels is None
            texts.append(f"{action} {emotion}" if labels is None else describe(labels, f"{config.seed}/{place}"))
        return texts, "joined by the grammar" + (f"; of {unread} {UNREAD}" if unread else "")
    writer = named_writer(asked.url, asked.model)
    policy = Policy(price=asked.price, budget=asked.budget)
    with ReplyCache(asked.cache) as cache:
        rewriter = Rewriter(writer, cache, policy)
        texts = [one.text for one in rewriter.fuse_texts(pairs, config.seed)]
        return texts, rewriter.tally.summary(policy.price)


def _entries(captions: Iterable[tuple[str, str]], root: Path) -> Iterator[dict[str, Any]]:
    for number, (image, text) in enumerate(captions):
        relative = Path(os.path.relpath(image, root)).as_posix()
        yield {"image": relative, "image_id": number, "caption": text}
