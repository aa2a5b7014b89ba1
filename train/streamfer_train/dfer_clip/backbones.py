"""The towers a recipe starts from: their sizes, and their weights from open_clip, a file, or an installed model.

Tensors keep the names of streamfer's architecture: ``image_encoder.*``, ``text_encoder.*``, ``temporal_net.*``,
``prompt_learner.ctx``, ``text_features`` and the table ``token_embedding.weight``.
"""

from __future__ import annotations

import json
import logging
import socket
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from streamfer.errors import ConfigError, UnknownModelError
from streamfer.geometry import CropProfile, squashed_crop
from streamfer.models.card import SUFFIX, PixelProfile, read_card
from streamfer.models.checkpoints import read_state_dict
from streamfer.models.registry import find_model, list_models
from streamfer.models.sizes import TemporalConfig, TextConfig, VisionConfig
from streamfer.models.torchscript import is_torchscript
from streamfer.models.weights import read_weights
from streamfer_train.dfer_clip.config import BackboneConfig, RunConfig

log = logging.getLogger(__name__)

CUSTOM = "custom"
RANDOM = "random"
TOKEN_TABLE = "token_embedding.weight"  # noqa: S105 - a tensor's name
_VOCABULARY = 49408
#: A copy of CLIP in the authors' checkpoints; its token table is the only part that stands nowhere else.
_COPY = "clip_model_."
#: Of the prompts' tensors all others follow from their texts.
_CONTEXT = "prompt_learner.ctx"
_TEXT = ("transformer.", "ln_final.", "positional_embedding", "text_projection")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Everything that fixes the shapes of a model but its classes, and how its pictures are prepared."""

    embed_dim: int
    vision: VisionConfig
    text: TextConfig
    temporal: TemporalConfig
    quick_gelu: bool
    pixels: PixelProfile
    crop: CropProfile


@dataclass(frozen=True, slots=True)
class Backbone:
    """Sizes, the weights to start from (none of them where they are drawn), and where they come from."""

    sizes: Sizes
    tensors: dict[str, torch.Tensor]  #: float32, on the CPU; tensors that are not in it keep their random start
    classes: tuple[str, ...]  #: names that the rows of ``text_features`` belong to, where there are any
    source: str


def read_backbone(config: RunConfig) -> Backbone:
    """Return the towers that a configuration asks for.

    Raises:
        ConfigError: no such architecture or tag, weights that cannot be had or do not fit, or sizes that
            contradict ``data``.
        CheckpointError: a file that is damaged or foreign.
    """
    asked = config.backbone
    installed = _installed(asked.weights)
    if installed is not None:
        return _from_streamfer(config, installed)
    name, quick_gelu = asked.name, asked.quick_gelu
    tensors: dict[str, torch.Tensor] = {}
    if asked.weights != RANDOM:
        path, of_source = _weights_file(asked)
        tensors = _renamed(read_state_dict(path), path)
        if quick_gelu is None:
            quick_gelu = _activation(path, tensors) if of_source is None else of_source
    sizes = _sizes(config, True if quick_gelu is None else quick_gelu)
    if tensors and name != CUSTOM:
        tensors = _resized(tensors, sizes)
    return Backbone(sizes, tensors, (), f"{name}:{asked.weights}")


def _installed(weights: str) -> Path | None:
    """Return the weights file of streamfer that ``weights`` names, if it does."""
    if any(weights == entry.name for entry in list_models()):
        return find_model(weights)
    path = Path(weights)
    if path.suffix == SUFFIX and path.is_file():
        from safetensors import safe_open

        with safe_open(path, framework="pt") as stream:
            return path if "streamfer" in (stream.metadata() or {}) else None
    return None


def at_models_size(config: RunConfig) -> RunConfig:
    """Return the configuration with pictures as large as an installed backbone reads them, where none was asked for."""
    installed = _installed(config.backbone.weights)
    if installed is None or "size" in config.data.model_fields_set:
        return config
    data = config.data.model_copy(update={"size": read_card(installed).pixels.size})
    return config.model_copy(update={"data": data})


def _from_streamfer(config: RunConfig, path: Path) -> Backbone:
    """Take over an installed model: towers, temporal transformer and preprocessing; only its texts are gone."""
    if config.heads.kind == "text":
        raise ConfigError(
            f"backbone.weights: {config.backbone.weights} has no text tower (weights files keep only its result); "
            "set heads.kind: cosine, which starts from its class features"
        )
    model, card = read_weights(path)
    size, own = config.data.size, card.pixels.size
    sizes = Sizes(
        embed_dim=card.config.embed_dim,
        vision=replace(card.config.vision, image_size=size),
        text=TextConfig(),
        temporal=card.config.temporal,
        quick_gelu=card.config.quick_gelu,
        pixels=replace(card.pixels, size=size),
        crop=replace(
            card.crop, size=size, landmarks=tuple((x * size / own, y * size / own) for x, y in card.crop.landmarks)
        ),
    )
    log.info("dfer_clip.backbone", extra={"source": path.name, "licence": card.licence, "temporal": "taken over"})
    return Backbone(sizes, _resized(dict(model.state_dict()), sizes), card.config.classes, path.name)


def _weights_file(asked: BackboneConfig) -> tuple[Path, bool | None]:
    """Return the file of weights and the activation that its tag is known to have been trained with."""
    import open_clip

    path = Path(asked.weights)
    if path.suffix or path.exists():
        if not path.is_file():
            raise ConfigError(f"backbone.weights: {path}: no such file; give a file, a tag of open_clip, or random")
        return path, None
    if asked.name == CUSTOM:
        raise ConfigError(f"backbone.weights is {asked.weights!r}; custom towers start from a file or from random")
    model = asked.name.removesuffix("-quickgelu")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not tags:
        raise UnknownModelError(f"backbone.name {asked.name!r}: no such CLIP; ViT-B-32, ViT-B-16, ViT-L-14, custom")
    if asked.weights not in tags:
        raise ConfigError(
            f"backbone.weights {asked.weights!r}: neither a file, an installed model nor a tag of {model}; "
            f"its tags: {', '.join(tags)}"
        )
    known = open_clip.get_pretrained_cfg(model, asked.weights)
    try:
        found = _fetched(known)
    except Exception as error:  # httpx, huggingface_hub and urllib have no common ancestor
        where = f"huggingface.co/{known['hf_hub'].strip('/')}" if known.get("hf_hub") else known.get("url")
        raise ConfigError(
            f"backbone.weights: {asked.weights!r} of {model} cannot be downloaded ({type(error).__name__}); fetch "
            f"open_clip_model.safetensors with open_clip_config.json from {where} where there is a network, or "
            "OpenAI's own archive, and give that file, or random"
        ) from error
    return Path(found), bool(known.get("quick_gelu", False))


def _fetched(known: dict[str, Any]) -> str:
    """Return a tag's file: from the cache, or downloaded; a dead network is noticed at once, not after ten tries."""
    import open_clip
    from huggingface_hub import constants, try_to_load_from_cache

    repository = known.get("hf_hub", "").strip("/")
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin") if repository else ():
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return cached
    if not urllib.request.getproxies():
        place = urlsplit(constants.ENDPOINT if repository else known["url"])
        socket.create_connection((place.hostname or "", place.port or 443), timeout=10).close()
    return str(open_clip.download_pretrained(known))


