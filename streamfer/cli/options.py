"""Options that several commands share, and how they become the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from streamfer.config import Config, load_config
from streamfer.errors import ConfigError
from streamfer.settings import read_pairs
from streamfer.threads import apply_environment, plan_threads

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file, such as configs/run.yaml.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="Expression model: a name or a weights file.")]
Detector = Annotated[
    str | None,
    typer.Option("--detector", help="Face detector: auto, lbp, yunet, an insightface pack, or an .onnx file."),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1; fails when absent.")]
Precision = Annotated[str | None, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")]
Fps = Annotated[float | None, typer.Option("--fps", help="Frames analysed a second (8).")]
Seconds = Annotated[float | None, typer.Option("--clip-seconds", help="Length of a clip in seconds (2).")]
Stride = Annotated[float | None, typer.Option("--stride", help="Seconds between the starts of clips (1).")]
Threads = Annotated[int | None, typer.Option("--threads", help="Cores for everything together (all).")]
RedisUrl = Annotated[
    str | None,
    typer.Option("--redis", help="redis://, rediss:// or unix:// URL; an embedded server when not given."),
]
Captions = Annotated[
    str | None,
    typer.Option(
        "--captions",
        help="Also describe clips in words: 'changes' (new faces, changed labels, every 10 s), 'all', or a captioner.",
    ),
]
Captioner = Annotated[
    str | None,
    typer.Option("--captioner", help="Who describes: a name from 'streamfer models list', a folder, or org/name."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting by its dotted name, e.g. --set clip.max_gap=0.5; repeatable."),
]


def configure(path: Path | None, flags: dict[str, Any], assignments: list[str] | None = None) -> Config:
    """Merge file, environment and flags, and hold every library to the thread budget.

    Must run before torch and its like are imported: their pools read the environment when they load.

    Raises:
        ConfigError: a setting is unknown, malformed or out of range.
    """
    overrides = {**read_pairs(assignments or []), **{name: v for name, v in flags.items() if v is not None}}
    config = load_config(path, overrides)
    apply_environment(plan_threads(config.threads))
    return config


def caption_flags(captions: str | None, captioner: str | None) -> dict[str, Any]:
    """Return the settings that ``--captions`` and ``--captioner`` stand for.

    Raises:
        ConfigError: two captioners are named.
    """
    if captions in ("changes", "all"):
        return {"captions.when": captions, "captions.model": captioner or "auto"}
    if captions and captioner and captions != captioner:
        raise ConfigError(f"--captions {captions} and --captioner {captioner} name two captioners; choose one")
    return {"captions.model": captioner or captions}
