"""Training data of the mini model: votes, what is set aside, and the files themselves."""

from __future__ import annotations

import re
from pathlib import Path

import few_data
import mini_corpus
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamfer.errors import SourceNotFoundError, SourceUnreadableError
from streamfer_builtin.mini import data
from streamfer_builtin.mini.units import BLENDSHAPES, PRESENT
from streamfer_builtin.render.actions import ACTION_UNITS


@given(st.text(min_size=1, max_size=30))
def test_a_place_is_a_fraction_and_stable(name: str) -> None:
    place = data.place(name)
    assert 0 <= place < 1
    assert place == data.place(name)


def test_missing_data_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(
        SourceNotFoundError, match=r"blendshapes\.parquet: no such file; give the folder that holds blend"
    ):
        data.load(tmp_path)


def test_a_picture_that_is_none_is_named(shared_data: Path, tmp_path: Path) -> None:
    few_data.write_expressions(shared_data, tmp_path)
    path = tmp_path / "fer2013" / "train.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[3]["image"] = b"no picture"
    pq.write_table(pa.Table.from_pylist(rows), path)
    name = re.escape(rows[3]["source_id"])
    with pytest.raises(SourceUnreadableError, match=rf"^fer2013_train, {name}: the stored bytes are no picture"):
        data.load(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SourceUnreadableError, match=r"train\.parquet: no whole parquet file; fetch the data again"):
        data.load(tmp_path)


def test_votes_become_shares_without_outliers_and_lost_pictures_have_none() -> None:
    others = ("contempt", "unknown", "NF")
    columns = (*data.CLASSES, *others)

    def shares(**votes: int) -> dict[str, float]:
        row = data.vote_shares(np.array([[votes.get(name, 0) for name in columns]], np.float32))[0]
        return {name: float(value) for name, value in zip(data.CLASSES, row, strict=True) if value}

    assert shares(happiness=10) == {"happiness": 1}
    # A single vote counts for nothing; two for contempt stay in the sum.
    assert shares(anger=6, fear=1, contempt=2) == {"anger": pytest.approx(0.75)}
    assert shares(sadness=3, NF=4) == {}
    assert shares(fear=2, unknown=2) == {}
    assert shares(fear=1) == {}


def test_a_picture_is_clear_when_more_than_half_agree() -> None:
    pictures = mini_corpus.pictures("fer2013_val", 28, 48, 48.0)
    pictures.votes[1] = torch.tensor([0.5, 0.5, 0, 0, 0, 0, 0])
    clear, readable = pictures.clear.tolist(), pictures.readable.tolist()
    assert clear[:7] == [False, False, True, True, True, False, True]
    assert readable[:7] == [True, True, True, True, True, False, True]


def test_the_real_sets(shared_data: Path) -> None:
    corpus = data.load(shared_data)
    fer, faces = corpus.train
    assert (len(fer), len(corpus.val) + len(corpus.last_val)) == (26_749, 3_441)
    held = len(corpus.held_out) + len(corpus.last_held_out)
    assert len(faces) + held == 11_550  # five pictures show contempt
    assert 0.10 < held / 11_550 < 0.20
    assert 0.45 < len(corpus.last_val) / 3_441 < 0.55
    assert int((fer.votes[:, 0] >= 0).sum()) == 26_552
    assert 0.85 < float(fer.clear.float().mean()) < 0.88
    happy = data.CLASSES.index("happiness")
    assert int((fer.labels == happy).sum()) == 7_063
    assert fer.pixels.shape[1:] == (48, 48)
    assert faces.pixels.shape[1:] == (64, 64)
    labelled = [ACTION_UNITS.index(name) for name in BLENDSHAPES]
    shown = (fer.units[:, labelled] > PRESENT).float().mean(0)
    assert float(shown.min()) > 0.01  # every unit that has a teacher is there to be learned
    assert float(shown.max()) < 0.5


def test_digests_are_those_the_data_is_published_with(shared_data: Path) -> None:
    published = (shared_data / "README.md").read_text()
    for name, digest in data.digests(shared_data).items():
        assert f"| {name} |" in published
        assert digest in published
