"""Options that several commands share, and how they become a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from streamfer.faces.registry import entries

if TYPE_CHECKING:
    from streamfer.api import Session
    from streamfer.config import Config

_DETECTORS = ", ".join(entry.name for entry in entries() if not entry.pack)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="YAML file, such as configs/run.yaml.")
]
Model = Annotated[
    str | None, typer.Option("--model", "-m", metavar="NAME", help="Expression model: a name or a file (mini).")
]
Detector = Annotated[
    str | None,
    typer.Option("--detector", metavar="NAME", help=f"{_DETECTORS}, an insightface pack, or an .onnx file (auto)."),
]
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda or cuda:1 (auto).")]
Precision = Annotated[str | None, typer.Option("--precision", metavar="NAME", help="fp32, bf16 or fp16 (auto).")]
Fps = Annotated[float | None, typer.Option("--fps", metavar="N", help="Frames analysed a second (8).")]
Seconds = Annotated[float | None, typer.Option("--clip-seconds", metavar="S", help="Length of a clip (2).")]
Stride = Annotated[float | None, typer.Option("--stride", metavar="S", help="Seconds between clips' starts (1).")]
Threads = Annotated[int | None, typer.Option("--threads", metavar="N", help="Cores for everything together (all).")]
RedisUrl = Annotated[
    str | None, typer.Option("--redis", metavar="URL", help="redis://, rediss:// or unix://; embedded if not given.")
]
Captions = Annotated[
    Literal["off", "changes", "all"] | None,
    typer.Option("--captions", help="Describe no clip, what changes (and every 10 s), or all."),
]
Captioner = Annotated[
    str | None,
    typer.Option(
        "--captioner", metavar="WHO", help="Who describes: measured, openai:MODEL, a name or a folder (measured)."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any setting, e.g. clip.max_gap=0.5; repeatable."),
]


def configure(path: Path | None, flags: dict[str, Any], assignments: list[str] | None = None) -> Config:
    """Merge file, environment and flags, and hold every library to the thread budget.

    Must run before torch and its like are imported: their pools read the environment when they load.

    Args:
        path: YAML file, or None.
        flags: short or dotted names of settings to values; None for those not given.
        assignments: ``name=value`` words.

    Raises:
        ConfigError: a setting is unknown, malformed or out of range.
    """
    from streamfer.config import SHORT_NAMES, load_config
    from streamfer.settings import read_pairs
    from streamfer.threads import apply_environment, plan_threads

    given = {SHORT_NAMES.get(name, name): value for name, value in flags.items() if value is not None}
    config = load_config(path, {**read_pairs(assignments or []), **given})
    apply_environment(plan_threads(config.threads))
    return config


def open_session(
    path: Path | None, flags: dict[str, Any], assignments: list[str] | None = None, *, salt: str | None = None
) -> Session:
    """Return a session with the settings of :func:`configure`; nothing is loaded yet."""
    config = configure(path, flags, assignments)
    from streamfer.api import Session

    return Session(config, salt=salt)
