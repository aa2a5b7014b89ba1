"""TorchScript archives as torch writes them: their tensors are read, their code never runs, what is none is named."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from streamfer.errors import CheckpointError, UnsafeCheckpointError
from streamfer.models.checkpoints import read_state_dict
from streamfer.models.torchscript import is_torchscript, read_torchscript

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")


class Tower(nn.Module):
    """Nested modules, half precision, a buffer, a tensor that is not contiguous, and an attribute that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2, bias=False)))
        self.proj = nn.Parameter(torch.randn(2, 5).half())
        self.register_buffer("size", torch.tensor(224))
        self.register_buffer("turned", torch.randn(6, 4).t())
        self.scale = [1, 2, 3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.blocks(x)
        return found


@pytest.mark.parametrize("how", ["script", "trace"])
def test_parameters_and_buffers_come_out_as_they_were(tmp_path: Path, how: str) -> None:
    torch.manual_seed(0)
    tower, path = Tower(), tmp_path / "ViT-B-32.pt"
    made = torch.jit.script(tower) if how == "script" else torch.jit.trace(tower, torch.randn(1, 3))
    made.save(str(path))
    found, wanted = read_state_dict(path), tower.state_dict()
    assert is_torchscript(path)
    assert {name for name in wanted if name not in found} == set()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_nothing_of_the_archive_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    torch.jit.script(Tower()).save(str(path))
    monkeypatch.setattr(torch.jit, "load", lambda *_: pytest.fail("compiled"))
    assert len(read_torchscript(path)) == 8


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("it ran",)


def archive(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a/data.pkl", data)
        made.writestr("a/constants.pkl", pickle.dumps(()))
    return path


def test_what_asks_to_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsafeCheckpointError, match=r"builtins\.print, which is refused"):
        read_state_dict(archive(tmp_path / "a.pt", pickle.dumps(Malicious())))
    assert capsys.readouterr().out == ""


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="damaged TorchScript archive"):
        read_state_dict(archive(tmp_path / "a.pt", b"no pickle"))
    with pytest.raises(CheckpointError, match="without any tensor"):
        read_state_dict(archive(tmp_path / "b.pt", pickle.dumps({})))
    with zipfile.ZipFile(tmp_path / "e.pt", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a/data.pkl", bytes(1000))
        made.writestr("a/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="is compressed"):
        read_state_dict(tmp_path / "e.pt")
    whole = tmp_path / "c.pt"
    torch.jit.script(Tower()).save(str(whole))
    (tmp_path / "d.pt").write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "d.pt")
    assert not is_torchscript(tmp_path / "d.pt")
