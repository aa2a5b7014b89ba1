"""From a configuration to a pipeline with everything loaded."""

from __future__ import annotations

import copy
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from streamfer.config import Config
from streamfer.errors import ConfigError
from streamfer.faces import FaceTracker, TrackNames, load_detector
from streamfer.faces.appearance import Appearance, colours_and_gradients
from streamfer.faces.detections import Detector
from streamfer.faces.tracking import BRIEF
from streamfer.models import ExpressionModel, load_model
from streamfer.models.expression import FixedBlocks
from streamfer.pipeline.analysis import AnalysisPlan, DetectorPool, Onlooker
from streamfer.pipeline.loop import Pipeline
from streamfer.pipeline.observer import ClipObserver, ObserverPlan, RunContext
from streamfer.pipeline.reports import RecordWriter
from streamfer.pipeline.selection import Selector, TimeSelector, WholeClipSelector
from streamfer.pipeline.windows import WindowGrid
from streamfer.threads import ThreadBudget, apply_libraries, plan_threads
from streamfer.video.frames import Source, VideoInfo
from streamfer.video.locate import SourceSpec
from streamfer.video.sources import open_source
from streamfer.video.surfaces import gpu_of

if TYPE_CHECKING:
    from streamfer.captions.protocol import Writer

#: Crops and windows that the model reads at once where results must be exact.
_BLOCK = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """Models and threads of a run; several pipelines may use them one after another."""

    expression: ExpressionModel
    detectors: tuple[Detector, ...]  #: at least one; at most as many detections run at once
    budget: ThreadBudget  #: threads they were loaded for
    appearance: Appearance | None = colours_and_gradients  #: what tells people apart in tracking; boxes alone if None
    writer: Writer | None = None  #: describes clips, where it was asked for

    @property
    def detector(self) -> Detector:
        """One of the detectors; they are all alike."""
        return self.detectors[0]


