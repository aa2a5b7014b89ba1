"""The one validated configuration: a YAML file, then the environment, then flags or arguments; the later one wins.

Every section is a frozen model with its own limits; unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from streamfer.arguments import Section, check_settings, refusal
from streamfer.errors import ConfigError
from streamfer.settings import put, read_settings, read_value

ENVIRONMENT_PREFIX = "STREAMFER_"
EXAMPLE = "configs/run.yaml"
#: What is set most has a short name: the same as a flag of the command line and as an argument in Python.
SHORT_NAMES = {
    "model": "model.name",
    "device": "model.device",
    "precision": "model.precision",
    "detector": "faces.detector",
    "fps": "sampling.fps",
    "clip_seconds": "clip.seconds",
    "stride": "clip.stride",
    "captions": "captions.when",
    "captioner": "captions.model",
    "redis": "publish.redis",
    "health": "health.address",
}


class SamplingConfig(Section):
    """Which frames are analysed."""

    fps: float = Field(8.0, gt=0, le=120, description="analysed frames a second")


class ClipConfig(Section):
    """How analysed frames become clips."""

    mode: Literal["window", "whole"] = Field(
        "window", description="sliding windows, or one clip a file sampled at segment centres (DFER-CLIP)"
    )
    seconds: float = Field(2.0, gt=0, le=60, description="length of a window")
    stride: float = Field(1.0, gt=0, le=60, description="seconds between the starts of windows")
    max_gap: float = Field(
        1.0, ge=0, le=30, description="seconds of a track that repeat-last may bridge inside a window"
    )
    min_real: float = Field(0.5, gt=0, le=1, description="least share of a window's samples that must show the face")


class FacesConfig(Section):
    """Detection and tracking."""

    detector: str = Field("auto", description="auto, one of 'streamfer models list', an insightface pack, or an .onnx")
    provider: str = Field("auto", description="ONNX Runtime execution provider; fails when absent")
    threshold: float | None = Field(None, gt=0, lt=1, description="least score; the detector's own if unset")
    det_size: int | None = Field(None, ge=64, le=4096, description="longer side the detector sees, pixels")
    max_faces: int = Field(64, ge=1, le=1024, description="faces kept a frame, highest scores first")
    detect_every: int = Field(1, ge=1, le=30, description="detect on every k-th analysed frame, predict between")
    search: Literal["full", "follow"] = Field(
        "follow", description="every frame whole, or where tracks lead to and, every half second, what has changed"
    )
    appearance: str = Field(
        "colour", description="what tells people apart: colour, none, or an insightface pack for its ArcFace"
    )
    min_size: int = Field(20, ge=1, le=4096, description="least side of a face, pixels of the frame")
    min_quality: float = Field(0.0, ge=0, le=1, description="least crop quality that is analysed")


class ModelConfig(Section):
    """The expression model and where it runs."""

    name: str = Field("mini", description="registered model or a path to a weights file")
    emotions: bool = Field(
        True, description="name expressions; if not, action units and measured words are all there is"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    decode: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="what decodes H.264 and HEVC; auto: the model's GPU for live sources, the CPU for files"
    )
    attention: Literal["auto", "torch", "triton"] = Field(
        "auto",
        description="attention of the encoder and the temporal transformer; auto takes what is known to be faster",
    )
    batch_size: int = Field(32, ge=1, le=4096, description="most crops encoded at once, across all sources")
    batch_wait: float = Field(
        0.02, ge=0, le=5, description="seconds a crop may wait for company (live; longer where the model is busy)"
    )


class CaptionsConfig(Section):
    """Descriptions of clips in words, beside their labels."""

    when: Literal["off", "changes", "all"] = Field(
        "off", description="no clip; new tracks, changed labels and every interval; every clip"
    )
    model: str = Field(
        "auto", description="captioner: auto or measured (built in), openai:MODEL, a name, a folder, org/name"
    )
    interval: float = Field(10.0, gt=0, le=86_400, description="seconds after which nothing new is described again")
    keyframes: int = Field(2, ge=1, le=3, description="pictures of a clip: apex, onset before it, offset after it")
    max_faces: int = Field(8, ge=1, le=1024, description="faces of a frame that may be described, the largest first")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    batch_size: int = Field(8, ge=1, le=256, description="most clips described at once")
    queue: int = Field(32, ge=1, le=4096, description="most clips that wait; live, the oldest makes room")
    max_age: float = Field(10.0, gt=0, le=3600, description="seconds a clip may wait before it is dropped (live only)")
    timeout: float = Field(120.0, gt=0, le=3600, description="seconds the captioner may take for a batch")
    threads: int | None = Field(None, ge=1, le=1024, description="cores of the captioner; a quarter of all if unset")
    language: str = Field("en", pattern=r"^[\w -]{2,40}$", description="of the captions; an endpoint writes any")
    # What follows is for endpoints (openai:MODEL) and, the prompts, for local language models.
    url: str | None = Field(None, description="OpenAI-compatible address, as http://localhost:11434/v1")
    key_env: str | None = Field(None, description="environment variable with the key; STREAMFER_LLM_API_KEY if unset")
    images: Literal["crops", "surroundings", "none"] = Field(
        "crops", description="what is sent beside the measurements: faces, faces with what is around them, nothing"
    )
    prompt: str | None = Field(None, description="what is asked, with {label}, {units}, {measured} and the like")
    prompts: Mapping[str, str] = Field(default_factory=dict, description="the same, by source id")
    concurrency: int = Field(2, ge=1, le=64, description="requests under way at a time")
    attempts: int = Field(3, ge=1, le=10, description="tries of a request while the endpoint is busy")
    max_tokens: int = Field(200, ge=16, le=8192, description="longest answer")
    temperature: float = Field(0.3, ge=0, le=2)
    thinking: bool = Field(False, description="let the model think first; costs tokens")
    per_hour: int | None = Field(None, ge=1, description="most requests an hour; measured words beyond")
    tokens_per_day: int | None = Field(None, ge=1, description="token budget; measured words beyond")
    price: tuple[float, float] | None = Field(None, description="of a million tokens: prompt, answer")
    debug: Path | None = Field(None, description="folder for prompts, pictures and answers")

    @model_validator(mode="before")
    @classmethod
    def _a_captioner_is_named_to_be_used(cls, section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        # In YAML, a bare off is a truth value.
        when = "off" if section.get("when") is False else section.get("when")
        if when is None and section.get("model") is not None:
            when = "changes"
        return section if when is None else {**section, "when": when}


Transport = Literal["tcp", "udp", "auto"]


class LiveConfig(Section):
    """Live sources: how long to wait, and how to come back."""

    transport: Transport = Field("tcp", description="RTSP transport; auto tries both by turns until one gives pictures")
    wait: bool = Field(True, description="keep trying a source for ever, whatever is wrong with it at the start")
    open_timeout: float = Field(10.0, gt=0, le=300, description="seconds to connect")
    stall_timeout: float = Field(
        10.0, gt=0, le=600, description="seconds without a frame before reconnecting; of slow cameras, five frames"
    )
    backoff_first: float = Field(0.5, gt=0, le=60, description="seconds before the first retry")
    backoff_cap: float = Field(30.0, gt=0, le=3600, description="most seconds between retries")
    queue_frames: int = Field(8, ge=1, le=256, description="frames kept for a slow consumer; the oldest is dropped")
    staleness: float = Field(
        1.0, gt=0, le=60, description="age that labels shall keep, seconds; frames that would be too late are dropped"
    )

    @model_validator(mode="after")
    def _waits_grow(self) -> LiveConfig:
        if self.backoff_cap < self.backoff_first:
            raise ValueError(
                f"backoff_first ({self.backoff_first} s) is more than backoff_cap ({self.backoff_cap} s): "
                "lower the first or raise the cap"
            )
        return self


class PublishConfig(Section):
    """Where records go."""

    redis: str | None = Field(
        None,
        description="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// URL; embedded server if unset",
    )
    site: str = Field("local", min_length=1, max_length=64, description="ce_source is /streamfer/<site>")
    prefix: str = Field("streamfer", min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    partitions: int = Field(1, ge=1, le=1024)
    maxlen: int = Field(100_000, ge=100, description="entries kept a stream (approximately)")
    frames: int = Field(0, ge=0, description="seconds of every frame's faces kept in a stream of their own; 0: none")
    preview: Literal["off", "blurred", "plain"] = Field(
        "off", description="pictures of a run's sources, made while somebody asks: with faces blurred, or as they are"
    )
    dedup_seconds: int = Field(86_400, ge=1, description="how long a record's id suppresses its duplicates")
    spool: Path | None = Field(None, description="folder for what Redis does not take yet; the user's own if unset")
    spool_mb: int = Field(512, ge=1, description="most that waits there; then the oldest makes room, and a gap says so")
    resend_seconds: float = Field(
        5.0, ge=0, le=300, description="what was acknowledged so lately is sent again when another server answers"
    )

    @field_validator("preview", mode="before")
    @classmethod
    def _off_is_a_word(cls, preview: Any) -> Any:
        # In YAML, a bare off is a truth value.
        return "off" if preview is False else preview


class ShutdownConfig(Section):
    """The end of a run."""

    seconds: float = Field(10.0, ge=0, le=600, description="to publish what waits after SIGTERM; the rest is spooled")


class HealthConfig(Section):
    """What a run answers over HTTP: ``/livez``, ``/readyz``, ``/metrics`` and, to who has the token, ``/v1/sources``.

    ``token`` may be ``${NAME}``, ``${file:PATH}`` or ``${keyring:SERVICE:USER}``.
    """

    address: str | None = Field(
        None, description="[HOST:]PORT; this machine alone without a host", coerce_numbers_to_str=True
    )
    token: str | None = Field(None, repr=False, description="lets its bearer add, change and remove sources")
    traces: str | None = Field(None, description="OTLP/HTTP collector of OpenTelemetry, as http://localhost:4318")


class ServeConfig(Section):
    """The live page of ``streamfer serve``; tokens as ``health.token``."""

    address: str = Field(
        "8080", description="[HOST:]PORT; this machine alone without a host", coerce_numbers_to_str=True
    )
    token: str | None = Field(None, repr=False, description="who looks must give it; needed where others may look")
    control: str | None = Field(None, description="URL of a run's health.address, whose sources the page may change")
    control_token: str | None = Field(None, repr=False, description="that run's health.token; no page sees it")


class BridgeConfig(Section):
    """Where ``streamfer bridge`` takes records up, and how it hands them on; ``secret`` as ``health.token``."""

    streams: tuple[str, ...] = Field(("clips", "captions", "sources"), description="which records: also frames")
    since: str = Field("new", description="where a bridge that is new begins: new, start, 10m, a time, an entry's id")
    group: str | None = Field(None, min_length=1, description="consumer group; made of the address if unset")
    consumer: str | None = Field(None, min_length=1, description="name within the group; the host's name if unset")
    retry: float = Field(60.0, gt=0, le=3600, description="most seconds between tries; at once where access is denied")
    ca: Path | None = Field(None, description="certificate of who signed the destination's; the system's if unset")
    topic: str = Field("streamfer", pattern=r"^[^+#/\s$][^+#\x00]*$", description="MQTT: what its topics begin with")
    discovery: str | None = Field(
        "homeassistant", pattern=r"^[^+#/\s$][^+#\x00]*$", description="MQTT: where Home Assistant looks; null: nowhere"
    )
    secret: str | None = Field(None, repr=False, description="webhook: signs each request; whsec_... or any text")
    batch: int = Field(100, ge=1, le=10_000, description="webhook: most records a request")
    seconds: float = Field(1.0, ge=0, le=300, description="webhook: how long a record waits for company")


class SourceConfig(Section):
    """One source of ``streamfer run``; what is unset is as in ``live``.

    ``url``, ``user`` and ``password`` may hold ``${NAME}``, ``${file:PATH}`` and ``${keyring:SERVICE:USER}``.
    """

    url: str = Field(min_length=1)
    id: str | None = Field(None, min_length=1, max_length=128, pattern=r"^[^\s/:@][^\s:@]*$")
    user: str | None = None
    password: str | None = Field(None, repr=False, coerce_numbers_to_str=True)
    transport: Transport | None = None
    open_timeout: float | None = Field(None, gt=0, le=300)
    stall_timeout: float | None = Field(None, gt=0, le=600)
    paused: bool = Field(False, description="known, and not opened")


class Config(Section):
    """Everything that can be set; ConfigError where a setting is unknown or out of range."""

    sources: tuple[SourceConfig, ...] = ()
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    clip: ClipConfig = Field(default_factory=ClipConfig)
    faces: FacesConfig = Field(default_factory=FacesConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    captions: CaptionsConfig = Field(default_factory=CaptionsConfig)
    live: LiveConfig = Field(default_factory=LiveConfig)
    publish: PublishConfig = Field(default_factory=PublishConfig)
    shutdown: ShutdownConfig = Field(default_factory=ShutdownConfig)
    health: HealthConfig = Field(default_factory=HealthConfig)
    serve: ServeConfig = Field(default_factory=ServeConfig)
    bridge: BridgeConfig = Field(default_factory=BridgeConfig)
    threads: int | None = Field(None, ge=1, le=1024, description="cores for the whole process tree; all if unset")
    purpose: str | None = Field(
        None, min_length=1, max_length=200, description="what the analysis is for; stands in every record and manifest"
    )

    if not TYPE_CHECKING:

        def __init__(self, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise refusal(type(self), error) from None

    @model_validator(mode="after")
    def _windows_advance(self) -> Config:
        if self.clip.stride > self.clip.seconds:
            raise ValueError(
                f"clip.stride ({self.clip.stride} s) is longer than clip.seconds ({self.clip.seconds} s): "
                "video between windows would never be analysed; lower the stride"
            )
        if self.clip.stride * self.sampling.fps < 1:
            raise ValueError(
                f"clip.stride ({self.clip.stride} s) is shorter than one analysed frame at "
                f"{self.sampling.fps} fps; raise the stride or sampling.fps"
            )
        if self.clip.seconds * self.sampling.fps < 1:
            raise ValueError(f"clip.seconds ({self.clip.seconds} s) holds no analysed frame at {self.sampling.fps} fps")
        return self


def load_config(
    path: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Read the configuration.

    Args:
        path: YAML file, or None for the defaults.
        overrides: dotted names to values, e.g. ``{"clip.stride": 0.5}``; None values are skipped.
        environment: defaults to ``os.environ``; ``STREAMFER_CLIP__STRIDE=0.5`` sets ``clip.stride``.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, or a value out of range.
    """
    tree = read_settings(Path(path), EXAMPLE) if path is not None else {}
    for name, text in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            put(tree, name[len(ENVIRONMENT_PREFIX) :].lower().replace("__", "."), read_value(name, text))
    for dotted, value in (overrides or {}).items():
        if value is not None:
            put(tree, dotted, value)
    return check_settings(Config, tree, os.fspath(path) if path else "")


