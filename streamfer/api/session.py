"""A session: settings and the models that they name, and everything that can be done with them."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from streamfer.api.publishing import publishing, source_ended
from streamfer.api.running import Run
from streamfer.arguments import Count, Rate, Seconds, checked
from streamfer.closing import Closing
from streamfer.config import Config, configure
from streamfer.errors import ClosedError, ConfigError, PublishError, SourceError, StreamferError, UserError
from streamfer.video.locate import configured_sources, find_each, find_file, listed

if TYPE_CHECKING:
    from streamfer.build import LoadedModels
    from streamfer.captions.asking import Answer
    from streamfer.export.annotation import Annotation
    from streamfer.export.batch import Batch, BatchReport
    from streamfer.export.job import FormatNames
    from streamfer.pipeline.analysis import Onlooker
    from streamfer.pipeline.events import Event, SourceDone
    from streamfer.pipeline.loop import Pipeline
    from streamfer.records import Record
    from streamfer.video.frames import Source
    from streamfer.video.given import GivenFrames
    from streamfer.video.locate import Place, SourceSpec


class Session(Closing):
    """Settings and the models that they name, loaded once, when they are first needed; one run at a time.

    Args:
        config: a :class:`~streamfer.Config`, a YAML file, or None: the defaults and the environment.
        salt: makes the public names of tracks repeatable; random if None.
        settings: any setting by its name: ``model="dfew"``, ``captions="changes"``, ``clip__stride=0.5``.

    Raises:
        ConfigError: no such setting, or a value out of range.

    >>> with Session(model="mini", fps=4) as session:             # doctest: +SKIP
    ...     session.annotate("interview.mp4").clips
    """

    def __init__(self, config: Config | Place | None = None, *, salt: str | None = None, **settings: Any) -> None:
        # One that is empty, as by a variable that is not set, would be everybody's.
        if salt is not None and not (isinstance(salt, str) and salt):
            raise ConfigError(f"salt: {salt!r}; expected a word, or none for a random one")
        self.config = configure(config, **settings)
        self._salt = salt
        self._lock = threading.Lock()
        self._models: LoadedModels | None = None
        self._running: Pipeline | None = None
        #: What :meth:`publish` is at; None at other times.
        self.run: Run | None = None
        #: Reads the configuration's file again; None where there is none.
        self.reread: Callable[[], Config] | None = None
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "loaded" if self.loaded else "not loaded yet"
        return f"Session(model={self.config.model.name!r}, captions={self.config.captions.when!r}; {state})"

    @property
    def loaded(self) -> bool:
        """Whether the models are in memory."""
        return self._models is not None

    def licences(self) -> dict[str, str]:
        """The licence of each model that is in memory, by its name."""
        if (models := self._models) is None:
            return {}
        known = (models.expression.info, models.detector, *([models.writer.info] if models.writer else ()))
        return {one.name: one.licence for one in known}

    @checked
    def models(self, sources: Count = 1) -> LoadedModels:
        """Load the models now, or return them.

        Args:
            sources: how many are analysed side by side.

        Raises:
            ModelError: weights are missing, damaged or unknown.
            DeviceError: a device or provider was asked for and is absent.
            ClosedError: the session is closed.
        """
        with self._lock:
            self._check_open()
            if self._models is None:
                from streamfer.build import load_all

                self._models = load_all(self.config, sources)
            return self._models

    def annotate(self, path: Place) -> Annotation:
        """Find the faces of one video or picture, and label their expressions.

        Args:
            path: a file or http(s) URL.

        Raises:
            SourceError: the file is absent or cannot be decoded.
            ModelError: weights are missing or damaged.
        """
        self._check_open()
        spec = find_file(path)
        from streamfer.api.settings import settings_of
        from streamfer.export.annotation import Annotation
        from streamfer.pipeline.events import SourceDone, SourceOpened

        *events, done = self._events([self._source(spec)], live=False)
        if not isinstance(done, SourceDone):
            raise ClosedError(f"{path}: the session was stopped")
        if done.error is not None:
            raise done.error
        info = next((event.info for event in events if isinstance(event, SourceOpened)), None)
        if info is None:
            raise ConfigError(f"{path}: no frame was analysed; check the sampling settings")
        return Annotation(spec, info, tuple(events), done, settings_of(self.config, self._salt), self.licences())

    @checked
    def annotate_folder(
        self,
        paths: Place | Sequence[Place],
        output: Place = "annotations",
        *,
        formats: FormatNames = ("csv", "jsonl"),
        overlay: bool = False,
        blur_faces: bool | str = False,
        profile: str = "streamfer",
        csv_dialect: str = "plain",
        baseline: Place | None = None,
        overwrite: bool = False,
        redis: str | None = None,
        raw_size: tuple[Count, Count] | None = None,
        raw_fps: Rate | None = None,
        workers: Count | None = None,
        ray: bool | str = False,
        watch: Callable[[Any], None] | None = None,
    ) -> BatchReport:
        """Label files and folders, and write tables for each; files that are done already are skipped.

        A file that fails leaves nothing behind and ends nobody else; the report names it.

        Args:
            paths: files, folders, patterns or http(s) URLs.
            output: folder of the results.
            formats: any of ``csv parquet xlsx jsonl srt vtt eaf textgrid boris bids html overlay``.
            overlay: also the videos with boxes, names and labels.
            blur_faces: make the faces in overlays and reports unrecognisable; ``strict``: the whole frame in doubt.
            profile: columns of the frame table: ``streamfer``, ``openface`` or ``pyfeat``.
            csv_dialect: ``plain``, or ``excel``: as Excel opens it.
            baseline: hold measurements against each person's first seconds (``10s``), or against another file.
            overwrite: do files again that are done.
            redis: also publish the records: a Redis URL, or ``embedded``.
            raw_size, raw_fps: width and height, and rate, of files without a header.
            workers: files analysed side by side; as many as the cores allow if None.
            ray: work on a Ray cluster: its head's ``host:port``, or True: the one of this machine, or this machine.
            watch: called with every event, and with what is skipped or fails.

        Raises:
            ConfigError: a format is unknown, a number out of range, or faces are to be blurred in no picture.
            OutputError: results cannot be written.
            PublishError: Redis refuses or is away.
        """
        self._check_open()
        from streamfer.api.settings import check_secrecy, find_files, output_of, settings_of
        from streamfer.export.annotation import held_against
        from streamfer.export.batch import Batch, BatchPlan, Failed
        from streamfer.export.job import choose

        words: dict[str, Any] = {"profile": profile, "csv_dialect": csv_dialect, "blur_faces": blur_faces}
        settings = choose(settings_of(self.config, self._salt, raw_size, raw_fps), formats, overlay=overlay, **words)
        check_secrecy(self.config, settings)
        specs, missing = find_files(listed(paths), raw_size, raw_fps, buckets=bool(ray))
        against, settings = held_against(baseline, settings, self.annotate, self.config.clip)
        described = self.config.captions.when != "off"
        folder, bucket = output_of(output, buckets=bool(ray))
        plan = BatchPlan(folder, settings, described, overwrite, against, self.licences, bucket)
        batch = Batch(specs, plan, [Failed(place, error) for place, error in missing.items()], watch)
        if ray:
            from streamfer.api.cluster import RayRun

            left: str | None = RayRun(self, self._salt, ray, workers).annotate(batch, redis)
        elif (left := self.do(batch, redis, workers)) is not None:
            batch.write_study()
        if left:
            raise PublishError(left)
        return batch.report

    def do(self, batch: Batch, redis: str | None = None, workers: int | None = None) -> str | None:
        """Do what is still to do of a batch; return what could not be published, or None where nothing was to do.

        Raises:
            OutputError: results cannot be written.
            PublishError: Redis refuses or is away.
        """
        pending = batch.pending()
        # Nothing is loaded where nothing is to be done.
        if (first := next(pending, None)) is None:
            return None
        # A server that is away is said before the seconds that the models take to load.
        with publishing(self.config, redis, waits=False) as outlet:
            try:
                sources = map(self._source, chain([first], pending))
                for event in self._events(sources, live=False, memory=batch.progress, workers=workers):
                    batch.take(event)
                    outlet.take(event)
            finally:
                batch.discard()
        return outlet.left

    def stream(
        self,
        sources: Place | Sequence[Place] | None = None,
        *,
        frames: GivenFrames | None = None,
        frame_rate: float | None = None,
        name: str = "frames",
    ) -> Generator[Record]:
        """Yield the records of live and file sources as they are complete; leave the loop to stop.

        Each record has its source (``.subject``) and its document (``.data``): labelled clips, captions, changes of a
        source's state, gaps. A source that cannot be read becomes a record with state ``ended`` and its reason.

        Args:
            sources: paths or URLs; the configuration's own if None.
            frames: pictures of yours instead, uint8 RGB: an array (T, H, W, 3) or pictures (H, W, 3) one by one with
                ``frame_rate``, or pairs of seconds and picture.
            frame_rate: how many of them make a second; pairs bring their times.
            name: subject of the records of ``frames``.

        Raises ConfigError where there is no source, or frames have another shape or type than pictures; InternalError
        for a defect of streamfer itself.
        """
        self._check_open()
        if frames is not None:
            from streamfer.video.given import GivenSource

            if sources is not None:
                raise ConfigError("stream takes sources or frames, not both")
            if self.config.clip.mode == "whole":
                raise ConfigError("clip.mode: 'whole' reads a file twice; give a file, or frames with 'window'")
            given = GivenSource(frames, fps=frame_rate, source_id=name)
            # Whoever gave the frames made the mistake, and is the one who reads this.
            return self._records([given], live=False, told=())
        if sources is None:
            return self._stream(configured_sources(self.config), {})
        return self._stream(*find_each(listed(sources)))

    @checked
    def publish(
        self, sources: Place | Sequence[Place] | None = None, *, watch: Callable[[Event], None] | None = None
    ) -> list[SourceDone]:
        """Analyse sources and publish every record to Redis, until all have ended or :meth:`stop` is called.

        Args:
            sources: paths or URLs; the configuration's own if None.
            watch: called with every event, after its record was published.

        Returns the end of each source; one that failed carries its error.

        Raises:
            SourceError: a source is not there.
            PublishError: Redis refuses or is away.
        """
        self._check_open()
        self.run = Run(self, None if sources is None else listed(sources))
        try:
            return self.run.go(watch)
        finally:
            self.run = None

    @checked
    def ask(
        self, path: Place, question: str, *, track: int | None = None, at: Seconds | None = None, in_words: bool = False
    ) -> Answer:
        """Ask about a face of a video or picture; measurements answer unless the captioner is a model.

        Args:
            path: a file or http(s) URL.
            question: about expressions, movements, their times and strengths, or people.
            track: number of the face; the one that is seen longest if None.
            at: look around this second; at everything if None.
            in_words: a model answers in words even where yes or no would do.

        Raises:
            ConfigError: the question is empty or too long, the captioner takes none, or there is no such track.
            SourceError: the file is absent, cannot be decoded, or shows no face.
        """
        self._check_open()
        from streamfer.build import build_pipeline
        from streamfer.captions.asking import Inquiry
        from streamfer.captions.protocol import check_questions

        if not self.config.model.emotions:
            raise ConfigError("model.emotions: answers are about expressions; ask with emotions named, or annotate")
        # What is wrong with a question is said before the seconds that models take to load.
        (question,) = check_questions([question], 1)
        spec, config = find_file(path), self.config
        inquiry = Inquiry(spec.location, question, config, self._answerer, track=track, at=at, in_words=in_words)
        pipeline = build_pipeline(config, self.models(), live=False, observed=inquiry.plan)
        return inquiry.read(pipeline, [self._source(spec)])

    def stop(self) -> bool:
        """End the run that is going on soon, its complete clips labelled; return whether there was one.

        It may be called from another thread or a signal handler.
        """
        running = self._running
        if running is not None:
            running.stop()
        return running is not None

    def close(self) -> None:
        """Stop what is going on and let go of the models; may be called twice."""
        self.stop()
        self._closed = True
        models, self._models = self._models, None
        for captioner in (vars(self).pop("_answerer", None), models.writer if models else None):
            if (close := getattr(captioner, "close", None)) is not None:
                close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this session is closed; open a new one: streamfer.Session(...)")

    @functools.cached_property
    def _answerer(self) -> Any:
        """The model that answers; None where measurements do."""
        from streamfer.captions.choosing import load_model

        return load_model(self.config)

    @contextlib.contextmanager
    def at_work(self, run: Any) -> Iterator[None]:
        """Make a run the one that :meth:`stop` stops (ConfigError: there is one already)."""
        with self._lock:
            self._check_open()
            if self._running is not None:
                raise ConfigError("this session is at work; leave its loop first, or open a second session")
            self._running = run
        try:
            yield
        finally:
            self._running = None

    def _source(self, spec: SourceSpec, beside: int = 1) -> Source:
        from streamfer.build import source_of

        return source_of(spec, self.config, self.models(beside))

    def _opened(self, specs: Sequence[SourceSpec]) -> tuple[Iterable[Source], bool, int]:
        """Return what to read side by side, whether any of it is live, and how many there are."""
        return (self._source(spec, len(specs)) for spec in specs), any(spec.live for spec in specs), len(specs)

    def _events(
        self,
        sources: Iterable[Source],
        live: bool,
        beside: int = 1,
        *,
        workers: int | None = None,
        memory: Any = None,
        onlooker: Onlooker | None = None,
    ) -> Generator[Event]:
        """Run a pipeline over ``sources``, which may remember; it ends when the iteration is left."""
        from streamfer.build import build_pipeline

        models = memory.over(self.models(beside)) if memory else self.models(beside)
        pipeline = build_pipeline(self.config, models, live=live, salt=self._salt, workers=workers, onlooker=onlooker)
        pipeline.stays = self.run is not None and self.run.stays
        with self.at_work(pipeline):
            yield from pipeline.events(sources)

    def _stream(self, specs: Sequence[SourceSpec], missing: Mapping[str, SourceError]) -> Generator[Record]:
        yield from (source_ended(place, error, self.config) for place, error in missing.items())
        if specs:
            yield from self._records(*self._opened(specs), told=UserError)

    def _records(
        self, sources: Iterable[Source], live: bool, beside: int = 1, *, told: type[StreamferError] | tuple[()]
    ) -> Generator[Record]:
        """Yield the records of a run; a source's error that its last record has not ``told`` is raised."""
        from streamfer.pipeline.events import SourceDone
        from streamfer.records import Record

        with contextlib.closing(self._events(sources, live, beside)) as events:
            for event in events:
                if isinstance(event, Record):
                    yield event
                elif isinstance(event, SourceDone) and event.error is not None and not isinstance(event.error, told):
                    raise event.error
