"""The ``data:`` section of a DFER-CLIP recipe: which lists, what their labels mean, and how clips are sampled.

A label becomes a class's name once, at the list it is read from. Repositories number MAFW's classes differently, and a
silent renumbering is the classic error between them: numbers never leave this module without the order they belong to.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from streamfer.arguments import Section
from streamfer.errors import ConfigError
from streamfer.models.vocabulary import ELEVEN_CLASSES, SEVEN_CLASSES, canonical
from streamfer_train.recipes.sections import Seed

DatasetName = Literal["dfew", "ferv39k", "mafw", "csv"]
LabelScheme = Literal["authors", "dfew", "mafw", "names"]
AugmentationName = Literal["dfew", "ferv39k", "mafw", "none"]
#: Trailing parts of a path in the authors' lists that name the clip; what stands before them is their machine's.
_KEPT_PARTS: dict[DatasetName, int | None] = {"dfew": 1, "ferv39k": 3, "mafw": 1, "csv": None}
_AUGMENTATIONS: dict[DatasetName, AugmentationName] = {
    "dfew": "dfew", "ferv39k": "ferv39k", "mafw": "mafw", "csv": "mafw"
}  # fmt: skip

#: The classes of each dataset in the order of the authors' lists, which is the order of their checkpoints' outputs.
VOCABULARIES: dict[DatasetName, tuple[str, ...]] = {
    "dfew": SEVEN_CLASSES, "ferv39k": SEVEN_CLASSES, "mafw": ELEVEN_CLASSES, "csv": SEVEN_CLASSES
}  # fmt: skip

#: DFEW's annotation files number the same order from 1; the authors subtract one.
DFEW_LABELS: dict[int, str] = dict(enumerate(SEVEN_CLASSES, start=1))
#: MAFW's own order, in which MAE-DFER (preprocess/mafw.py) numbers its lists from 0; the authors' order differs.
MAFW_OWN_ORDER = (
    "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt", "anxiety", "helplessness",
    "disappointment",
)  # fmt: skip

#: What a numbered label means in each scheme; ``names`` has no numbers.
SCHEMES: dict[LabelScheme, dict[int, str]] = {
    "authors": dict(enumerate(ELEVEN_CLASSES)),
    "dfew": DFEW_LABELS,
    "mafw": dict(enumerate(MAFW_OWN_ORDER)),
    "names": {},
}


class HeldOutConfig(Section):
    """Clips taken from the training list to choose an epoch by; the test list stays unseen until the end.

    ``fraction`` draws them by ``seed``, stratified by class where ``by`` is ``clip``, whole groups (identity, film)
    where it is ``group``. ``list`` names them instead: an annotation list of its own, ``{fold}`` allowed, whose clips
    are removed from the training list where they stand there too.
    """

    fraction: float = Field(0.0, ge=0, lt=0.9, description="share of the training list that is held out")
    by: Literal["clip", "group"] = Field("clip", description="what is kept together")
    list: str | None = Field(None, description="an annotation list of held-out clips, instead of a fraction")
    seed: Seed = 1

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.list is not None and self.fraction:
            raise ValueError("held_out: give either a fraction or a list, not both")
        return self

    @property
    def wanted(self) -> bool:
        """Whether anything is held out."""
        return self.list is not None or self.fraction > 0


class FacesConfig(Section):
    """How faces are found where ``data.faces`` is ``detect``; crops are made once and kept in ``cache``."""

    detector: str = Field("auto", description="builtin, lbp, yunet, an insightface pack, or a path to an .onnx")
    cache: Path = Field(Path("runs/face_crops"), description="folder of the crops; safe to delete, made again")
    margin: float = Field(0.0, ge=0, le=1, description="fraction of the box added on each side")
    every: int = Field(1, ge=1, le=30, description="detection on every k-th frame, boxes in between interpolated")
    missing: Literal["whole", "skip", "error"] = Field(
        "whole", description="a clip without any face: use whole frames, leave it out, or stop"
    )


class DataConfig(Section):
    """Everything about the clips of a recipe. Paths are relative to the folder the command runs in.

    ``train`` and ``test`` are the authors' lists (``<folder> <frames> <label>``) or CSV files with a header
    (``video,label`` and optionally ``frames,start,end,group`` and columns such as ``AU12``);
    ``{fold}`` in them stands for the number of the fold.
    """

    dataset: DatasetName
    train: str = Field(min_length=1, description="training list; {fold} stands for the fold's number")
    test: str = Field(min_length=1, description="test list; {fold} stands for the fold's number")
    folds: tuple[int, ...] = Field((1,), min_length=1, description="folds that are run and averaged")
    root: Path | None = Field(None, description="folder of the clips; relative paths of a list start here")
    labels: LabelScheme | None = Field(None, description="what the label column holds; authors, or names for csv")
    classes: tuple[str, ...] | None = Field(None, description="class names in the model's order; by dataset if unset")
    votes: bool = Field(
        False, description="CSV columns of the classes' names hold annotators' votes, which are learned"
    )
    actions: tuple[str, ...] = Field((), description="columns of action-unit intensities, e.g. [AU1, AU12]")

    frames: int = Field(16, ge=1, le=512, description="frames sampled from a clip")
    size: int = Field(224, ge=16, le=1024, description="side of a frame, pixels")
    input: Literal["auto", "frames", "video"] = Field(
        "auto", description="frame folders, video files, or what is there"
    )
    count: Literal["list", "disk"] = Field(
        "list", description="whose frame count is sampled from; list is the authors' way and stops on missing frames"
    )
    faces: Literal["as_is", "detect"] = Field("as_is", description="pictures are faces already, or faces are found")
    face_crops: FacesConfig = FacesConfig()

    held_out: HeldOutConfig = HeldOutConfig()
    augmentation: AugmentationName | None = Field(None, description="the authors', by dataset if unset")
    oversample: float = Field(
        0.0, ge=0, le=1, description="0: clips as often as they come (the authors); 1: all classes equally often"
    )
    workers: int = Field(8, ge=0, le=256, description="processes that load clips")
    prefetch: int = Field(4, ge=1, le=64, description="batches that each worker prepares ahead")

    @field_validator("folds")
    @classmethod
    def _different_folds(cls, folds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(folds)) != len(folds) or min(folds) < 0:
            raise ValueError("each fold is named once, by a number from 0")
        return folds

    @field_validator("classes")
    @classmethod
    def _different_classes(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if classes is not None and (len(classes) < 2 or len({name.lower() for name in classes}) != len(classes)):
            raise ValueError("at least two classes, each named once")
        return classes

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.votes and self.dataset != "csv":
            raise ValueError("votes: only lists of `dataset: csv` have columns of votes")
        if len(self.folds) > 1 and not all("{fold}" in path for path in (self.train, self.test)):
            raise ValueError(
                f"folds {list(self.folds)} need {{fold}} in both train and test; else they are all the same"
            )
        scheme = set(SCHEMES[self.label_scheme].values())
        lacking = [name for name in self.class_names if canonical(name) not in scheme]
        if scheme and lacking:
            raise ValueError(f"labels {self.label_scheme!r} have no number for {', '.join(lacking)}; use labels: names")
        return self

    @property
    def label_scheme(self) -> LabelScheme:
        """What the label column of the lists holds."""
        return self.labels or ("names" if self.dataset == "csv" else "authors")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the model's order."""
        return self.classes or VOCABULARIES[self.dataset]

    @property
    def augmentation_name(self) -> AugmentationName:
        """The augmentation that training uses."""
        return self.augmentation or _AUGMENTATIONS[self.dataset]

    @property
    def kept_parts(self) -> int | None:
        """Trailing parts of a listed path that stay below ``root``; None keeps a relative path whole."""
        return _KEPT_PARTS[self.dataset]

    def known_fold(self, asked: int) -> int:
        """Return a fold that ``--fold`` asks for; ConfigError where it is none of them."""
        if asked not in self.folds:
            raise ConfigError(f"--fold {asked}: data.folds are {', '.join(map(str, self.folds))}; choose one of them")
        return asked

    def train_list(self, fold: int) -> Path:
        return Path(self.train.replace("{fold}", str(fold)))

    def test_list(self, fold: int) -> Path:
        return Path(self.test.replace("{fold}", str(fold)))

    def held_out_list(self, fold: int) -> Path | None:
        """Path of a fold's list of held-out clips, where there is one."""
        return Path(self.held_out.list.replace("{fold}", str(fold))) if self.held_out.list else None


def class_of(label: str, scheme: LabelScheme, classes: Sequence[str]) -> str:
    """Return the class that a label means, as ``classes`` spell it; a ConfigError says what is known, not where."""
    spelled = {canonical(name): name for name in classes} | {name.lower(): name for name in classes}
    if scheme == "names":
        for name in (label.strip().lower(), canonical(label)):
            if name in spelled:
                return spelled[name]
        close = difflib.get_close_matches(canonical(label), spelled, n=1)
        hint = f"did you mean {spelled[close[0]]!r}?" if close else f"known are {', '.join(classes)}"
        numbered = "; for numbers set data.labels" if label.strip().lstrip("-").isdigit() else ""
        raise ConfigError(f"label {label!r} is none of the classes; {hint}{numbered}")
    meanings = {number: name for number, name in SCHEMES[scheme].items() if name in spelled}
    span = f"{min(meanings)} to {max(meanings)}" if meanings else "nothing"
    if not label.isdecimal():
        raise ConfigError(
            f"label {label!r} is no number; {scheme!r} labels go from {span}, for words set data.labels: names"
        )
    if int(label) not in meanings:
        raise ConfigError(f"label {label} is out of range; {scheme!r} labels go from {span}")
    return spelled[meanings[int(label)]]
