"""The second stage: every picture gets the half that its labels lack, written by a captioner, and both are joined.

    OUT/pseudo/halves.jsonl   one picture a line, as it is written; an interrupted run goes on behind the last
    OUT/pseudo/fused.json     both halves in one text: what Exp-BLIP is trained on
    OUT/pseudo/cat.json       one half behind the other (Cat-BLIP)
    OUT/pseudo/mix.json       the captions of the lists as they are, unjoined (Mix-BLIP)

Pictures are named from the deepest folder that all lists share. Source: Exp-BLIP (BMVC 2023), section 3.3.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from streamfer.captions.folder import is_captioner
from streamfer_train.captions.files import write_entries
from streamfer_train.captions.grammar import describe
from streamfer_train.captions.rewrite import UNREAD, Policy, Rewriter, labels_of_texts
from streamfer_train.captions.writers import named_writer
from streamfer_train.datasets.authors import Pair
from streamfer_train.exp_blip.build import existing
from streamfer_train.exp_blip.captioned import caption_pictures, keep, read_kept, windows
from streamfer_train.exp_blip.config import ExpBlipConfig
from streamfer_train.exp_blip.data import read_pairs
from streamfer_train.exp_blip.stages import CAPTIONER, LISTS, Variant, folder_of, image_root
from streamfer_train.recipes.run_folder import alone_in

log = logging.getLogger(__name__)

FOLDER, HALVES = "pseudo", "halves.jsonl"


@dataclass(frozen=True, slots=True)
class Halves:
    """What is said of one picture: its actions, its emotion, and which of both a captioner wrote (or neither)."""

    image: str
    action: str
    emotion: str
    written: str


def write(config: ExpBlipConfig) -> str:
    """Write missing halves and the three lists; returns what was done, in a line.

    Raises:
        ConfigError: lists, pictures or captioners are missing.
        RecordError: a line of ``halves.jsonl`` is damaged; delete it.
    """
    folder = config.run.out / FOLDER
    action, emotion = _lists(config)
    with alone_in(folder):
        halves = _complete(config, folder / HALVES, action, emotion)
    texts, said = _fused(config, halves)
    captions: dict[Variant, Iterable[tuple[str, str]]] = {
        "mix": [(str(one.image), one.text) for one in [*action, *emotion]],
        "cat": [(one.image, f"{one.action} {one.emotion}") for one in halves],
        "exp": zip((one.image for one in halves), texts, strict=True),
    }
    root = image_root(config)
    for variant, pairs in captions.items():
        write_entries(folder / LISTS[variant], _entries(pairs, root))
    counts = {half: sum(one.written == half for one in halves) for half in ("action", "emotion")}
    return (
        f"{folder}: {len(halves)} pictures, {counts['action']} with pseudo actions, {counts['emotion']} with a pseudo "
        f"emotion; {said}"
    )


def check(config: ExpBlipConfig) -> str:
    """Return what :func:`write` would have to write, without doing it; it raises what that would."""
    action, emotion = _lists(config)
    with_action, with_emotion = {str(one.image) for one in action}, {str(one.image) for one in emotion}
    done = len(_read_halves(config.run.out / FOLDER / HALVES))
    lines = [f"{len(with_action | with_emotion)} pictures, {done} of them done"]
    for stage, lacking in (("emotion", with_action - with_emotion), ("au", with_emotion - with_action)):
        if lacking:
            lines.append(f"{len(lacking)} halves by {_captioner(config, stage)}")
    if config.pseudo.model is not None:
        lines.append(f"joined by {named_writer(config.pseudo.url, config.pseudo.model).name}")
    return "\n".join(lines)


def _lists(config: ExpBlipConfig) -> tuple[list[Pair], list[Pair]]:
    text = config.data.text
    return read_pairs(config.data.au, text, "data.au"), read_pairs(config.data.emotion, text, "data.emotion")


def _captioner(config: ExpBlipConfig, stage: Any) -> str:
    """Return the captioner of a half: the one that is named, or the stage's own."""
    named = config.pseudo.au_captioner if stage == "au" else config.pseudo.emotion_captioner
    if named is not None:
        return named
    folder = folder_of(config.run.out, stage) / CAPTIONER
    existing(folder, f"run --stage {stage} first, or set pseudo.{stage}_captioner")
    return str(folder) if is_captioner(folder) else str(existing(folder / "streamfer.json", f"run --stage {stage}"))


