"""`python -m streamfer_train.captions`: captions and questions from labels, by rule, grammar or language model."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamfer.captions.checks import faults
from streamfer.errors import ConfigError
from streamfer_train.captions.files import Entry, read_entries, write_entries
from streamfer_train.captions.grammar import captions, rule_caption
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.questions import questions
from streamfer_train.recipes.command import COMMANDS, add_options, parser_of, reported

if TYPE_CHECKING:
    from streamfer_train.captions.rewrite import Rewriter

Made = Iterator[dict[str, Any]]
Entries = list[tuple[Entry, FaceLabels]]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a user error is one line and exit code 2."""
    options = _parser().parse_args(arguments)
    return reported(lambda: int(options.command(options, _entries(options.labels))))


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("python -m streamfer_train.captions")
    commands = parser.add_subparsers(required=True)
    for name, command in (
        ("rules", _rules),
        ("grammar", _grammar),
        ("rewrite", partial(_by_model, fuse=False)),
        ("fuse", partial(_by_model, fuse=True)),
        ("questions", _questions),
        ("check", _check),
    ):
        told = COMMANDS[name]
        sub = commands.add_parser(name, help=told["description"], description=told["description"])
        sub.set_defaults(command=command)
        add_options(sub, name, told)
    return parser


def _entries(path: Path) -> Entries:
    """Read labels, and everything that is wrong with them, before anything is written or paid for."""
    entries = [(entry, entry.labels()) for entry in read_entries(path)]
    for entry, _ in entries:
        entry.text("image")
    return entries


def _row(entry: Entry, number: int, **texts: str) -> dict[str, Any]:
    return {"image": entry.text("image"), "image_id": entry.fields.get("image_id", number), **texts}


def _write(options: argparse.Namespace, made: Made, note: Callable[[], str] = str) -> int:
    count = write_entries(options.out, made)
    sys.stdout.write(f"{options.out}: {count} entries{note()}\n")
    return 0


def _rules(options: argparse.Namespace, entries: Entries) -> int:
    ruled = [(entry, number, rule_caption(labels)) for number, (entry, labels) in enumerate(entries)]
    silent = sum(caption is None for *_, caption in ruled)
    made = (_row(entry, number, caption=caption) for entry, number, caption in ruled if caption)
    said = f"; {silent} faces without labels to speak of have no rule caption" if silent else ""
    return _write(options, made, lambda: said)


def _grammar(options: argparse.Namespace, entries: Entries) -> int:
    made = (
        _row(entry, number, caption=text)
        for number, (entry, labels) in enumerate(entries)
        for text in captions(labels, options.per_image, f"{options.seed}/{number}")
    )
    return _write(options, made)


@contextmanager
def _rewriter(options: argparse.Namespace) -> Iterator[Rewriter]:
    """Lend a rewriter over the endpoint or folder that the options name; an endpoint that refuses ends it here."""
    from streamfer_train.captions.rewrite import Policy, Rewriter
    from streamfer_train.captions.writers import ReplyCache, named_writer

    asked = {name: getattr(options, name) for name in ("tries", "variants", "concurrency", "budget")}
    policy = Policy(price=tuple(options.price), **asked)
    if not options.timeout > 0:
        raise ConfigError(f"--timeout {options.timeout:g}: must be above 0 seconds")
    writer = named_writer(options.url, options.model, timeout=options.timeout, connections=options.concurrency)
    with ReplyCache(options.cache) as cache:
        yield Rewriter(writer, cache, policy)


def _by_model(options: argparse.Namespace, entries: Entries, *, fuse: bool) -> int:
    with _rewriter(options) as rewriter:
        faces = [labels for _, labels in entries]
        texts = rewriter.fuse(faces, options.seed) if fuse else rewriter.rewrite(faces, options.seed)
        pairs = enumerate(zip(entries, texts, strict=True))
        made = (_row(entry, number, caption=text.text) for number, ((entry, _), text) in pairs)
        return _write(options, made, lambda: f"; {rewriter.tally.summary(rewriter.policy.price)}")


def _questions(options: argparse.Namespace, entries: Entries) -> int:
    faces = [labels for _, labels in entries]
    asked = list(questions(faces, seed=options.seed, regions=options.regions, units=options.units))
    kinds = Counter(question.kind for _, question in asked)
    said = f" ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})"

    def row(index: int, question: str, answer: str) -> dict[str, Any]:
        return _row(entries[index][0], index, text_input=question, text_output=answer)

    if options.model is None:
        return _write(options, (row(n, one.question, one.answer) for n, one in asked), lambda: said)
    with _rewriter(options) as rewriter:
        written = rewriter.ask(((faces[n], one) for n, one in asked), options.seed)
        made = (row(n, one.question, text.text) for (n, _), (one, text) in zip(asked, written, strict=True))
        return _write(options, made, lambda: f"{said}; {rewriter.tally.summary(rewriter.policy.price)}")


def _check(options: argparse.Namespace, entries: Entries) -> int:
    labels = {entry.text("image"): known for entry, known in entries}
    captioned = read_entries(options.captions) if options.captions else [entry for entry, _ in entries]
    failed = 0
    for entry in captioned:
        image, caption = entry.text("image"), entry.text("caption")
        if image not in labels:
            raise ConfigError(f"{entry.place}: image {image} has no labels in {options.labels}; add them")
        wrong = faults(caption, labels[image], complete=False)
        failed += bool(wrong)
        if wrong:
            sys.stdout.write(f"{entry.place}: {'; '.join(wrong)}\n")
    sys.stdout.write(f"{len(captioned)} captions checked, {failed} refused\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
