"""What a captioner's folder says about itself: preprocessing, tokens and limits of the text, licence, files.

Stored as ``streamfer.json`` beside the weights that transformers wrote. Values of the two published systems:
Exp-BLIP decodes with 5 beams and ends at a line break (LAVIS, ``blip2_opt``); Exp-VQA with 5 beams, repetition
penalty 1.5 and ``</s>`` (``blip2_vicuna_instruct``). Their 32-token default cuts fused captions: here it is 200.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator

from streamfer.errors import CheckpointError
from streamfer.geometry import CROP_PROFILES, CropProfile
from streamfer.models.card import PixelProfile

CARD_FILE = "streamfer.json"
FORMAT: Literal[1] = 1
Architecture = Literal["blip-2", "instructblip"]
#: CLIP's, which EVA-CLIP and so every Exp-* model was trained with.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_STRICT = ConfigDict(frozen=True, extra="forbid")


def clip_pixels(size: int) -> PixelProfile:
    """Return CLIP's preprocessing at ``size`` pixels: bicubic, whatever the aspect, then normalised."""
    return PixelProfile(size=size, mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic")


class TextCard(BaseModel):
    """How text is put to the language model and taken from it.

    Attributes:
        start_token: stands between the query tokens and the prompt; empty for none.
        end_token: ends a text; must be one token.
        description_prompt: what is asked when no question is; empty in Exp-BLIP.
        yes: answers that count as yes, each in the spelling that the model was trained on.
        no: answers that count as no.
        max_question_tokens: longest question; a longer one is refused, never cut.
        max_new_tokens: longest text.
        min_new_tokens: shortest text.
        num_beams: beams of the search; 1 is greedy.
        repetition_penalty: divides the logits of tokens already written (1 is none).
        length_penalty: exponent of the length in a beam's score.
    """

    model_config = _STRICT

    start_token: str = "</s>"  # noqa: S105 - a token of a vocabulary
    end_token: str = "\n"  # noqa: S105
    description_prompt: str = ""
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
            raise ValueError("text.yes and text.no need an answer each, and none in common")
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
    """Everything beside the weights of a captioner.

    Attributes:
        format: version of this document.
        name: what ``load_captioner`` calls it.
        architecture: ``blip-2`` (the question is read by the language model alone) or ``instructblip`` (by the
            Q-Former too).
        pixels: preprocessing.
        crop: geometry of the face crop.
        text: tokens, limits and search.
        answers: takes questions.
        vision_norm_eps: of the norm behind the image encoder; LAVIS has torch's 1e-5, transformers' own is 1e-6.
        licence: licence of the weights in plain words.
        train: where the weights come from and what they are worth, plain JSON.
        files: the weights files, so that a truncated one is named before it is read.
        digest: sha256 over names and digests of the files, hex.
    """

    model_config = _STRICT

    format: Literal[1] = FORMAT
    name: str
    architecture: Architecture
    pixels: PixelProfile
    crop: CropProfile
    text: TextCard
    answers: bool
    vision_norm_eps: float = Field(default=1e-5, gt=0)
    licence: str
    train: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, WeightsFile] = Field(default_factory=dict)
    digest: str = ""

    @field_validator("crop", mode="before")
    @classmethod
    def _read_crop(cls, value: Any) -> Any:
        return CropProfile.from_dict(value) if isinstance(value, dict) else value

    @field_serializer("crop")
    def _write_crop(self, value: CropProfile) -> dict[str, Any]:
        return value.to_dict()

    def to_json(self) -> str:
        """Return the document stored as ``streamfer.json``."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CaptionCard:
        """Read what :meth:`to_json` wrote.

        Raises:
            CheckpointError: not JSON, another format, a field missing, unknown or out of range.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise CheckpointError(f"{CARD_FILE}: {where}: {first['msg']}") from error


def face_crop(size: int) -> CropProfile:
    """Return Exp-BLIP's crop at ``size`` pixels: a face with some surroundings, squashed."""
    profile = CROP_PROFILES["exp-blip"]
    return CropProfile(kind=profile.kind, size=size, landmarks=profile.landmarks, margin=profile.margin)
