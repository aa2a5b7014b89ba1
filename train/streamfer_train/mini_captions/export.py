"""Step `export`: choose the thresholds, measure on the val parts, and write the captioner's file with its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import structlog

from streamfer.errors import OutputError
from streamfer.models.captioning.mini import MiniCaptioner
from streamfer.models.captioning.mini_weights import MiniCard, write_mini
from streamfer.models.weights import digest_of
from streamfer_train.captions.vocabulary import OPPOSED
from streamfer_train.mini.data import CLASSES, Corpus, digests
from streamfer_train.mini.measure import halves
from streamfer_train.mini_captions import features, measure
from streamfer_train.mini_captions.faces import UNITS, Films, photograph_labels
from streamfer_train.mini_captions.features import FeatureFile, Seen
from streamfer_train.mini_captions.measure import Exam
from streamfer_train.mini_captions.recipe import CaptionRecipe
from streamfer_train.mini_captions.training import QUESTION_TOKENS, read_network
from streamfer_train.render.clips import RenderedClips
from streamfer_train.render.expressions import EMOTIONS

log = structlog.get_logger(__name__)

#: One of the wordings that training asks with.
QUESTION = "Describe the facial expression of this person."
LICENCE = (
    "Weights trained from scratch on third-party photographs (FER2013, collected from the web for research, no "
    "licence stated; labelled news photographs of muxspace/facial_expressions, rights with their owners) and on "
    "rendered faces, with texts of our own. For evaluation and research; the user decides about, and answers for, any "
    "other use."
)
#: Before export has chosen one.
_THRESHOLD = 0.5
#: Rendered clips that are measured.
_CLIPS = 1_000


def export(
    recipe: CaptionRecipe, seen: Seen, corpus: Corpus, train: RenderedClips, val: RenderedClips, to: Path, date: str
) -> MiniCard:
    """Measure and write `to`, float16 on disk, with its card beside it; returns the card.

    Raises:
        ConfigError: a step before has not run.
        OutputError: a file cannot be written.
    """
    network, words, trained = read_network(recipe, seen)
    files = features.whole_features(recipe, seen, features.counts_of(corpus, train, val))
    card = MiniCard(
        name=recipe.name,
        sizes=asdict(network.sizes),
        taps=seen.encoder.taps,
        encoder=seen.card.to_json(),
        vocabulary=words.tokenizer.to_str(),
        units=UNITS,
        emotions=CLASSES,
        opposed=tuple((min(pair), max(pair)) for pair in sorted(OPPOSED, key=sorted) if pair <= set(UNITS)),
        thresholds=(_THRESHOLD,) * len(UNITS),
        question=QUESTION,
        max_question_tokens=QUESTION_TOKENS,
        licence=LICENCE,
    )
    made: dict[str, Any] = {"date": date, "commands": commands(), "recipe": trained, "data": digests(recipe.data)}
    made["encoder"] = {"name": seen.card.name, "digest": seen.digest}
    chosen, known = exams(corpus, val, files)
    captioner = MiniCaptioner(network, seen.encoder, card, seen.card)
    thresholds, one_for_all, one_each = measure.fit_thresholds(captioner, chosen)
    card = card.model_copy(update={"thresholds": thresholds})
    captioner = MiniCaptioner(network, seen.encoder, card, seen.card)
    made["thresholds"] = {"fitted_on": len(chosen), "micro_f1_one_for_all": one_for_all, "micro_f1": one_each}
    made["metrics"] = _measured(captioner, known)
    card = card.model_copy(update={"train": made})
    write_mini(to, network, seen.encoder, card)
    log.info("mini_captions.export", file=to.name, bytes=to.stat().st_size, digest=digest_of(to)[:12])
    write_card(card, to.stat().st_size, to.with_suffix(".md"))
    return card


def commands() -> list[str]:
    """Return the commands that make the file again."""
    return [f"streamfer train mini-captions {step}" for step in ("features", "train", "export")]


def exams(corpus: Corpus, val: RenderedClips, files: Mapping[str, FeatureFile]) -> tuple[Exam, dict[str, Exam]]:
    """Return the half of FER2013 val that thresholds are chosen on, and what is reported on by name."""
    fer = measure.stills(files["fer2013_val"], photograph_labels(corpus.val, raw=True))
    fit, told = halves(len(fer))
    held = measure.stills(files["faces_held_out"], photograph_labels(corpus.held_out, raw=True))
    known = {"fer2013_val": fer.at(told.tolist()), "faces_held_out": held}
    return fer.at(fit.tolist()), known | {"rendered_val": _clips(val, files["rendered_val"])}


def _clips(val: RenderedClips, file: FeatureFile) -> Exam:
    """Return the val clips by their first frame and apex, oldest first: what the pipeline's keyframes would be."""
    films = Films(val, features.moments(file.views), 2)
    rows, labels = [], []
    for clip in range(min(len(val), _CLIPS)):
        if val.preceding[clip] >= 0 or val.reverse_of[clip] >= 0:
            continue
        neutral = EMOTIONS[val.emotions[clip]] == "neutral"
        apex = 0 if neutral else int(val.envelope[clip, features.moments(file.views)].argmax())
        chosen = sorted({0, apex})
        rows.append(tuple(clip * file.views + view for view in chosen))
        labels.append(films.labels(clip, apex, chosen))
    return Exam(file, tuple(rows), tuple(labels))