def configure(config: Config | str | os.PathLike[str] | None = None, **settings: Any) -> Config:
    """Return a configuration with some settings changed, each by its name.

    Args:
        config: a configuration, a YAML file, or None: the defaults and the environment.
        settings: short names (:data:`SHORT_NAMES`) or ``section__name``: ``model="dfew"``, ``clip__stride=0.5``.
            None leaves a setting as it is.

    Raises:
        ConfigError: no such setting, or a value out of range.

    >>> configure(Config(), fps=4, clip__stride=0.5).clip.stride
    0.5
    """
    changes = {
        full_name(name): os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in settings.items()
        if value is not None
    }
    given: Any = config
    if not isinstance(given, Config | str | os.PathLike | None):
        known = "expected a Config or a YAML file; settings go by their names, as clip__stride=0.5"
        raise ConfigError(f"config: a {type(given).__name__}; {known}")
    if isinstance(given, str) and not (given and (Path(given).suffix or Path(given).exists())):
        raise ConfigError(f"config {given!r}: no such file; settings go by their names, as model={given!r}")
    if not isinstance(config, Config):
        return load_config(config, changes)
    # What was never set stays unset, so that a captioner that is named now turns captions on.
    tree = config.model_dump(exclude_unset=True)
    for dotted, value in changes.items():
        put(tree, dotted, value)
    return check_settings(Config, tree) if changes else config


def full_name(name: str) -> str:
    """Return the dotted name of a setting that was written as a flag or argument.

    Raises:
        ConfigError: there is no such setting.
    """
    known = setting_names()
    dotted = SHORT_NAMES.get(name, name.replace("__", "."))
    if dotted not in known:
        written = {found.replace(".", "__"): found for found in known} | SHORT_NAMES
        close = difflib.get_close_matches(name, written, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(SHORT_NAMES))}, section__name"
        raise ConfigError(f"{name}: unknown setting; {hint}")
    return dotted


def setting_names() -> tuple[str, ...]:
    """Return the dotted names of all settings, and the names of the sections themselves."""
    names: list[str] = []
    for name, field in Config.model_fields.items():
        names.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += [f"{name}.{inner}" for inner in field.annotation.model_fields]
    return tuple(names)
