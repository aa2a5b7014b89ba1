"""What a captioner's folder says about itself: preprocessing, tokens and limits of the text, licence, files.

Stored as ``streamfer.json`` beside the weights that transformers wrote. Values of the two published systems:
Exp-BLIP decodes with 5 beams and ends at a line break (LAVIS, ``blip2_opt``); Exp-VQA with 5 beams, repetition
penalty 1.5 and ``</s>`` (``blip2_vicuna_instruct``). Their 32-token default cuts fused captions: here it is 200.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from streamfer.errors import CheckpointError
from streamfer.geometry import EXP_BLIP_CROP, CropProfile, squashed_crop
from streamfer.models.card import PixelProfile

CARD_FILE = "streamfer.json"
#: In ``blip-2`` the question is read by the language model alone, in ``instructblip`` by the Q-Former too.
Architecture = Literal["blip-2", "instructblip"]
#: CLIP's, which EVA-CLIP and so every Exp-* model was trained with.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_STRICT = ConfigDict(frozen=True, extra="forbid")


def clip_pixels(size: int) -> PixelProfile:
    """Return CLIP's preprocessing at ``size`` pixels: bicubic, whatever the aspect, then normalised."""
    return PixelProfile(size=size, mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic")


def face_crop(size: int) -> CropProfile:
    """Return Exp-BLIP's crop at ``size`` pixels: a face with some surroundings, squashed."""
    return squashed_crop(size, EXP_BLIP_CROP.margin)


class TextCard(BaseModel):
    """How text is put to the language model and taken from it; a longer question is refused, never cut."""

    model_config = _STRICT

    #: Stands between the query tokens and the prompt; empty for none.
    start_token: str = "</s>"  # noqa: S105 - a token of a vocabulary
    #: Ends a text; must be one token.
    end_token: str = "\n"  # noqa: S105
    #: What is asked when no question is; empty in Exp-BLIP.
    description_prompt: str = ""
    #: What counts as yes and as no, in the spelling that the model was trained on.
    yes: tuple[str, ...] = ("yes",)
    no: tuple[str, ...] = ("no",)
    max_question_tokens: int = Field(default=128, ge=1)
    max_new_tokens: int = Field(default=200, ge=1)
    min_new_tokens: int = Field(default=1, ge=0)
    num_beams: int = Field(default=5, ge=1, le=64)
    repetition_penalty: float = Field(default=1.0, gt=0)
    length_penalty: float = 1.0

    @model_validator(mode="after")
    def _answers(self) -> Self:
        if not self.yes or not self.no or set(self.yes) & set(self.no):
            raise CheckpointError("text.yes and text.no need an answer each, and none in common")
        return self


#: Our own wording of the question that Exp-VQA's first type asks: the whole face and what it tells.
DESCRIBE_QUESTION = "What are the facial actions of this person, and which emotion do they show?"
EXP_BLIP_TEXT = TextCard()
EXP_VQA_TEXT = TextCard(
    end_token="</s>",  # noqa: S106 - a token of a vocabulary
    description_prompt=DESCRIBE_QUESTION,
    max_new_tokens=256,
    repetition_penalty=1.5,
)


class WeightsFile(BaseModel):
    """Size and sha256 (hex) of one file of weights."""

    model_config = _STRICT

    size: int
    sha256: str


class CaptionCard(BaseModel):
    """Everything beside the weights of a captioner; ``files`` name a truncated one before it is read."""

    model_config = _STRICT

    format: Literal[1] = 1
    name: str
    architecture: Architecture
    pixels: PixelProfile
    crop: CropProfile
    text: TextCard
    answers: bool
    #: Of the norm behind the image encoder; LAVIS has torch's 1e-5, transformers' own is 1e-6.
    vision_norm_eps: float = Field(default=1e-5, gt=0)
    licence: str
    #: Where the weights come from and what they are worth, plain JSON.
    train: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, WeightsFile] = Field(default_factory=dict)
    #: sha256 over names and digests of the files, hex.
    digest: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights files."""
        return sum(entry.size for entry in self.files.values())
