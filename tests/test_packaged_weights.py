"""The built-in weights are the files that SHA256SUMS lists, and damage to them is told wherever it lies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from streamfer.api.catalogue import catalogue
from streamfer.errors import CheckpointError
from streamfer.faces import load_detector, pulling, registry
from streamfer.files import sha256_of
from streamfer.models.inference import load_model
from streamfer.models.registry import built_in_folder

SUMS = "SHA256SUMS"


def test_the_list_has_every_weights_file_as_it_is() -> None:
    """After new weights: ``(cd streamfer/weights && sha256sum faces.onnx mini.safetensors > SHA256SUMS)``."""
    folder = built_in_folder()
    files = sorted(path for path in folder.iterdir() if path.suffix in (".onnx", ".safetensors"))
    listed = (folder / SUMS).read_text(encoding="utf-8")
    assert listed == "".join(f"{sha256_of(path)}  {path.name}\n" for path in files)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["faces.onnx", "mini.safetensors"])
def test_one_flipped_bit_is_told(name: str, place: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (name, SUMS):
        shutil.copy(built_in_folder() / each, tmp_path)
    path = tmp_path / name
    loads: dict[str, Callable[[], object]] = {"faces.onnx": lambda: load_detector("builtin"),
                                              "mini.safetensors": lambda: load_model(path, device="cpu")}  # fmt: skip
    monkeypatch.setattr(registry, "builtin_weights", lambda: path)
    loads[name]()
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: its digest is not the one in {SUMS}.*install it again"):
        loads[name]()


def test_a_file_that_no_list_names_is_taken_as_it_is(tmp_path: Path) -> None:
    shutil.copy(built_in_folder() / "faces.onnx", tmp_path / "own.onnx")
    (tmp_path / SUMS).write_text(f"{'0' * 64}  other.onnx\n", encoding="utf-8")
    assert load_detector(str(tmp_path / "own.onnx")).name.startswith("own")


def test_a_damaged_detector_is_listed_as_such_and_the_others_still_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("faces.onnx", SUMS):
        shutil.copy(built_in_folder() / name, tmp_path)
    (tmp_path / "faces.onnx").write_bytes((tmp_path / "faces.onnx").read_bytes()[:1000])
    for module in (registry, pulling):
        monkeypatch.setattr(module, "builtin_weights", lambda: tmp_path / "faces.onnx")
    pack = tmp_path / "models" / "buffalo_l"
    pack.mkdir(parents=True)
    monkeypatch.setenv("INSIGHTFACE_ROOT", str(tmp_path))
    about = {one.name: one.about for one in catalogue()}
    assert "its digest is not the one in SHA256SUMS" in about["builtin"]
    assert "network (det_*.onnx or scrfd_*.onnx) is missing" in about["buffalo_l"]
    assert {"mini", "lbp", "yunet"} <= about.keys()