def _activation(path: Path, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Return whether a file's towers have OpenAI's QuickGELU, as its source says; weights do not show it."""
    # OpenAI's archives, and DFER-CLIP's authors, who start from one.
    if is_torchscript(path) or any(name.startswith("temporal_net.") for name in tensors):
        return True
    beside = path.with_name("open_clip_config.json")
    if beside.is_file():
        try:
            known = json.loads(beside.read_text(encoding="utf-8"))
            return bool(known.get("model_cfg", known).get("quick_gelu", False))
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(f"backbone.weights: {beside}: cannot be read as open_clip's configuration") from error
    raise ConfigError(
        f"backbone.weights: {path} does not say which activation its towers have; set backbone.quick_gelu: true "
        "(OpenAI's weights) or false (LAION's and OpenCLIP's), or put open_clip_config.json beside it"
    )


def _renamed(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Name the tensors of CLIP, or of an authors' checkpoint, as streamfer does."""
    if "image_encoder.conv1.weight" in tensors:
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_COPY)}
        table = tensors.get(f"{_COPY}{TOKEN_TABLE}")
        extra = {} if table is None else {TOKEN_TABLE: table}
        return {
            name: tensor.float()
            for name, tensor in {**kept, **extra}.items()
            if name == _CONTEXT or not name.startswith("prompt_learner.")
        }
    renamed = {}
    for name, tensor in tensors.items():
        inner = name.removeprefix("text.")
        if inner.startswith("visual."):
            renamed[f"image_encoder.{inner.removeprefix('visual.')}"] = tensor.float()
        elif inner == TOKEN_TABLE:
            renamed[inner] = tensor.float()
        elif inner.startswith(_TEXT):
            renamed[f"text_encoder.{inner}"] = tensor.float()
    if not any(name.startswith("image_encoder.") for name in renamed):
        raise ConfigError(f"backbone.weights: {path}: holds no image encoder of CLIP; is it a CLIP checkpoint?")
    return renamed