def _complete(config: ExpBlipConfig, path: Path, action: list[Pair], emotion: list[Pair]) -> list[Halves]:
    """Return both halves of every picture, in the order of the lists, writing those that are lacking."""
    actions = {str(pair.image): pair.text for pair in reversed(action)}
    emotions = {str(pair.image): pair.text for pair in reversed(emotion)}
    order = list(dict.fromkeys(str(pair.image) for pair in [*action, *emotion]))
    done = _read_halves(path)
    for stage, known, half in (("emotion", actions, "emotion"), ("au", emotions, "action")):
        others = emotions if half == "emotion" else actions
        lacking = [image for image in order if image in known and image not in others and image not in done]
        if lacking:
            made = _describe(lacking, _captioner(config, stage), config)
            rows = keep(path, (asdict(one) for one in _joined(made, known, half)), config.pseudo.batch)
            done |= {row["image"]: Halves(**row) for row in rows}
    both = {image: Halves(image, actions[image], emotions[image], "") for image in order
            if image in actions and image in emotions}  # fmt: skip
    return [both[image] if image in both else done[image] for image in order]


def _joined(made: Iterable[tuple[str, str]], known: Mapping[str, str], half: str) -> Iterator[Halves]:
    for image, text in made:
        action, emotion = (known[image], text) if half == "emotion" else (text, known[image])
        yield Halves(image, action, emotion, half)


def _describe(images: list[str], captioner: str, config: ExpBlipConfig) -> Iterator[tuple[str, str]]:
    """Yield each picture with what a captioner says of it."""
    from streamfer.captions import load_captioner

    model = load_captioner(captioner, device=config.run.device, batch=config.pseudo.batch)
    done = 0
    for window in windows(images, config.pseudo.batch):
        yield from zip(window, caption_pictures(model, [Path(image) for image in window]), strict=True)
        done += len(window)
        log.info("exp_blip.pseudo", extra={"done": done, "of": len(images), "captioner": model.info.name})


def _read_halves(path: Path) -> dict[str, Halves]:
    """Return what an earlier run wrote."""
    rows = read_kept(path, tuple(one.name for one in fields(Halves)))
    return {row["image"]: Halves(**row) for row in rows}


def _fused(config: ExpBlipConfig, halves: list[Halves]) -> tuple[list[str], str]:
    """Return one text a picture and who wrote them: a language model, or the grammar."""
    asked = config.pseudo
    pairs = [(one.action, one.emotion) for one in halves]
    if asked.model is None:
        texts, unread = [], 0
        for place, (action, emotion) in enumerate(pairs):
            labels = labels_of_texts(action, emotion)
            unread += labels is None
            texts.append(f"{action} {emotion}" if labels is None else describe(labels, f"{config.seed}/{place}"))
        return texts, "joined by the grammar" + (f"; of {unread} {UNREAD}" if unread else "")
    from streamfer_train.captions.cache import ReplyCache

    writer = named_writer(asked.url, asked.model)
    policy = Policy(price_prompt=asked.price[0], price_answer=asked.price[1], budget=asked.budget)
    with ReplyCache(asked.cache) as cache:
        rewriter = Rewriter(writer, cache, policy)
        texts = [one.text for one in rewriter.fuse_texts(pairs, config.seed)]
        return texts, rewriter.tally.summary(policy)


def _entries(captions: Iterable[tuple[str, str]], root: Path) -> Iterator[dict[str, Any]]:
    for number, (image, text) in enumerate(captions):
        relative = Path(os.path.relpath(image, root)).as_posix()
        yield {"image": relative, "image_id": number, "caption": text}
