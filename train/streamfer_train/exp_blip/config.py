"""The configuration of `streamfer train exp-blip`; sections that Exp-VQA has as well are taken from here.

Source of the defaults: the released YAML files of Exp-BLIP, except where they cut captions at 32 tokens by omission.
``configs/train/exp_blip`` holds paper, supplement and released files, which disagree, as three configurations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from streamfer.arguments import Section
from streamfer.captions.architecture import QuerySizes
from streamfer_train.recipes import sections
from streamfer_train.recipes.sections import LogConfig, Seed, StepsConfig

EXAMPLE = "configs/train/exp_blip/released.yaml"
Tuning = Literal["trained", "frozen"]
#: Sections and settings that may change between an interrupted run and its continuation.
MAY_CHANGE = (
    "run", "log", "pseudo", "data.expression", "data.workers", "runtime.parallel", "licence", "step2.epochs",
    "training.epochs",
)  # fmt: skip


class CaptionFile(Section):
    """A list of captioned (or questioned) pictures, in the authors' JSON form, and the folder its names start in."""

    file: Path
    images: Path = Path()


class TextConfig(Section):
    """How captions are cleaned before they are read (LAVIS's ``blip_caption``; it also cuts at 50 words)."""

    lowercase: bool = True
    punctuation: bool = Field(True, description='false turns !"()*#:;~ into spaces, as the authors do')
    max_words: int | None = Field(None, ge=1, description="50 is LAVIS's; longer captions lose their end")


class ModelConfig(Section):
    """Where weights come from.

    ``start`` is a checkpoint in LAVIS's layout: ``blip2_pretrained.pth``, one of Exp-BLIP, or the ``weights``
    file of a step of this recipe. Without it all but the language model starts at random.
    """

    language_model: Path = Field(description="folder of transformers: OPT for Exp-BLIP, Vicuna for Exp-VQA")
    tokenizer: Path = Field(description="folder of the Q-Former's tokenizer (bert-base-uncased)")
    start: Path | None = None
    vision: Path | None = Field(None, description="weights of the image encoder alone (eva_vit_g.pth), over start's")
    sizes: QuerySizes = Field(QuerySizes(), description="of everything but the language model; the published ones")
    projection: int = Field(256, ge=1, le=65_536, description="width in which pictures and texts are compared")


class OptimiserConfig(StepsConfig):
    """AdamW and its schedule.

    ``cosine`` falls step by step after ``warmup`` steps; ``cosine_epoch`` is LAVIS's: constant within an epoch, and
    the warm-up ends with the first epoch even if it is shorter than ``warmup`` steps.
    """

    epochs: int = Field(10, ge=1)
    batch: int = Field(112, ge=1)
    lr: float = Field(1e-4, ge=0)
    min_lr: float = Field(1e-5, ge=0)
    warmup: int = Field(5000, ge=0, description="steps")
    warmup_lr: float = Field(1e-6, ge=0)
    schedule: Literal["cosine", "cosine_epoch"] = "cosine_epoch"
    weight_decay: float = Field(0.05, ge=0)
    decay_all: bool = Field(True, description="norms and biases decay too, as in the released runner")
    betas: tuple[float, float] = (0.9, 0.999)
    vit_layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the learning rate, block by block down")
    vit: Tuning = "frozen"


class StepOneConfig(OptimiserConfig):
    """Q-Former against frozen features: contrast (ITC), match (ITM), and write (ITG)."""

    max_text_tokens: int = Field(200, ge=4, description="LAVIS's 32 cuts fused captions")
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    temperature: float = Field(0.07, gt=0, description="where the learned temperature starts")
    same_text: Literal["own", "shared"] = Field(
        "shared", description="pictures with one caption: each its own class as in LAVIS, or partners of each other"
    )


class WritingConfig(OptimiserConfig):
    """What both systems have: queries into the frozen language model, the loss on what is to be written alone."""

    lr: float = Field(1e-5, ge=0)
    min_lr: float = Field(0.0, ge=0)
    warmup: int = Field(1000, ge=0)
    warmup_lr: float = Field(1e-8, ge=0)
    vit: Tuning = "trained"
    num_beams: int = Field(5, ge=1, le=64)


class StepTwoConfig(WritingConfig):
    """The captions."""

    epochs: int = Field(20, ge=1)
    batch: int = Field(16, ge=1)
    max_text_tokens: int = Field(200, ge=4)
    max_new_tokens: int = Field(200, ge=1, description="longest caption that the exported captioner writes")
    language_dropout: bool = Field(False, description="the frozen language model drops out, as in the released code")
    learn_start: bool = Field(False, description="the token behind the queries counts in the loss, as released")


class AugmentationConfig(Section):
    """A crop, a flip, and RandAugment without what harms faces (no Rotate, no AutoContrast)."""

    scale: tuple[float, float] = (0.8, 1.0)
    flip: bool = True
    operations: int = Field(2, ge=0, description="of RandAugment; 0 is none")
    magnitude: int = Field(5, ge=0, le=10)
    shear: Literal["centre", "corner"] = Field("centre", description="what stays in place; the corner as released")


class RuntimeConfig(Section):
    """How fast, not what."""

    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="bf16, fp16: autocast, frozen weights are kept in it; fp16 (as released) scales the loss"
    )
    checkpointing: bool = Field(False, description="recompute activations: less memory, a third more time")
    parallel: Literal["ddp", "fsdp"] = Field("ddp", description="under torchrun: replicate, or shard every block")


class RunSection(sections.RunSection):
    """Where and how often; may differ when a run is continued."""

    out: Path = Path("runs/exp_blip")


class CaptionData(Section):
    """Lists of captioned pictures; ``expression`` is what the stage pseudo wrote where it is empty."""

    au: tuple[CaptionFile, ...] = ()
    emotion: tuple[CaptionFile, ...] = ()
    expression: tuple[CaptionFile, ...] = ()
    text: TextConfig = TextConfig()
    workers: int = Field(4, ge=0)


class PseudoConfig(Section):
    """Who writes the missing halves, and who joins them.

    Without captioners those of the stages au and emotion in the same folder are used. Without a writer the grammar
    joins; a writer is an OpenAI-compatible ``url`` with ``model``, or a folder of transformers in ``model`` alone.
    """

    au_captioner: str | None = None
    emotion_captioner: str | None = None
    batch: int = Field(16, ge=1)
    url: str | None = None
    model: str | None = None
    cache: Path | None = Field(None, description="file of answers already paid for; the user's own if unset")
    budget: float | None = Field(None, ge=0)
    price: tuple[float, float] = Field((0.0, 0.0), description="of a million tokens: prompt, answer")

    @model_validator(mode="after")
    def _writer(self) -> Self:
        if self.url is not None and self.model is None:
            raise ValueError("url needs the name of a model: set pseudo.model")
        return self


class CaptionerConfig(Section):
    """What every recipe of a captioner needs beside its data and its steps."""

    model: ModelConfig
    augmentation: AugmentationConfig = AugmentationConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    log: LogConfig = LogConfig()
    seed: Seed = 42
    licence: str = Field("as the training data and the language model allow", min_length=1)


class ExpBlipConfig(CaptionerConfig):
    """Everything that `streamfer train exp-blip` needs."""

    data: CaptionData
    step1: StepOneConfig = StepOneConfig()
    step2: StepTwoConfig = StepTwoConfig()
    pseudo: PseudoConfig = PseudoConfig()
    run: RunSection = RunSection()