def _measured(captioner: MiniCaptioner, known: Mapping[str, Exam]) -> dict[str, Any]:
    metrics: dict[str, Any] = {"speed": measure.speed(captioner)}
    for name, exam in known.items():
        log.info("mini_captions.measuring", set=name, count=len(exam))
        metrics[name] = {**measure.described(captioner, exam), "yes_no": measure.answered(captioner, exam)}
    return metrics


def write_card(card: MiniCard, size_bytes: int, to: Path) -> None:
    """Write the model card in Markdown: prose from a template, every number from what was measured.

    Raises:
        OutputError: it cannot be written.
    """
    template = Template((resources.files("streamfer_train.mini_captions") / "card.md").read_text(encoding="utf-8"))
    try:
        to.write_text(template.substitute(_values(card, size_bytes)), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{to}: cannot write the card ({error.strerror}); choose another path with --to") from error


def _values(card: MiniCard, size_bytes: int) -> dict[str, str]:
    metrics, made = card.train["metrics"], card.train
    sets = ("fer2013_val", "faces_held_out", "rendered_val")
    rows = [
        (
            name,
            f"{m['count']:,}",
            f"{m['micro_f1']:.3f}",
            f"{m['floor_micro_f1']:.3f}",
            f"{m['emotion_agreement']:.3f}",
            f"{m['floor_emotion_agreement']:.3f}",
            f"{100 * m['contradictions']:.1f} %",
            f"{100 * m['contradictions_with_labels']:.1f} %",
            f"{100 * m['repetitions']:.1f} %",
            f"{m['yes_no']['accuracy']:.3f}",
        )
        for name in sets
        for m in [metrics[name]]
    ]
    head = ("set", "n", "units F1", "floor", "emotion", "floor", "against itself", "against labelled units",
            "repetition", "yes/no accuracy")  # fmt: skip
    units = [
        (unit, *(f"{m['units'][unit]['f1']:.2f}" if unit in (m := metrics[name])["units"] else "–" for name in sets))
        for unit in (f"AU{number:02d}" for number in card.units)
    ]
    return {
        "name": card.name,
        "date": made["date"],
        "size": f"{size_bytes / 1e6:.1f} MB",
        "encoder": f"{made['encoder']['name']} ({made['encoder']['digest'][:12]})",
        "vocabulary": f"{card.sizes['vocabulary']:,}",
        "keyframes": str(card.sizes["keyframes"]),
        "question_tokens": str(card.max_question_tokens),
        "licence": card.licence,
        "least": f"{min(card.thresholds):.2f}",
        "most": f"{max(card.thresholds):.2f}",
        "fitted_on": f"{made['thresholds']['fitted_on']:,}",
        "results": _table(head, rows),
        "units": _table(("unit", *sets), units),
        "alone": f"{metrics['speed']['ms_a_caption']:.0f}",
        "together": f"{metrics['speed']['ms_a_caption_in_16']:.0f}",
        "threads": str(metrics["speed"]["threads"]),
        "epochs": f"{made['recipe']['epochs_done']} of {made['recipe']['epochs']}",
        "commands": "\n".join(made["commands"]),
        "example": metrics["faces_held_out"]["examples"][0],
    }


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ("---",) * len(header), *rows))
