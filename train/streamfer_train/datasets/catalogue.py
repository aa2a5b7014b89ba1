"""The data sets by name: what each expects on disk, and which side of it is for training.

Source: Exp-BLIP (BMVC 2023), Table 1, for sampling and sizes. Splits by person keep anyone from being on both sides;
the authors' own lists of people were not published, so ours are drawn by seed, or given in ``test_subjects.txt``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from streamfer.errors import ConfigError
from streamfer_train.datasets import coded_video, stills
from streamfer_train.datasets.samples import (
    Sample,
    Split,
    read_lines,
    sequences,
    split_randomly,
    split_subjects,
    thin_out,
)

log = logging.getLogger(__name__)

#: One name a line: people who are for testing, instead of those drawn by seed.
SUBJECT_LIST = "test_subjects.txt"


@dataclass(frozen=True, slots=True)
class Dataset:
    """How one data set is read and cut; what is neither by person nor at random is cut as the data set itself says."""

    name: str
    expects: str
    read: Callable[[Path], Iterator[Sample]]
    held_out: int = 0  #: people who are for testing
    test_share: float = 0.0  #: of the pictures, drawn at random
    thinned: frozenset[Split] = frozenset()  #: sides that keep every tenth frame and every change

    def load(self, root: Path, split: Split = "train", seed: int = 0) -> list[Sample]:
        """Return the samples of one side.

        Raises:
            ConfigError: something that the data set needs is not on disk; what is expected is said.
            RecordError: a label is malformed; file, line and field are named.
        """
        if not root.is_dir():
            raise ConfigError(f"{root}: no such folder; {self.name} expects {self.expects}")
        samples = self.everything(root)
        if self.held_out:
            held = self._held_out(root, samples, seed)
            samples = [sample for sample in samples if (sample.subject in held) == (split == "test")]
        elif self.test_share:
            samples = split_randomly(samples, self.test_share, split, seed)
        else:
            samples = [sample for sample in samples if sample.split == split]
        if split in self.thinned:
            samples = [sample for frames in sequences(samples) for sample in thin_out(frames)]
        if not samples:
            raise ConfigError(f"{root}: {self.name} has nothing on its {split} side; take the other, or get the rest")
        return samples

    def everything(self, root: Path) -> list[Sample]:
        """Return samples whose picture is there, and say how many have none; a ConfigError where not one is there."""
        listed = list(self.read(root))
        samples = [sample for sample in listed if (root / sample.image).is_file()]
        if not samples:
            raise ConfigError(f"{root}: no labelled picture is there; expected is {self.expects}")
        if missing := len(listed) - len(samples):
            facts = {"root": str(root), "missing": missing, "found": len(samples)}
            log.warning("dataset.pictures_missing", extra=facts)
        return samples

    def _held_out(self, root: Path, samples: list[Sample], seed: int) -> frozenset[str]:
        people = {sample.subject for sample in samples}
        if not (root / SUBJECT_LIST).is_file():
            return split_subjects(people, self.held_out, seed)
        listed = [line for line, _ in read_lines(root / SUBJECT_LIST, SUBJECT_LIST)]
        strangers = sorted(set(listed) - people)
        if strangers:
            raise ConfigError(f"{root / SUBJECT_LIST}: {strangers[0]} is nobody in {self.name}; correct the name")
        return frozenset(listed)


_TRAIN: frozenset[Split] = frozenset({"train"})
_BOTH: frozenset[Split] = frozenset({"train", "test"})
DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset("bp4d", coded_video.BP4D_EXPECTS, coded_video.read_bp4d, held_out=13, thinned=_TRAIN),
        Dataset("disfa", coded_video.DISFA_EXPECTS, coded_video.read_disfa, held_out=3, thinned=_TRAIN),
        Dataset("gft", coded_video.GFT_EXPECTS, coded_video.read_gft, held_out=18, thinned=_BOTH),
        Dataset("raf-au", stills.RAF_AU_EXPECTS, stills.read_raf_au, test_share=868 / (868 + 3733)),
        Dataset("emotionet", stills.EMOTIONET_EXPECTS, stills.read_emotionet, test_share=2117 / (2117 + 19046)),
        Dataset("affectnet", stills.AFFECTNET_EXPECTS, stills.read_affectnet),
        Dataset("raf-db-compound", stills.RAF_DB_EXPECTS, stills.read_raf_db),
        Dataset("faceme", stills.FACEME_EXPECTS, stills.read_faceme),
    )
}


def dataset(name: str) -> Dataset:
    """Return a data set by name; a ConfigError where there is none of that name."""
    if name not in DATASETS:
        raise ConfigError(f"data set {name!r}: unknown; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]
