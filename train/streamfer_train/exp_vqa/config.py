"""The configuration of `streamfer train exp-vqa`; sections that Exp-BLIP has as well are its own.

Source of the defaults: Exp-VQA's ``vqa_ft_vicuna7b_vqa.yaml``; batches there are 30 pictures on each of 4 GPUs.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from streamfer.arguments import Section
from streamfer_train.exp_blip.config import CaptionerConfig, CaptionFile, TextConfig, Tuning, WritingConfig
from streamfer_train.recipes import sections

EXAMPLE = "configs/train/exp_vqa/released.yaml"


class QuestionData(Section):
    """Lists of questions in the authors' form: ``image``, ``image_id``, ``text_input``, ``text_output``."""

    questions: tuple[CaptionFile, ...] = Field(min_length=1)
    text: TextConfig = Field(TextConfig(lowercase=False), description="cleaning of answers; questions stay")
    clean_questions: bool = Field(False, description="questions are cleaned as answers are, as released")
    workers: int = Field(4, ge=0)


class TrainingConfig(WritingConfig):
    """One stage; the question goes to the Q-Former and to the language model, the loss is on the answer alone."""

    epochs: int = Field(6, ge=1)
    batch: int = Field(120, ge=1)
    vit: Tuning = Field("trained", description="frozen is the authors' Exp-VQA(fz)")
    max_question_tokens: int = Field(128, ge=4, description="a longer question is refused")
    max_answer_tokens: int = Field(256, ge=1, description="a longer answer loses its end, which is counted and said")
    max_new_tokens: int = Field(256, ge=1, description="longest answer that the exported model writes")
    repetition_penalty: float = Field(1.5, gt=0)


class RunSection(sections.RunSection):
    """Where and how often; may differ when a run is continued."""

    out: Path = Path("runs/exp_vqa")


class ExpVqaConfig(CaptionerConfig):
    """Everything that `streamfer train exp-vqa` needs."""

    data: QuestionData
    training: TrainingConfig = TrainingConfig()
    run: RunSection = RunSection()
