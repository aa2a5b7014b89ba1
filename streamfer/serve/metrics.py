"""The numbers of a run as Prometheus reads them; series are named by the sources' ids."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, ProcessCollector, core, generate_latest
from prometheus_client.registry import Collector

from streamfer.serve.board import LATENCIES, Board

if TYPE_CHECKING:
    from streamfer.api import Session
    from streamfer.api.running import Run

_COUNTED = {
    "frames": ("pictures by how far they came", "stage"),
    "frames_dropped": ("pictures that were not analysed", "cause"),
    "reconnects": ("connections that were lost or failed", "reason"),
    "gaps": ("gap records", "cause"),
}


class Metrics(Collector):
    """Reads a run's board and queues when it is asked."""

    def __init__(self, session: Session, board: Board) -> None:
        self._session = session
        self._board = board
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[core.Metric]:
        """Yield every metric."""
        counted = {
            name: core.CounterMetricFamily(f"streamfer_{name}", words, labels=["source", label])
            for name, (words, label) in _COUNTED.items()
        }
        one: dict[str, Any] = {"labels": ["source"]}
        up = core.GaugeMetricFamily("streamfer_source_up", "whether pictures come", **one)
        lag = core.GaugeMetricFamily("streamfer_source_lag_seconds", "age of the newest analysed picture", **one)
        took = core.HistogramMetricFamily(
            "streamfer_clip_latency_seconds", "from the end of a clip to its label", **one
        )
        for source, known in self._board.standings().items():
            up.add_metric([source], float(known.state == "online"))
            if known.lag is not None:
                lag.add_metric([source], known.lag)
            for (name, label), count in list(known.counts.items()):
                counted[name].add_metric([source, label], count)
            groups, seconds = known.latencies
            sums = accumulate(groups[limit] for limit in LATENCIES)
            buckets = [
                ("+Inf" if limit > 1e9 else str(limit), total) for limit, total in zip(LATENCIES, sums, strict=True)
            ]
            took.add_metric([source], buckets, seconds)
        yield from (up, lag, took, *counted.values())
        if (run := self._session.run) is not None:
            yield from _of_run(run)
        # While it is imported it is there in part.
        cuda = getattr(sys.modules.get("torch"), "cuda", None)
        if cuda is not None and hasattr(cuda, "memory_allocated") and cuda.is_initialized():
            words = "memory of the GPU that tensors hold"
            yield core.GaugeMetricFamily("streamfer_gpu_memory_bytes", words, value=cuda.memory_allocated())


def _of_run(run: Run) -> Iterator[core.Metric]:
    depth = core.GaugeMetricFamily("streamfer_queue_depth", "entries that wait", labels=["queue"])
    if (pipeline := run.pipeline) is not None:
        for queue, entries in pipeline.depths().items():
            depth.add_metric([queue], entries)
        batches, crops = pipeline.clock.calls.get("encode", 0), pipeline.clock.counts.get("encode", 0)
        yield core.SummaryMetricFamily("streamfer_batch_size", "crops encoded together", batches, crops)
    if (delivery := run.outlet.delivery) is not None:
        depth.add_metric(["publish"], delivery.waiting)
        yield core.GaugeMetricFamily("streamfer_spool_bytes", "what waits on disk", value=delivery.spool_bytes)
        yield core.CounterMetricFamily("streamfer_published", "records that Redis has taken", value=delivery.published)
        yield core.CounterMetricFamily("streamfer_redis_errors", "attempts that Redis failed", value=delivery.errors)
    yield depth