def _sizes(config: RunConfig, quick_gelu: bool) -> Sizes:
    embed_dim, vision, text = _custom(config) if config.backbone.name == CUSTOM else _published(config)
    asked = config.temporal
    temporal = TemporalConfig(**asked.model_dump(exclude={"positions"}), frames=asked.positions or config.data.frames)
    size = config.data.size
    # The authors feed pixels in [0, 1] without CLIP's mean and deviation; so do we, whatever the towers.
    return Sizes(embed_dim, vision, text, temporal, quick_gelu, PixelProfile(size=size), squashed_crop(size))


def _custom(config: RunConfig) -> tuple[int, VisionConfig, TextConfig]:
    asked = config.backbone.custom
    sizes = asked.model_dump(include={"layers", "width", "head_width", "mlp_ratio"})
    vision = VisionConfig(**sizes, patch_size=asked.patch, image_size=config.data.size)
    return asked.embed_dim, vision, TextConfig(asked.text_layers, asked.text_width, asked.text_heads)


def _published(config: RunConfig) -> tuple[int, VisionConfig, TextConfig]:
    import open_clip

    name = config.backbone.name
    known = open_clip.get_model_config(name)
    if known is None or "timm_model_name" in known["vision_cfg"] or "hf_model_name" in known["text_cfg"]:
        raise UnknownModelError(f"backbone.name {name!r}: no CLIP ViT or ResNet; ViT-B-32, ViT-B-16, ViT-L-14, custom")
    image, words = known["vision_cfg"], known["text_cfg"]
    layers = image["layers"]
    sizes = {field.name: image[field.name] for field in fields(VisionConfig) if field.name in image}
    vision = VisionConfig(**{**sizes, "layers": tuple(layers) if isinstance(layers, list) else layers})
    text = TextConfig(**{field.name: words[field.name] for field in fields(TextConfig) if field.name in words})
    return known["embed_dim"], replace(vision, image_size=config.data.size), text


def _resized(tensors: dict[str, torch.Tensor], sizes: Sizes) -> dict[str, torch.Tensor]:
    """Interpolate a ViT's positions where pictures are larger or smaller than those it was trained on."""
    name = "image_encoder.positional_embedding"
    if sizes.vision.is_resnet or name not in tensors:
        return tensors
    from timm.layers.pos_embed import resample_abs_pos_embed

    side = sizes.vision.image_size // sizes.vision.patch_size
    return {**tensors, name: resample_abs_pos_embed(tensors[name][None], [side, side])[0]}


def random_table(width: int, seed: int) -> torch.Tensor:
    """Return random word vectors (V, W): frozen, they tell texts apart where no pretrained ones exist."""
    generator = torch.Generator().manual_seed(seed)
    return 0.02 * torch.randn(_VOCABULARY, width, generator=generator)
