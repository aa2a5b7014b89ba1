"""The loop: sources in, events out, every queue between them bounded.

Threads: two a source (:mod:`streamfer.pipeline.analysis`), one for the model, what an observer of clips has of its own
(:mod:`streamfer.pipeline.observer`), and the caller's, which takes events. A slow consumer makes the model's thread
wait, that makes the analysers wait, and those make files wait and live sources drop: memory never grows with the
length of a video.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator

from streamfer.config import Config
from streamfer.models.expression import ExpressionModel
from streamfer.pipeline.analysis import AnalysisPlan, DetectorPool, SourceAnalysis
from streamfer.pipeline.batcher import Batcher
from streamfer.pipeline.clock import StageClock
from streamfer.pipeline.events import Event, SourceDone
from streamfer.pipeline.items import Ended, Item, Replaced
from streamfer.pipeline.labelling import Labeller
from streamfer.pipeline.ledger import Naps
from streamfer.pipeline.observer import ClipChooser, ClipObserver, ObservedClip, RunContext
from streamfer.pipeline.reports import RecordWriter
from streamfer.pipeline.windows import WindowGrid
from streamfer.video.frames import Source

_ITEMS = 64
_LIVE_ITEMS = 4
#: Of ``live.staleness``: how long a batch may take.
_BATCH_SHARE = 0.25
#: Share of the time that the encoder is busy from which on live crops wait longer, in proportion: of 32 together each
#: costs two thirds of what it does among 8, and where many come, that is worth more than the wait.
_BUSY = 1 / 8
_EVENTS = 256
_POLL_SECONDS = 0.2
#: Seconds that the crops of files wait for company.
_PATIENCE = 1.0


class Pipeline:
    """Analyses sources, with everything that this needs already loaded, and yields what it finds.

    One pipeline makes one run: :meth:`events` may be iterated once. ``max_open`` sources are analysed at the same time;
    all (live) if None.
    """

    def __init__(
        self,
        plan: AnalysisPlan,
        detectors: DetectorPool,
        model: ExpressionModel,
        grid: WindowGrid,
        records: RecordWriter,
        max_open: int | None = None,
    ) -> None:
        self._plan, self._detectors, self._model = plan, detectors, model
        self._grid, self._records, self._max_open = grid, records, max_open
        self._stop = threading.Event()
        # Live, what waits for the model is soon out of date.
        self._items: queue.Queue[Item] = queue.Queue(_ITEMS if max_open else _LIVE_ITEMS)
        self._events: queue.Queue[Event | BaseException | None] = queue.Queue(_EVENTS)
        self._open: dict[str, tuple[Source, threading.Thread]] = {}
        self._next: dict[str, Source] = {}
        #: The run goes on where no source is open, for others may come.
        self.stays = False
        self.clock = StageClock()

    def stop(self) -> None:
        """End the run soon: complete windows are still labelled, and every source still gets its end."""
        self._stop.set()
        for source, _ in list(self._open.values()):
            source.close()

    def replace(self, source_id: str, source: Source | None) -> None:
        """Let a source join the run, once another of its id has ended; None: end that, and nothing more."""
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(Replaced(source_id, source), timeout=_POLL_SECONDS)
                return

    def depths(self) -> dict[str, int]:
        """Return how much waits in each queue."""
        return {"model": self._items.qsize(), "events": self._events.qsize()}

    def events(self, sources: Iterable[Source]) -> Generator[Event]:
        """Analyse ``sources`` and yield events until the last source has ended.

        Sources, with unique ids, are taken as places become free. Leaving the iteration early stops the run.

        Raises:
            StreamferError: the model or the loop failed. A source that fails does not raise: its
                ``SourceDone`` carries the error and the others go on.
        """
        worker = threading.Thread(target=self._work, args=(iter(sources),), name="streamfer model", daemon=True)
        worker.start()
        try:
            while (event := self._events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self.stop()
            while worker.is_alive():
                self._drain(self._events)
                worker.join(_POLL_SECONDS)

    def _work(self, sources: Iterator[Source]) -> None:
        batching = self._plan.config.model
        # Nobody waits for the labels of a file, so that the model may read full batches.
        patient = self._max_open is not None
        batcher = Batcher(self._items, max_crops=batching.batch_size, max_wait=batching.batch_wait)
        plan = self._plan.observed
        observer: ClipObserver | None = None
        try:
            observer = plan.open(RunContext(self._events.put, self._stop, self.clock)) if plan else None
            chooser = ClipChooser(plan.captions, self._model.info) if plan else None
            window = self._plan.config.clip.seconds
            naps = Naps(self._stop)
            labeller = Labeller(
                self._model, self._grid, self._records, self.clock, batching.batch_size, window, chooser, naps.through
            )
            began = time.perf_counter()
            self._open_more(sources)
            while self._open or (self.stays and not self._stop.is_set()):
                batcher.max_crops = self._most_crops()
                busy = self.clock.seconds.get("encode", 0.0) / (time.perf_counter() - began)
                batcher.max_wait = _PATIENCE if patient else longest_wait(self._plan.config, busy)
                items = batcher.next(_POLL_SECONDS)
                for entry in [*labeller.process(items), *labeller.missing(time.time())]:
                    self._deliver(entry, observer)
                for item in items:
                    if isinstance(item, Replaced):
                        self._replace(item)
                    elif isinstance(item, Ended):
                        _, thread = self._open.pop(item.source_id)
                        thread.join()
                        if (follower := self._next.pop(item.source_id, None)) and not self._stop.is_set():
                            self._begin(follower)
                        self._open_more(sources)
        except Exception as error:
            self._events.put(error)
            self._abandon()
        finally:
            if observer is not None:
                observer.close()
            self._stop.set()
            self._events.put(None)

    def _most_crops(self) -> int:
        """Return how many crops to encode at once: live, what waits for a batch must not grow old over it."""
        config = self._plan.config
        crops, seconds = self.clock.counts.get("encode", 0), self.clock.seconds.get("encode", 0.0)
        if self._max_open or not crops:
            return config.model.batch_size
        return min(
            config.model.batch_size, max(1, int(_BATCH_SHARE * config.live.staleness * crops / max(seconds, 1e-9)))
        )

    def _deliver(self, entry: Event | ObservedClip, observer: ClipObserver | None) -> None:
        """Hand an event to the consumer; chosen clips, and the ends behind them, to the observer."""
        if observer is not None and isinstance(entry, ObservedClip | SourceDone):
            observer.take(entry)
        elif not isinstance(entry, ObservedClip):
            self._events.put(entry)

    def _open_more(self, sources: Iterator[Source]) -> None:
        limit = self._max_open
        while not self._stop.is_set() and (limit is None or len(self._open) < limit):
            source = next(sources, None)
            if source is None:
                return
            self._begin(source)

    def _replace(self, item: Replaced) -> None:
        self._next.pop(item.source_id, None)
        if (before := self._open.get(item.source_id)) is not None:
            before[0].close()
            if item.source is not None:
                self._next[item.source_id] = item.source
        elif item.source is not None and not self._stop.is_set():
            self._begin(item.source)

    def _begin(self, source: Source) -> None:
        analysis = SourceAnalysis(source, self._plan, self._detectors, self._items.put, self._stop, self.clock)
        thread = threading.Thread(target=analysis.run, name=f"analyse {source.source_id}", daemon=True)
        self._open[source.source_id] = (source, thread)
        thread.start()

    def _abandon(self) -> None:
        """After a fault of the model: stop the sources and keep taking their items until all have ended."""
        self.stop()
        threads = [thread for _, thread in self._open.values()]
        while any(thread.is_alive() for thread in threads):
            self._drain(self._items)
            threads[0].join(_POLL_SECONDS)

    @staticmethod
    def _drain(waiting: queue.Queue[Item] | queue.Queue[Event | BaseException | None]) -> None:
        while True:
            try:
                waiting.get_nowait()
            except queue.Empty:
                return


def longest_wait(config: Config, busy: float) -> float:
    """Return the seconds that a live crop may wait for company while the encoder is busy for this share of the time."""
    wait = config.model.batch_wait
    return max(wait, min(wait * busy / _BUSY, _BATCH_SHARE * config.live.staleness))
