"""The choice between forms of the encoder: by injected times, remembered, damaged, refused, out of memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

import streamfer_kernels
from streamfer.errors import OutputError
from streamfer.models.attention import AttentionChoice
from streamfer.models.dfer_clip import build_image_encoder
from streamfer.models.graphs import BUCKETS, Function, Graphs, Run
from streamfer.models.sizes import VisionConfig
from streamfer.models.tuning import (
    FORMS,
    Form,
    Times,
    Tuned,
    Tuner,
    attention_shapes,
    decide,
    forget,
    measure,
    remember,
    remembered,
)

OPEN = AttentionChoice("torch", "measured", open=True)
CPU = torch.device("cpu")
needs_interpreter = pytest.mark.skipif(
    streamfer_kernels.backend_report("cpu")["obstacle"] is not None,
    reason="Triton runs on the CPU in its interpreter only (TRITON_INTERPRET=1)",
)


class PlainGraphs(Graphs):
    """Records by remembering the function: what a CUDA graph would replay, without CUDA."""

    def __init__(self, largest: int = 32, broken: tuple[Form, ...] = ()) -> None:
        super().__init__((3, 32, 32), torch.float32, CPU)
        self.largest, self.broken, self.calls = largest, broken, list[tuple[int, Form]]()

    def record(self, size: int, function: Function) -> Run:
        if size > self.largest:
            raise torch.OutOfMemoryError("too large")
        form: Form = "triton graph" if function.__self__.triton else "torch graph"  # type: ignore[attr-defined]
        self.calls.append((size, form))
        if form in self.broken:
            raise RuntimeError("operation not permitted when stream is capturing")
        return self.plain(size, function)


class Encoder:
    """A tiny ViT and which attention it would run."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = VisionConfig(layers=2, width=32, head_width=16, patch_size=8, image_size=32)
        self.network = build_image_encoder(config, 16, quick_gelu=True).eval()

    @property
    def triton(self) -> bool:
        return {m.implementation for m in self.network.modules() if hasattr(m, "implementation")} == {"triton"}

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network(pixels)  # type: ignore[no-any-return]


def tune(
    graphs: PlainGraphs,
    choice: AttentionChoice = OPEN,
    path: Path | None = None,
    clock: Callable[[int, Form], float] = lambda size, form: 1.0,
) -> Tuned:
    encoder = Encoder()

    def timed(runs: Mapping[Form, Callable[[], object]], budget_s: float) -> Times:
        size = next(size for size in BUCKETS if size not in graphs.sizes)
        assert budget_s < 1
        return {form: clock(size, form) for form in runs}

    return Tuner(graphs, encoder.__call__, encoder.network, timed).tune(choice, "a machine", path)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"triton graph": 100, "torch graph": 100, "torch eager": 100}, "triton graph"),
        ({"triton graph": 104, "torch graph": 100, "torch eager": 900}, "triton graph"),
        ({"triton graph": 106, "torch graph": 100, "torch eager": 99}, "torch graph"),
        ({"triton graph": 200, "torch graph": 180, "torch eager": 100}, "torch eager"),
        ({"torch graph": 50}, "torch graph"),
    ],
)
def test_triton_runs_unless_it_is_slower(times: Times, expected: Form) -> None:
    assert decide(times) == expected


