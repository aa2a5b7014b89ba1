"""Spans of a run for OpenTelemetry: one a source, from its first state to its end, and one a clip."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from streamfer.addresses import AddressError, read_address
from streamfer.closing import Closing
from streamfer.errors import ConfigError
from streamfer.extras import needs
from streamfer.records import ClipLabelled, Record, SourceStateChanged

if TYPE_CHECKING:
    from opentelemetry.trace import Span

# The library waits for it at the end, too.
_ANSWER_SECONDS = 2


class Tracer(Closing):
    """Sends spans to an OTLP/HTTP collector, from a thread of its own: one that is away delays nothing.

    A clip's span is a trace of its own, from the arrival of its last picture to its record, linked to its source's: a
    camera may run for years. Spans hold times and names, and nothing of the faces. ``OTEL_TRACES_SAMPLER``,
    ``OTEL_EXPORTER_OTLP_HEADERS`` and their like count. The collector's address is without its path.

    Raises:
        ConfigError: the address is none, or holds credentials.
    """

    def __init__(self, address: str, site: str) -> None:
        try:
            plain = read_address(address).scheme in ("http", "https") and "@" not in address
        except AddressError:
            plain = False
        if not plain:
            raise ConfigError(
                "health.traces: write http://HOST:4318, without a user (OTEL_EXPORTER_OTLP_HEADERS holds credentials)"
            )
        with needs("otel", "health.traces"):
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import Link
        about = {"service.name": "streamfer", "service.version": version("streamfer"), "streamfer.site": site}
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(f"{address.rstrip('/')}/v1/traces", timeout=_ANSWER_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("streamfer")
        self._link = Link
        self._sources: dict[str, Span] = {}

    def trace(self, record: Record) -> Record:
        """Note what a record tells, and return it with its place in a trace."""
        if isinstance(record.data, SourceStateChanged):
            return self._state(record, record.data)
        return self._clip(record, record.data) if isinstance(record.data, ClipLabelled) else record

    def close(self) -> None:
        """End what is open, and send what waits; a collector that is away may cost some seconds."""
        for span in self._sources.values():
            span.end()
        self._sources.clear()
        self._provider.shutdown()

    def _state(self, record: Record, change: SourceStateChanged) -> Record:
        span = self._sources.get(record.subject)
        if span is None:
            span = self._sources[record.subject] = self._tracer.start_span(
                "source", attributes={"streamfer.source": record.subject}
            )
        span.add_event(change.state, {"reason": change.reason, "epoch": change.epoch})
        if change.state == "ended":
            self._sources.pop(record.subject).end()
        return _placed(record, span)

    def _clip(self, record: Record, data: ClipLabelled) -> Record:
        now, latency = time.time_ns(), data.latency_ms
        parts = {f"streamfer.{name}_ms": getattr(latency, name) for name in ("decode", "queue", "infer")}
        about = {"streamfer.source": record.subject, "streamfer.record": record.id, **parts}
        source = self._sources.get(record.subject)
        links = [self._link(source.get_span_context())] if source else []
        span = self._tracer.start_span("clip", attributes=about, links=links, start_time=now - int(latency.total * 1e6))
        span.end(now)
        return _placed(record, span)


def _placed(record: Record, span: Span) -> Record:
    place = span.get_span_context()
    return replace(record, traceparent=f"00-{place.trace_id:032x}-{place.span_id:016x}-{place.trace_flags:02x}")
