"""Folders of runs: one configuration each, and only what may change changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfer.errors import CheckpointError, ConfigError, OutputError
from streamfer.files import write_text
from streamfer_train.recipes.run_folder import CONFIG, alone_in, check_same, claim


def test_only_settings_that_may_change_are_free(tmp_path: Path) -> None:
    before = {"data": "a", "inner": {"epochs": 3, "rates": [0.5]}}
    now = {"data": "b", "inner": {"epochs": 4, "rates": [0.5]}}
    check_same(tmp_path, before, now, ["data", "inner"])
    with pytest.raises(CheckpointError, match=r"inner\.epochs was 3 and is now 4"):
        check_same(tmp_path, before, now, ["data"])
    with pytest.raises(CheckpointError, match="gone was 1 and is now None"):
        check_same(tmp_path, {"gone": 1}, {}, [])
    with pytest.raises(CheckpointError, match=r"last\.pt: of another configuration: data was 'a' and is now 'b'; rest"):
        check_same(tmp_path / "last.pt", before, now, ["inner.epochs"])


def test_a_folder_belongs_to_one_configuration(tmp_path: Path) -> None:
    started = tmp_path / "fold1" / "last.pt"
    claim(tmp_path, {"lr": 1, "log": {"every": 3}}, ["log"], [started])
    claim(tmp_path, {"lr": 1, "log": {"every": 9}}, ["log"], [started])
    assert "every: 9" in (tmp_path / CONFIG).read_text()
    # A setting that kept the run from beginning may be mended.
    claim(tmp_path, {"lr": 2}, ["log"], [started])
    claim(tmp_path, {"lr": 1}, ["log"], [started])
    write_text(started, "begun")
    with pytest.raises(CheckpointError, match=r"config\.yaml: of another configuration: lr was 1 and is now 2"):
        claim(tmp_path, {"lr": 2}, ["log"], [])
    with pytest.raises(ConfigError, match="fold1 holds a run already; add --resume, or choose another --out"):
        claim(tmp_path, {"lr": 1}, ["log"], [started])
    claim(tmp_path, {"lr": 1}, ["log"], [])
    (tmp_path / CONFIG).write_text("a: [")
    with pytest.raises(CheckpointError, match=r"config\.yaml: cannot be read; choose another --out"):
        claim(tmp_path, {"lr": 1}, ["log"], [])


def test_a_folder_is_written_by_one_run_at_a_time(tmp_path: Path) -> None:
    for _ in range(2):
        with alone_in(tmp_path / "run"):
            with pytest.raises(ConfigError, match="run: another process is writing there"), alone_in(tmp_path / "run"):
                pass
            with alone_in(tmp_path / "other"):
                pass
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: cannot be written"), alone_in(tmp_path / "file"):
        pass
