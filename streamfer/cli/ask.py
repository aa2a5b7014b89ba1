"""``streamfer ask``: a question about a face."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from streamfer.captions.protocol import check_questions
from streamfer.cli import options
from streamfer.cli.terminal import note, out

if TYPE_CHECKING:
    from streamfer.captions.asking import Answer


def ask(
    path: Annotated[str, typer.Argument(help="A video or picture, or an http(s) URL.")],
    question: Annotated[str, typer.Argument(help="For example: 'Is the inner brow raised?'")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Captioner: a name from 'streamfer models list', a folder, or org/name."),
    ] = None,
    track: Annotated[
        int | None, typer.Option("--track", min=0, help="Number of the face; the one seen longest if not given.")
    ] = None,
    at: Annotated[
        float | None, typer.Option("--at", min=0, help="Look around this second; at the strongest expression if not.")
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="Answer in words even where yes or no would do.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
    config_file: options.ConfigFile = None,
    expression_model: Annotated[
        str | None, typer.Option("--expression-model", help="Expression model that finds the keyframes.")
    ] = None,
    detector: options.Detector = None,
    device: options.Device = None,
    precision: options.Precision = None,
    threads: options.Threads = None,
    assignments: options.Set = None,
) -> None:
    """Ask a captioner about a face of a video or picture.

    The face is found and tracked, and the model sees the pictures of its strongest expression. A question that
    begins with is, are, does, has and the like is answered with the probability of yes.
    """
    check_questions([question], 1)
    config = options.configure(
        config_file,
        {
            "model.name": expression_model,
            "faces.detector": detector,
            "model.device": device,
            "captions.device": device,
            "captions.precision": precision,
            "threads": threads,
        },
        assignments,
    )
    from streamfer.captions.clips import choose_captioner
    from streamfer.video import find_sources

    # What is wrong with a name is said before the seconds that the models take to load.
    name = choose_captioner(model or config.captions.model)
    find_sources([path])

    from streamfer.build import load_models
    from streamfer.captions import load_captioner
    from streamfer.captions.asking import ask as ask_about
    from streamfer.captions.asking import check_question

    captioner = load_captioner(
        name, device=config.captions.device, precision=config.captions.precision, attention=config.model.attention
    )
    check_question(question, captioner.info)
    here = config.model_copy(update={"captions": config.captions.model_copy(update={"model": None})})
    models = load_models(here)
    answer = ask_about(
        path, question, captioner=captioner, models=models, config=here, track=track, at=at, in_words=words
    )
    if as_json:
        typer.echo(json.dumps(asdict(answer)))
    else:
        _say(answer)


def _say(answer: Answer) -> None:
    shown = answer.text if answer.probability is None else f"{answer.text}  (yes {answer.probability:.0%})"
    out.print(shown or "(the model wrote nothing)", soft_wrap=True, markup=False)
    moments = ", ".join(f"{moment:.1f}" for moment in answer.keyframes)
    others = [str(number) for number in answer.tracks if number != answer.track]
    words = [f"{answer.model.name} saw track {answer.track} at {moments} s"]
    words += [f"--track asks about another: {', '.join(others)}"] if others else []
    words += [f"licence: {answer.model.licence}"]
    note("; ".join(words))
