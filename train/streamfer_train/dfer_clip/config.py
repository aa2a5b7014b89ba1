"""The configuration of `streamfer train dfer-clip`: defaults are the authors' scripts, options go beyond them.

Source of the defaults: train_DFEW.sh, train_FERV39K.sh and train_MAFW.sh of DFER-CLIP, which differ only in their
data, and the constants of its main.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from streamfer.arguments import Section, check_settings
from streamfer.settings import load_settings
from streamfer_train.dfer_clip.data_config import DataConfig
from streamfer_train.dfer_clip.descriptors import TextType, prompts, read_descriptors, text_digest
from streamfer_train.dfer_clip.protocols import Selection
from streamfer_train.recipes import sections
from streamfer_train.recipes.sections import LogConfig, Seed, StepsConfig

EXAMPLE = "configs/train/dfer_clip/csv.yaml"
_LISTING = "'streamfer train dfer-clip --settings' lists them all"
#: Sections and settings that may change between an interrupted run and its continuation.
MAY_CHANGE = (
    "run", "log", "seeds", "data.workers", "data.prefetch", "data.root", "data.face_crops.cache", "optimiser.epochs"
)  # fmt: skip
Group = Literal["image_encoder", "temporal_net", "prompt_learner", "heads"]


class SizesConfig(Section):
    """Sizes of both towers, for ``backbone.name: custom``; the defaults are a tower for experiments on a CPU."""

    embed_dim: int = Field(128, ge=8)
    layers: int = Field(4, ge=1)
    width: int = Field(192, ge=8)
    head_width: int = Field(64, ge=4)
    mlp_ratio: float = Field(4.0, gt=0, le=64)
    patch: int = Field(16, ge=4)
    text_layers: int = Field(2, ge=1)
    text_width: int = Field(128, ge=8)
    text_heads: int = Field(2, ge=1)


class BackboneConfig(Section):
    """Both towers of CLIP and where their weights come from.

    ``weights`` is a tag of open_clip (``openai``, ``laion2b_s34b_b79k``, ...), a file (``.safetensors``, ``.bin``,
    ``.pt``: CLIP's own, a checkpoint of DFER-CLIP, or a weights file of streamfer), the name of an installed
    streamfer model (``mini``: its towers' sizes are taken over, ``name`` is not read), or ``random``.
    """

    name: str = Field("ViT-B-32", description="ViT-B-32, ViT-B-16, ViT-L-14 or any CLIP ViT of open_clip; or custom")
    weights: str = Field("openai", min_length=1)
    quick_gelu: bool | None = Field(None, description="OpenAI's activation; unset: what the source says")
    custom: SizesConfig = SizesConfig()


class TextConfig(Section):
    """Learned prompts (the paper's ablations)."""

    type: TextType = "class_descriptor"
    contexts: int = Field(8, ge=1, le=64, description="learned context vectors")
    class_specific: bool = Field(True, description="context vectors of each class's own")
    position: Literal["end", "middle", "front"] = Field("end", description="where the class's text stands")
    descriptors: dict[str, str] | Path = Field(
        default_factory=dict, description="own texts by class, or a file: the authors' Text.py, JSON or YAML"
    )
    source: str = Field("streamfer's own words", description="where the texts come from; set by reading a file")


class TemporalConfig(Section):
    """The temporal transformer; ``positions`` other than ``data.frames`` are interpolated."""

    layers: int = Field(1, ge=1, le=64)
    heads: int = Field(8, ge=1)
    dim_head: int = Field(64, ge=1)
    mlp_dim: int = Field(1024, ge=1)
    token: Literal["class", "mean", "weighted"] = Field(
        "class", description="what is read: a class token, the mean of all, or their mean by learned expressiveness"
    )
    positions: int | None = Field(None, ge=1, le=512, description="learned positions; data.frames if unset")


class HeadsConfig(Section):
    """What classifies, and what else is predicted.

    ``text`` compares with the prompts; ``classifier`` is a linear layer (the paper's ablation); ``cosine`` compares
    with freely learned class features. A weight above 0 switches the head of action units on (binary cross-entropy on
    ``data.actions``; missing values do not count).
    """

    kind: Literal["text", "classifier", "cosine"] = "text"
    temperature: float = Field(0.01, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    actions: float = Field(0.0, ge=0, description="weight of the loss; 0 is no such head")


class LoraConfig(Section):
    """Low-rank updates of the image encoder; merged into the weights that are exported. Rank 0 is off.

    ``c_fc`` and ``c_proj`` are the layers of the blocks' perceptrons, ``attn`` their attention.
    """

    rank: int = Field(0, ge=0, le=512)
    alpha: int = Field(16, ge=1)
    targets: tuple[Literal["attn", "c_fc", "c_proj"], ...] = Field(("attn", "c_fc", "c_proj"), min_length=1)


class AdapterConfig(Section):
    """Temporal adapters inside a frozen image encoder (after S2D, arXiv 2312.05447). Width 0 is off.

    They mix frames within a window, so such a model cannot encode a frame once and reuse it: it is evaluated from
    its checkpoint and not exported for streaming.
    """

    width: int = Field(0, ge=0, description="bottleneck of an adapter")
    heads: int = Field(4, ge=1)
    last: int | None = Field(None, ge=1, description="only the last so many blocks; all if unset")


class OptimiserConfig(StepsConfig):
    """One optimiser, a learning rate for each part of the model (groups as the authors name them).

    ``freeze`` names parts that are not trained.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    temporal_net: float = Field(1e-2, ge=0)
    image_encoder: float = Field(1e-5, ge=0)
    prompt_learner: float = Field(1e-3, ge=0)
    heads: float = Field(1e-2, ge=0, description="classifier and action units")
    adapters: float = Field(1e-3, ge=0, description="LoRA and temporal adapters")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    freeze: tuple[Group, ...] = ()
    batch: int = Field(48, ge=1)
    epochs: int = Field(50, ge=1)
    schedule: Literal["multistep", "cosine"] = "multistep"
    milestones: tuple[int, ...] = (30, 40)
    gamma: float = Field(0.1, gt=0, le=1)
    warmup: float = Field(0.0, ge=0, description="epochs of linear warm-up")
    average: float = Field(0.0, ge=0, lt=1, description="decay of the weights' moving average; 0 is off")


class RuntimeConfig(Section):
    """How fast, not what: the same result up to rounding whatever is chosen here."""

    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of the image encoder; the rest is fp32")
    tf32: bool = Field(False, description="faster matrix products on recent NVIDIA cards, rounded to 10 bits")
    compile: bool = Field(False, description="torch.compile the image encoder and the temporal transformer")
    checkpointing: bool = Field(False, description="recompute activations: less memory, a third more time")


class StopConfig(Section):
    """Early stop on held-out clips; patience 0 is off."""

    patience: int = Field(0, ge=0, description="epochs without a better value")
    metric: Literal["war", "uar", "nll"] = "uar"


class RunSection(sections.RunSection):
    """Where and how often; may differ when a run is continued."""

    out: Path = Path("runs/dfer_clip")


class RunConfig(Section):
    """Everything that `streamfer train dfer-clip` needs."""

    data: DataConfig
    backbone: BackboneConfig = BackboneConfig()
    text: TextConfig = TextConfig()
    temporal: TemporalConfig = TemporalConfig()
    heads: HeadsConfig = HeadsConfig()
    lora: LoraConfig = LoraConfig()
    adapters: AdapterConfig = AdapterConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    stop: StopConfig = StopConfig()
    run: RunSection = RunSection()
    log: LogConfig = LogConfig()
    seeds: tuple[Seed, ...] = (1,)
    export: Selection = Field("last", description="which epoch's weights become the exported model")

    @field_validator("seeds")
    @classmethod
    def _different_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) != len(seeds):
            raise ValueError("at least one seed, each named once")
        return seeds

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        held_out = self.data.held_out.wanted
        if self.stop.patience and not held_out:
            raise ValueError("stop.patience needs held-out clips: set data.held_out.fraction, for example 0.1")
        if self.export == "held_out" and not held_out:
            raise ValueError("export: held_out needs held-out clips: set data.held_out.fraction, for example 0.1")
        if self.heads.actions and not self.data.actions:
            raise ValueError("heads.actions needs the columns of action units: set data.actions")
        if self.lora.rank and self.adapters.width:
            raise ValueError("lora and adapters exclude each other: set lora.rank or adapters.width to 0")
        return self


def described(config: RunConfig) -> dict[str, str]:
    """Return which texts the prompts have: ``type``, ``source``, ``digest`` of the texts; empty without prompts."""
    asked = config.text
    if config.heads.kind != "text" or isinstance(asked.descriptors, Path):
        return {}
    digest = text_digest(prompts(config.data.class_names, asked.type, asked.descriptors))
    own = asked.source if asked.source != "streamfer's own words" or not asked.descriptors else "your own words"
    return {"type": asked.type, "source": own, "digest": digest}


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and settings of the form ``a.b=value``, as :func:`~streamfer.settings.load_settings` does."""
    return with_texts(load_settings(RunConfig, path, overrides, example=EXAMPLE, listing=_LISTING))


def with_texts(config: RunConfig) -> RunConfig:
    """Return a configuration that holds the texts of the file that it names."""
    asked = config.text
    if not isinstance(asked.descriptors, Path):
        return config
    # The run keeps the texts themselves: it goes on, and is evaluated, where the file is not.
    texts = read_descriptors(asked.descriptors, config.data.class_names, asked.type)
    own = asked.model_copy(update={"descriptors": texts, "source": asked.descriptors.name})
    return config.model_copy(update={"text": own})


def parse_config(settings: Mapping[str, Any], where: str) -> RunConfig:
    """Check plain settings; a ConfigError names the first that is unknown, missing or out of range."""
    return check_settings(RunConfig, settings, where, listing=_LISTING)
