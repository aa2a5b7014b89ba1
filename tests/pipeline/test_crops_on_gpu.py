"""Frames that also lie where the model runs are cut there; whoever looks on the host sees what it always did.

Tensors on the CPU stand in for those on a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes.faces import FakeDetector
from fakes.models import FakeExpressionModel
from fakes.video import FakeSource
from numpy.typing import NDArray
from scenes import CONFIG, clips, one_face, run, two_faces

from streamfer.build import LoadedModels, build_pipeline
from streamfer.faces.alignment import crop_faces
from streamfer.faces.tracking import FaceTracker
from streamfer.models.expression import FixedBlocks
from streamfer.pipeline.analysis import AnalysisPlan, DetectorPool, SourceAnalysis
from streamfer.pipeline.clock import StageClock
from streamfer.pipeline.items import AnalysedFrame, Item
from streamfer.pipeline.observer import ObserverPlan
from streamfer.pipeline.selection import TimeSelector
from streamfer.threads import plan_threads
from streamfer.video.frames import Frame, FrameFilter, StateChange


class There(FakeSource):
    """A source whose frames lie on the device of the model as well."""

    def stream(self, wanted: FrameFilter | None = None) -> Iterator[Frame | StateChange]:
        for item in super().stream(wanted):
            yield replace(item, surface=torch.from_numpy(item.image)) if isinstance(item, Frame) else item


class TakesTensors(FakeExpressionModel):
    def __init__(self) -> None:
        super().__init__()
        self._info = replace(self._info, takes_tensors=True)
        self.tensors = 0

    def encode(self, crops: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        if isinstance(crops, torch.Tensor):
            self.tensors += len(crops)
            crops = crops.numpy()
        return super().encode(crops)


def sources(kind: type[FakeSource]) -> list[FakeSource]:
    """One of the kind and one whose frames are on the host alone, read side by side."""
    return [kind(one_face, count=40, fps=8, source_id="a"), FakeSource(two_faces, count=40, fps=8, source_id="b")]


def test_crops_of_both_places_are_encoded_together_to_nearly_the_same_numbers() -> None:
    model = TakesTensors()
    there, here = run(sources(There), model=model), run(sources(FakeSource))
    assert model.tensors >= 40
    for source in ("a", "b"):
        labels = [(one, other) for one, other in zip(clips(there, source), clips(here, source), strict=True)]
        assert labels
        for one, other in labels:
            assert one.clip == other.clip
            there_read, here_read = one.faces[0].emotions, other.faces[0].emotions
            np.testing.assert_allclose(list(there_read.values()), list(here_read.values()), atol=0.01)


def test_a_model_that_takes_none_reads_the_same_bytes_as_ever() -> None:
    there, here = FakeExpressionModel(), FakeExpressionModel()
    run([There(one_face, count=20, fps=8)], model=there)
    run([FakeSource(one_face, count=20, fps=8)], model=here)
    assert there.seen == here.seen
    assert there.seen


def test_blocks_of_fixed_size_take_tensors() -> None:
    crops = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    model = TakesTensors()
    torch.testing.assert_close(FixedBlocks(model, 4).encode(crops), FakeExpressionModel().encode(crops.numpy()))
    assert model.batches == [4, 4]


def analysed(crops_on: str | None, observed: ObserverPlan | None = None) -> list[AnalysedFrame]:
    plan = AnalysisPlan(
        CONFIG,
        FakeExpressionModel().info.crop,
        lambda _: TimeSelector(8),
        lambda _: FaceTracker(8),
        observed,
        crops_on=crops_on,
    )
    out = list[Item]()
    source, detectors = There(one_face, count=10, fps=8), DetectorPool([FakeDetector()])
    SourceAnalysis(source, plan, detectors, out.append, threading.Event(), StageClock()).run()
    return [item for item in out if isinstance(item, AnalysedFrame) and len(item.crops)]


def test_an_observer_sees_what_is_cut_on_the_host_even_where_it_wants_the_same_crop() -> None:
    crop = FakeExpressionModel().info.crop
    frames = analysed("cpu", ObserverPlan(crop, lambda _: None, CONFIG.captions))  # type: ignore[arg-type,return-value]
    assert frames
    for frame in frames:
        assert isinstance(frame.crops, torch.Tensor)
        (face,) = frame.faces
        image = one_face(frame.facts.index)
        np.testing.assert_array_equal(
            frame.portraits[0], crop_faces(image, face.box[None], face.landmarks[None], crop)[0]
        )


@pytest.mark.parametrize("crops_on", ["cuda:1", None])
def test_a_frame_that_lies_elsewhere_is_cut_on_the_host(crops_on: str | None) -> None:
    frames = analysed(crops_on)
    assert frames
    assert all(isinstance(frame.crops, np.ndarray) for frame in frames)


@pytest.mark.parametrize(("takes", "crops_on"), [(True, "cpu"), (False, None)])
def test_crops_are_cut_where_the_model_takes_them(takes: bool, crops_on: str | None) -> None:
    model = TakesTensors() if takes else FakeExpressionModel()
    models = LoadedModels(model, (FakeDetector(),), plan_threads(2))
    assert build_pipeline(CONFIG, models, live=True)._plan.crops_on == crops_on


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_gpu_without_room_leaves_crops_to_the_host(monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    def full(*_: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr("streamfer.pipeline.analysis.crop_surface", full)
    frames = analysed("cpu")
    assert frames
    assert all(isinstance(frame.crops, np.ndarray) for frame in frames)
