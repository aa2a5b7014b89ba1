"""``streamfer ask``: a question about a face."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamfer.cli import options
from streamfer.cli.terminal import note

if TYPE_CHECKING:
    from streamfer.api import Session
    from streamfer.captions.asking import Answer


#: Arguments of :meth:`streamfer.Session.ask`.
_PASSED = {
    "track": options.option(int, "--track", "N", "Number of the face (the one seen longest).", min=0),
    "at": options.option(float, "--at", "S", "Look around this second (everything).", min=0),
    "in_words": options.option(bool, "--words", None, "A model answers in words, not yes or no."),
}


# Nothing is described besides: who answers is loaded for the question.
@options.takes(
    *("captioner", "model", "detector", "device", "captions__precision", "threads"),
    also={"captions__device": "device"},
    passed=_PASSED,
    captions="off",
)
def ask(
    session: Session,
    path: Annotated[str, typer.Argument(metavar="PATH", hidden=True)],
    question: Annotated[str, typer.Argument(metavar="QUESTION", hidden=True)],
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
    **passed: Any,
) -> None:
    """Ask about a face of a video or picture.

    QUESTION may be: "When is the smile strongest?" Answers come from what was measured, with times: which expression,
    what the face does, when, how strongly, in which order, how many people. --captioner names a model instead.
    """
    with session:
        answer = session.ask(path, question, **passed)
    if as_json:
        typer.echo(json.dumps(asdict(answer)))
    else:
        _say(answer)


def _say(answer: Answer) -> None:
    shown = answer.text if answer.probability is None else f"{answer.text}  (yes {answer.probability:.0%})"
    typer.echo(shown or "(the model wrote nothing)")
    moments = ", ".join(f"{moment:.1f}" for moment in answer.keyframes)
    others = [str(number) for number in answer.tracks if number != answer.track]
    words = [f"{answer.model.name}: track {answer.track}" + (f", seen at {moments} s" if moments else "")]
    words += [f"the model's own answer was replaced: it {answer.replaced}"] if answer.replaced else []
    words += [f"--track asks about another: {', '.join(others)}"] if others else []
    words += [f"licence: {answer.model.licence}"]
    note("; ".join(words))