@needs_interpreter
def test_every_batch_size_has_its_own_form_and_the_next_start_measures_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "kernels.json"
    slow = {(8, "triton graph"): 2.0, (16, "triton graph"): 9.0, (16, "torch graph"): 9.0}
    graphs = PlainGraphs()
    tuned = tune(graphs, path=path, clock=lambda size, form: slow.get((size, form), 1.0))
    assert tuned.without == ""
    assert [*tuned.chosen.values()] == [*["triton graph"] * 3, "torch graph", "torch eager", "triton graph"]
    assert tuned.lines[3] == "batch 8: torch graph (torch graph 1 us, torch eager 1 us, triton graph 2 us)"
    again = PlainGraphs()

    def refuse(size: int, form: Form) -> float:
        raise AssertionError("measured again")

    assert tune(again, path=path, clock=refuse) == tuned
    assert [form for _, form in again.calls] == [form for form in tuned.chosen.values() if form != "torch eager"]
    forget(path)
    assert not path.exists()
    forget(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{not json",
        "[]",
        '{"format": 0, "measured": {}}',
        '{"measured": {"a machine": {"8": {"torch graph": 1}}}}',
        '{"format": 1, "measured": {"a machine": {"3": {"torch graph": 1}}}}',
        '{"format": 1, "measured": {"a machine": {"8": {"torch graph": -1}}}}',
        '{"format": 1, "measured": {"a machine": {"8": {"cuda graph": 1}}}}',
        '{"format": 1, "measured": {"a machine": {"8": {}}}}',
        '{"format": 1, "measured": {"a machine": 7}}',
    ],
)
@needs_interpreter
def test_a_damaged_cache_is_measured_afresh(text: str, tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    path.write_text(text)
    assert remembered(path) == {}
    assert set(tune(PlainGraphs(), path=path).times) == set(BUCKETS)
    assert set(remembered(path)["a machine"]) == set(BUCKETS)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    remember(tmp_path / "file" / "kernels.json", "key", {1: {"torch graph": 1.0}})
    with pytest.raises(OutputError, match=r"kernels\.json: cannot be removed"):
        forget(tmp_path / "file" / "kernels.json")
    remember(tmp_path / "kernels.json", "one", {1: {"torch graph": 1.0}})
    remember(tmp_path / "kernels.json", "other", {2: {"torch eager": 2.0}})
    assert remembered(tmp_path / "kernels.json") == {"one": {1: {"torch graph": 1.0}}, "other": {2: {"torch eager": 2}}}
    assert json.loads((tmp_path / "kernels.json").read_text())["format"] == 1


@pytest.mark.parametrize("stage", ["preflight", "self_test"])
def test_where_triton_fails_pytorch_runs_and_says_why(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamfer_kernels, "preflight", lambda device: None)
    monkeypatch.setattr(streamfer_kernels, stage, lambda *_: "no C compiler")
    path = tmp_path / "kernels.json"
    tuned = tune(PlainGraphs(), path=path)
    assert tuned.lines[0] == "no Triton kernels: no C compiler"
    assert set(tuned.chosen.values()) == {"torch graph"}
    assert not path.exists()


@needs_interpreter
def test_forms_that_were_asked_for_are_not_measured() -> None:
    for choice, form in (
        (AttentionChoice("torch", "PyTorch: asked for"), "torch graph"),
        (AttentionChoice("triton", "Triton kernels: asked for"), "triton graph"),
    ):
        tuned = tune(PlainGraphs(), choice)
        assert set(tuned.chosen.values()) == {form}
        assert not tuned.times


@needs_interpreter
@pytest.mark.parametrize("choice", [OPEN, *(AttentionChoice(name, "asked for") for name in ("triton", "torch"))])
def test_what_cannot_be_recorded_is_left_out(choice: AttentionChoice) -> None:
    only = tune(PlainGraphs(broken=("triton graph",)), choice, clock=lambda size, form: 9.0 - FORMS.index(form))
    expected = {"torch eager"} if choice.open else {"torch graph"}
    assert set(only.chosen.values()) == expected
    none = tune(PlainGraphs(broken=("triton graph", "torch graph")), choice)
    assert set(none.chosen.values()) == {"torch eager"}


@needs_interpreter
def test_a_batch_that_does_not_fit_goes_in_parts() -> None:
    graphs = PlainGraphs(largest=8)
    tuned = tune(graphs)
    assert graphs.sizes == (1, 2, 4, 8)
    assert tuple(tuned.chosen) == (1, 2, 4, 8)
    pixels = torch.rand(21, 3, 32, 32)
    torch.testing.assert_close(graphs(pixels), Encoder()(pixels), atol=1e-5, rtol=1e-4)
    with pytest.raises(torch.OutOfMemoryError):
        tune(PlainGraphs(largest=0))


def test_memory_that_runs_out_later_costs_the_largest_batch() -> None:
    graphs = Graphs((2,), torch.float32, CPU)
    fits = [8]

    def double(rows: torch.Tensor) -> torch.Tensor:
        if len(rows) > fits[0]:
            raise torch.OutOfMemoryError("later")
        return rows * 2

    for size in (2, 8, 4):
        graphs.keep(size, graphs.plain(size, double))
    batch = torch.arange(26.0).view(13, 2)
    assert torch.equal(graphs(batch), batch * 2)
    assert list(graphs.sizes) == [2, 4, 8]
    fits[0] = 2
    assert torch.equal(graphs(batch), batch * 2)
    assert list(graphs.sizes) == [2]
    fits[0] = 0
    with pytest.raises(torch.OutOfMemoryError):
        graphs(batch)


def test_an_output_outlives_the_next_batch() -> None:
    graphs = Graphs((1,), torch.float32, CPU)
    kept = torch.empty(4, 1)
    graphs.keep(4, lambda: torch.mul(graphs.rows(4), 3, out=kept))
    first = graphs(torch.ones(3, 1))
    graphs(torch.zeros(4, 1))
    assert torch.equal(first, torch.full((3, 1), 3.0))


def test_what_is_tested_is_what_runs() -> None:
    assert attention_shapes(Encoder().network) == [streamfer_kernels.Shape(17, 2, 16, torch.float32)]
    assert attention_shapes(torch.nn.Linear(2, 2)) == []
    times = measure({"torch graph": lambda: None, "torch eager": lambda: sum(range(20000))}, 0.0, lambda: None)
    assert times["torch eager"] > times["torch graph"] > 0
