"""Foreign checkpoints are read as data: nothing in them runs, and damage is named."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from official_checkpoint import Sizes, make_state, write_checkpoint

from streamfer.errors import CheckpointError, UnsafeCheckpointError
from streamfer.models.checkpoints import RecorderMeter, read_state_dict


class _Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _tripwire(path: Path) -> _Call:
    return _Call(os.system, f"touch {path}")


def test_the_authors_wrapper_is_read_and_its_prefix_stripped(tmp_path: Path) -> None:
    state = make_state(Sizes())
    write_checkpoint(tmp_path / "a.pth", state)
    found = read_state_dict(tmp_path / "a.pth")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    # Names that shared a storage in the file share one in memory: the second copy of CLIP costs nothing.
    assert found["clip_model_.visual.proj"].data_ptr() == found["image_encoder.proj"].data_ptr()


def test_a_stock_unpickler_could_not_even_find_the_class(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.pth", make_state(Sizes()))
    with pytest.raises(pickle.UnpicklingError, match="RecorderMeter"):
        torch.load(tmp_path / "a.pth", weights_only=True)


def test_the_prefix_is_stripped_only_as_a_prefix(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b.module.c": torch.ones(2)}, tmp_path / "a.pth")
    assert set(read_state_dict(tmp_path / "a.pth")) == {"module.a", "b.module.c"}
    torch.save({"module.a.module.b": torch.ones(1)}, tmp_path / "b.pth")
    assert set(read_state_dict(tmp_path / "b.pth")) == {"a.module.b"}


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
)
def test_types_views_and_parameters(tmp_path: Path, dtype: torch.dtype) -> None:
    base = torch.arange(24).reshape(4, 6).to(dtype)
    state = collections.OrderedDict(a=base, b=base.T, c=base[1:3, ::2], d=base[0, 0], e=torch.empty(0, 3, dtype=dtype))
    if dtype.is_floating_point:
        state["p"] = torch.nn.Parameter(base.clone())
    state_any: Any = state
    state_any._metadata = {"": {"version": 1}}
    torch.save(state, tmp_path / "a.pt")
    found = read_state_dict(tmp_path / "a.pt")
    for name, tensor in state.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor.detach())


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_call_of_os_system_is_refused_and_not_made(tmp_path: Path, protocol: int, wrapped: bool) -> None:
    witness = tmp_path / "witness"
    bomb: Any = _tripwire(witness)
    if wrapped:
        bomb = {"state_dict": {"a": torch.ones(2)}, "recorder": bomb}
        torch.save(bomb, tmp_path / "bomb.pth", pickle_protocol=max(protocol, 2))
    else:
        (tmp_path / "bomb.pth").write_bytes(pickle.dumps(bomb, protocol=protocol))
    # torch's reader knows the instructions of its own protocol, 2; of others it takes what they share.
    expected = UnsafeCheckpointError if (protocol <= 3 if wrapped else protocol >= 2) else CheckpointError
    with pytest.raises(expected) as caught:
        read_state_dict(tmp_path / "bomb.pth")
    assert "bomb.pth" in str(caught.value)
    if expected is UnsafeCheckpointError:
        assert f"{os.system.__module__}.system" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not witness.exists()
    # The test's own proof that the file is a live bomb: an ordinary unpickler sets it off.
    if not wrapped:
        script = f"import pickle; pickle.load(open({str(tmp_path / 'bomb.pth')!r}, 'rb'))"
        subprocess.run([sys.executable, "-c", script], check=True)
        assert witness.exists()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (eval, ("1",)),
        (getattr, ("text", "upper")),
        (subprocess.Popen, (["true"],)),
        (torch.load, ("x",)),
        (torch.hub.load, ("x",)),
        (pickle.loads, (b"",)),
    ],
)
def test_other_calls_are_refused_by_name(tmp_path: Path, function: Any, arguments: tuple[Any, ...]) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "x": _Call(function, *arguments)}, tmp_path / "a.pth")
    with pytest.raises(UnsafeCheckpointError, match=function.__name__):
        read_state_dict(tmp_path / "a.pth")


def _archive(path: Path, data: bytes) -> Path:
    """An archive as torch.save writes it, around any pickle."""
    stream = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(2)}}, stream)
    with zipfile.ZipFile(stream) as good, zipfile.ZipFile(path, "w") as archive:
        for record in good.infolist():
            archive.writestr(record, data if record.filename.endswith("data.pkl") else good.read(record))
    return path


def test_an_instance_of_a_library_class_is_refused(tmp_path: Path) -> None:
    data = b"\x80\x02csubprocess\nPopen\n)\x81."
    with pytest.raises(UnsafeCheckpointError, match=r"subprocess\.Popen"):
        read_state_dict(_archive(tmp_path / "a.pth", data))


def test_what_stands_in_for_bookkeeping_keeps_nothing(tmp_path: Path) -> None:
    data = b"\x80\x02c__main__\nRecorderMeter\n)\x81}X\x01\x00\x00\x00aK\x01sb."
    with pytest.raises(CheckpointError, match="holds RecorderMeter, not a dictionary of tensors"):
        read_state_dict(_archive(tmp_path / "a.pth", data))
    meter = RecorderMeter(1, 2)
    meter.__setstate__({"a": 1})
    assert vars(meter) == {}
    left = [entry for entry in torch.serialization.get_safe_globals() if isinstance(entry, tuple)]
    assert left == []


def test_a_call_of_a_call_is_refused(tmp_path: Path) -> None:
    # torch._utils._rebuild_parameter returns its argument; calling what it returned must stay impossible.
    data = b"\x80\x02ctorch._utils\n_rebuild_parameter\ncos\nsystem\n\x89}\x87RX\x04\x00\x00\x00true\x85R."
    with pytest.raises(UnsafeCheckpointError, match=r"os\.system"):
        read_state_dict(_archive(tmp_path / "a.pth", data))


@pytest.mark.parametrize("keep", [0, 10, 1000, 0.5, 0.99])
def test_a_truncated_archive(tmp_path: Path, keep: float) -> None:
    write_checkpoint(tmp_path / "a.pth", make_state(Sizes()))
    data = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"cut\.pth") as caught:
        read_state_dict(tmp_path / "cut.pth")
    assert not isinstance(caught.value, UnsafeCheckpointError)


@pytest.mark.parametrize("content", [b"", b"hello, I am a text file\n", b"<html>quota exceeded</html>", b"PK\x03\x04"])
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pth") as caught:
        read_state_dict(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"not one that torch\.save wrote"):
        read_state_dict(tmp_path / "a.zip")


def test_the_old_format_is_read_and_refused_alike(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_state_dict(tmp_path / "old.pth")["a"], torch.ones(3))
    bomb = {"a": torch.ones(3), "b": _tripwire(tmp_path / "witness")}
    torch.save(bomb, tmp_path / "bomb.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UnsafeCheckpointError, match=r"system"):
        read_state_dict(tmp_path / "bomb.pth")
    assert not (tmp_path / "witness").exists()


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path: Path) -> None:
    torch.save({"weight": torch.arange(4, dtype=torch.float32)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in records if name.endswith("data.pkl"))
    # The shape (4,) is BININT1 4, TUPLE1; the storage's own count stands before it.
    records[name] = records[name].replace(b"K\x04\x85", b"K\x09\x85")
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        for record, data in records.items():
            archive.writestr(record, data)
    with pytest.raises(CheckpointError, match=r"damaged or incomplete checkpoint .*resize"):
        read_state_dict(tmp_path / "b.pth")


def test_a_tensor_that_repeats_its_storage_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1).expand(2**40)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="'weight' repeats its storage"):
        read_state_dict(tmp_path / "a.pth")


def test_a_compressed_record_is_no_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x00" * 1_000_000)
    with pytest.raises(CheckpointError, match="compressed"):
        read_state_dict(tmp_path / "a.pth")


def test_bookkeeping_of_other_training_loops_is_ignored(tmp_path: Path) -> None:
    import argparse

    state = {
        "state_dict": {"a": torch.ones(2)},
        "args": argparse.Namespace(lr=0.1),
        "sets": {1, 2},
        "frozen": frozenset({3}),
        "empty": b"",
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
    }
    torch.save(state, tmp_path / "a.pth")
    assert set(read_state_dict(tmp_path / "a.pth")) == {"a"}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_pickles_end_in_a_checkpoint_error_or_data(data: st.DataObject) -> None:
    stream = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, stream)
    with zipfile.ZipFile(stream) as archive:
        good = bytearray(archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl"))))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    # Any other exception, a crash or a run-away loop fails the test.
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(CheckpointError):
        read_state_dict(_archive(Path(folder) / "a.pth", bytes(good)))