def load_all(config: Config, sources: int = 1) -> LoadedModels:
    """Load all that ``config`` asks for, within one thread budget, for so many sources side by side.

    Raises:
        ModelError: weights are missing, damaged or unknown.
        DeviceError: a device or provider was asked for and is absent.
    """
    budget = plan_threads(config.threads, sources)
    apply_libraries(budget)
    writer = None
    if config.captions.when != "off":
        from streamfer.captions.choosing import load_writer

        # Started first: it loads while the others do.
        writer = load_writer(config, threads=max(1, budget.total // 4))
    # Small detectors gain more from several running side by side than from many threads in one.
    # On few cores two all the same: while one searches, whatever else there is to do keeps only one core busy.
    workers = max(1, min(max(budget.detect, 2), budget.total, sources))
    faces = config.faces
    detectors = tuple(
        load_detector(
            faces.detector,
            threshold=faces.threshold,
            det_size=faces.det_size,
            max_faces=faces.max_faces,
            threads=max(1, budget.detect // workers),
            # One source is what all else waits for.
            whole_threads=min(2, budget.total) if workers == 1 else 1,
            provider=faces.provider,
            for_tracking=True,
        )
        for _ in range(workers)
    )
    expression = load_model(
        config.model.name,
        device=config.model.device,
        precision=config.model.precision,
        attention=config.model.attention,
    )
    log.info(
        "models.loaded", extra={"expression": expression.info.name, "detector": detectors[0].name, **asdict(budget)}
    )
    appearance: Appearance | None = None if faces.appearance == "none" else colours_and_gradients
    if faces.appearance not in ("colour", "none"):
        from streamfer.faces.embedding import ArcFaceAppearance

        appearance = ArcFaceAppearance.from_pack(faces.appearance, provider=faces.provider)
    if writer is not None:
        info = writer.info
        log.info("captioner.loaded", extra={"captioner": info.name, "device": info.device, "precision": info.precision})
    return LoadedModels(expression, detectors, budget, appearance, writer)


def build_pipeline(
    config: Config,
    models: LoadedModels,
    *,
    live: bool,
    salt: str | None = None,
    observed: ObserverPlan | None = None,
    workers: int | None = None,
    onlooker: Onlooker | None = None,
) -> Pipeline:
    """Assemble a pipeline.

    Args:
        live: all sources are opened at once; files are taken a few at a time.
        salt: makes the public names of tracks repeatable; random if None.
        observed: which clips are shown to whom; to the captioner, as ``config`` and ``models`` say, if None.
        workers: files analysed side by side; half as many as there are threads if None.
        onlooker: is shown every analysed picture.

    Raises:
        ConfigError: whole-clip mode was asked of live sources, or emotions are withheld and nothing is left to say.
    """
    if live and config.clip.mode == "whole":
        raise ConfigError("clip.mode: 'whole' needs files, which end; a live source needs 'window'")
    info = models.expression.info
    if not config.model.emotions and not info.action_units:
        raise ConfigError(
            f"model.emotions: {info.name} reads no action units, so nothing would be left; choose another model"
        )
    if not config.model.emotions and config.captions.when != "off":
        from streamfer.captions.writers import BUILT_IN

        if config.captions.model not in BUILT_IN:
            raise ConfigError(
                f"model.emotions: {config.captions.model} may name emotions; only 'measured' words do not"
            )
    names = TrackNames(salt)
    observed = observed or caption_plan(config, models, live=live)
    return Pipeline(
        plan=_plan(config, models, observed, onlooker),
        detectors=DetectorPool(models.detectors),
        # What stands in files must not depend on what ran beside.
        model=models.expression if live else FixedBlocks(models.expression, min(_BLOCK, config.model.batch_size)),
        grid=WindowGrid.of(config.clip, config.sampling, info.frames),
        records=RecordWriter(
            info,
            models.detector.name,
            config.publish.site,
            names.name,
            emotions=config.model.emotions,
            purpose=config.purpose,
        ),
        max_open=None if live else workers or max(1, models.budget.total // 2),
    )


def caption_plan(config: Config, models: LoadedModels, *, live: bool) -> ObserverPlan | None:
    """Return how clips are described: not at all without a captioner; files wait for their captions."""
    writer, captions = models.writer, config.captions
    if writer is None:
        return None
    from streamfer.captions.worker import CaptionWorker

    def worker(run: RunContext) -> ClipObserver:
        return CaptionWorker(writer, captions, run, patient=not live)

    return ObserverPlan(writer.info.crop, worker, captions)


def source_of(spec: SourceSpec, config: Config, models: LoadedModels) -> Source:
    """Return what reads ``spec``."""
    gpu = _gpu_that_decodes(spec, config, models.expression.info.device)
    return open_source(spec, config.live, decode_threads=models.budget.decode, gpu=gpu)


def _gpu_that_decodes(spec: SourceSpec, config: Config, device: str) -> int | None:
    """Return the number of the GPU that decodes a source, that of the model's ``device``; None: the CPU does."""
    wanted = config.model.decode == "gpu" or (config.model.decode == "auto" and spec.live)
    return gpu_of(device) if wanted else None


def _plan(
    config: Config, models: LoadedModels, observed: ObserverPlan | None, onlooker: Onlooker | None
) -> AnalysisPlan:
    reads = models.expression.info
    fps = config.sampling.fps

    def selector(source: Source) -> Selector:
        if config.clip.mode == "whole":
            return WholeClipSelector(_count_frames(source), reads.frames, fps)
        return TimeSelector(fps)

    def tracker(info: VideoInfo) -> FaceTracker:
        sampled = min(fps, info.declared_fps) if info.declared_fps else fps
        # Too short to confirm anybody over several frames: every face counts, as in a still.
        brief = info.duration is not None and info.duration * sampled < BRIEF
        return FaceTracker(sampled, still=info.still or brief, appearance=models.appearance)

    return AnalysisPlan(
        config=config,
        crop=reads.crop,
        selector=selector,
        tracker=tracker,
        observed=observed,
        onlooker=onlooker,
        crops_on=reads.device if reads.takes_tensors else None,
    )


def _count_frames(source: Source) -> int:
    """Decode a copy of ``source`` to its end: containers state frame counts that do not hold."""
    twin = copy.copy(source)
    for _ in twin.stream(lambda _epoch, _seconds, _index: False):
        continue
    return max(1, twin.frames_decoded)
