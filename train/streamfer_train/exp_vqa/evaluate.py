"""`streamfer evaluate exp-vqa`: action units by likelihood of yes and no, descriptions, answers, and probes."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from streamfer.captions.protocol import Captioner
from streamfer.captions.vocabulary import ACTION_UNITS
from streamfer.errors import ConfigError
from streamfer.files import write_text
from streamfer_train.captions.files import Pair, read_answers
from streamfer_train.captions.questions import unit_question
from streamfer_train.exp_blip import evaluate as captioning
from streamfer_train.exp_blip.captioned import LabelledPicture, face_of, read_labelled
from streamfer_train.exp_blip.probing import probes
from streamfer_train.metrics.detection import Answered, score_answers

log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> None:
    """Ask, score, print and store."""
    if (options.labels is None) == (options.questions is None):
        raise ConfigError("give either --labels or --questions")
    report = _from_labels(options) if options.labels is not None else _from_questions(options)
    lines = []
    if "yes_no" in report:
        shown = {name: value for name, value in report["yes_no"].items() if name != "unit_f1"}
        lines.append("yes or no: " + ", ".join(f"{name} {value}" for name, value in shown.items()))
    if "agreement" in report:
        lines.append(captioning.readable(report))
    elif "text" in report:
        lines += [f"  {name}: {value}" for name, value in report["text"].items()]
    captioning.finish(options, report, "".join(f"{line}\n" for line in lines))


def _units(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) in ACTION_UNITS for part in parts):
        raise ConfigError(f"--units {text!r}: write numbers of described action units, as in 1,2,12")
    return frozenset(int(part) for part in parts)


def _from_labels(options: argparse.Namespace) -> dict[str, Any]:
    units = _units(options.units)
    pictures, learned_from = read_labelled(options.labels, options.images), captioning.read_learned_from(options)
    skip = options.skip_descriptions
    report, model = ({}, captioning.captioner_of(options)) if skip else captioning.measure(options, pictures)
    answers = list(ask_units(model, pictures, units, batch=options.batch, seed=options.seed))
    return {**report, "yes_no": score_answers(answers), **probes(options, learned_from, pictures)}


def ask_units(
    model: Captioner,
    pictures: Sequence[LabelledPicture],
    units: frozenset[int] | None = None,
    *,
    batch: int = 16,
    seed: int = 0,
) -> Iterator[Answered]:
    """Ask about every unit of a face that was looked for, one wording each, and yield probabilities with the truth."""
    for start in range(0, len(pictures), batch):
        clips, questions, facts = [], [], []
        for place, picture in enumerate(pictures[start : start + batch], start=start):
            present = picture.labels.action_units or frozenset()
            looked_for = sorted(present | picture.labels.absent)
            face = face_of(picture.path, model.info.picture.size)
            for unit in looked_for:
                if units is None or unit in units:
                    # The same array several times is looked at once.
                    clips.append(face)
                    questions.append(unit_question(unit, unit in present, f"{seed}/{place}").question)
                    facts.append((unit, unit in present))
        chances = model.answer_yes_no(clips, questions) if clips else []
        for chance, (unit, truth) in zip(chances, facts, strict=True):
            yield Answered(chance, truth, unit)
        log.info("exp_vqa.asked", extra={"done": min(start + batch, len(pictures)), "of": len(pictures)})


def _from_questions(options: argparse.Namespace) -> dict[str, Any]:
    asked, encode = read_answers(options.questions, options.images), captioning.encoder_of(options)
    model = captioning.captioner_of(options)
    binary = [pair for pair in asked if _truth(pair) is not None]
    worded = [pair for pair in asked if _truth(pair) is None]
    report: dict[str, Any] = {"captioner": model.info.name, "digest": model.info.digest, "questions": len(asked)}
    chances = [one for batch in _batches(model, binary, options) for one in model.answer_yes_no(*batch)]
    lines = [_line(pair, {"yes": round(one, 5)}) for pair, one in zip(binary, chances, strict=True)]
    texts = [" ".join(one.split()) for batch in _batches(model, worded, options) for one in model.caption(*batch)]
    lines += [_line(pair, {"text": text}) for pair, text in zip(worded, texts, strict=True)]
    if binary:
        truths = [bool(_truth(pair)) for pair in binary]
        report["yes_no"] = score_answers([Answered(one, truth) for one, truth in zip(chances, truths, strict=True)])
    if worded:
        from streamfer_train.metrics.text import score as score_texts

        name = Path(options.encoder or "").name
        report["text"] = score_texts(texts, [[pair.text] for pair in worded], encode, name)
    write_text(options.out / "answers.jsonl", "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines))
    return report


def _batches(
    model: Captioner, pairs: Sequence[Pair], options: argparse.Namespace
) -> Iterator[tuple[list[Any], list[str]]]:
    """Yield faces, one array where several questions are about one, and the questions about them."""
    for start in range(0, len(pairs), options.batch):
        window = pairs[start : start + options.batch]
        faces = {pair.image: face_of(options.images / pair.image, model.info.picture.size) for pair in window}
        yield [faces[pair.image] for pair in window], [pair.question for pair in window]


def _truth(pair: Pair) -> bool | None:
    """Return the truth of a question that is answered by yes or no, or None."""
    word = pair.text.strip().strip(".!").lower()
    return {"yes": True, "no": False}.get(word)


def _line(pair: Pair, answer: dict[str, Any]) -> dict[str, Any]:
    return {"image": pair.image.as_posix(), "question": pair.question, "truth": pair.text, **answer}
