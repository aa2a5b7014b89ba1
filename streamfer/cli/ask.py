"""``streamfer ask``: a question about a face."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from streamfer.cli import options
from streamfer.cli.terminal import note

if TYPE_CHECKING:
    from streamfer.captions.asking import Answer


def ask(
    path: Annotated[str, typer.Argument(metavar="PATH", hidden=True)],
    question: Annotated[str, typer.Argument(metavar="QUESTION", hidden=True)],
    captioner: Annotated[
        str | None,
        typer.Option("--captioner", metavar="WHO", help="Who answers: a name, a folder, or org/name (built-in)."),
    ] = None,
    track: Annotated[
        int | None, typer.Option("--track", min=0, metavar="N", help="Number of the face (the one seen longest).")
    ] = None,
    at: Annotated[
        float | None,
        typer.Option("--at", min=0, metavar="S", help="Look around this second (the strongest expression)."),
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="Answer in words even where yes or no would do.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
    config_file: options.ConfigFile = None,
    model: options.Model = None,
    detector: options.Detector = None,
    device: options.Device = None,
    precision: options.Precision = None,
    threads: options.Threads = None,
    assignments: options.Set = None,
) -> None:
    """Ask a captioner about a face of a video or picture, for example: 'Is the inner brow raised?'

    The face is found and tracked, and the model sees the pictures of its strongest expression. A question that
    begins with is, are, does, has and the like is answered with the probability of yes.
    """
    session = options.open_session(
        config_file,
        {
            "captioner": captioner,
            # Nothing is described besides: who answers is loaded for the question.
            "captions": "off",
            "model": model,
            "detector": detector,
            "device": device,
            "captions.device": device,
            "captions.precision": precision,
            "threads": threads,
        },
        assignments,
    )
    with session:
        answer = session.ask(path, question, track=track, at=at, in_words=words)
    if as_json:
        typer.echo(json.dumps(asdict(answer)))
    else:
        _say(answer)


def _say(answer: Answer) -> None:
    shown = answer.text if answer.probability is None else f"{answer.text}  (yes {answer.probability:.0%})"
    typer.echo(shown or "(the model wrote nothing)")
    moments = ", ".join(f"{moment:.1f}" for moment in answer.keyframes)
    others = [str(number) for number in answer.tracks if number != answer.track]
    words = [f"{answer.model.name} saw track {answer.track} at {moments} s"]
    words += [f"--track asks about another: {', '.join(others)}"] if others else []
    words += [f"licence: {answer.model.licence}"]
    note("; ".join(words))
