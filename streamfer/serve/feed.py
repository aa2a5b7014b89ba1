"""What the page shows: the records of the last minutes, followed once, and read by every open page."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from streamfer.closing import Closing
from streamfer.config import PublishConfig
from streamfer.errors import PublishError, RecordError
from streamfer.publish import Lost, Subscription, subscribe
from streamfer.publish.append import text
from streamfer.publish.connection import TROUBLE, explain, make_client
from streamfer.publish.keys import Keys
from streamfer.publish.reading import Entry
from streamfer.records import ClipCaptioned, ClipLabelled, Gap, Record
from streamfer.redaction import redact_text

#: Seconds of records that a page gets when it opens, and how many records of them at most.
KEPT_SECONDS, MOST_KEPT = 600.0, 20_000
#: Records that one look back hands out.
MOST_FOUND = 5_000
_PULSE_SECONDS = 0.25
_STATUS_SECONDS = 2.0
#: A page that has not read for a minute gets everything anew.
_BATCHES = int(60 / _PULSE_SECONDS)
_AWAY_SECONDS = 2.0
_SOURCES = 1_000
_LONGEST_TEXT = 2_000
#: Messages that are told at once to a page that opens.
_CHUNK = 1000
#: A picture is asked for again every second.
_ASKED_SECONDS = 5
_SHOWN = ("state", "reason", "lag", "dropped", "preview")

log = logging.getLogger(__name__)
Message = Mapping[str, Any]


class Feed(Closing):
    """Follows the records as any subscriber does, for as long as it is open, whatever Redis does meanwhile.

    ``paused`` says which sources are; it is called from a thread of its own.
    """

    def __init__(self, publish: PublishConfig, url: str, paused: Callable[[], frozenset[str]] = frozenset) -> None:
        self._publish, self._url, self._paused = publish, url, paused
        self._client = make_client(url)
        self._lock = threading.Lock()
        # When it was, of which source it is a clip (nothing: of none), and its JSON, made once for all pages.
        self._kept: deque[tuple[float, str, str]] = deque(maxlen=MOST_KEPT)
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._fresh: list[Message] = []
        self._batches: deque[tuple[int, str]] = deque(maxlen=_BATCHES)
        self._number = 0
        self._standing: Message = {"kind": "standing", "words": "connecting to Redis", "bad": True}
        self._status: Message = {"kind": "status", "sources": {}}
        self._counts: OrderedDict[str, Counter[str]] = OrderedDict()
        self._closed = threading.Event()
        works = (self._follow, self._pulse, self._watch)
        self._threads = [
            threading.Thread(target=work, name=f"streamfer {work.__name__[1:]}", daemon=True) for work in works
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop following."""
        self._closed.set()
        for thread in self._threads:
            thread.join(_AWAY_SECONDS)
        self._client.close()

    def everything(self) -> tuple[int, Iterator[str]]:
        """Return the number of the last batch, and what is known now as JSON arrays of at most a thousand messages."""
        with self._lock:
            # What is fresh comes with the next batch.
            number, now, kept = self._number, [self._standing, self._status], list(self._kept)
        told = [*map(json.dumps, now), *(text for _, _, text in kept)]
        return number, (_array(told[at : at + _CHUNK]) for at in range(0, len(told), _CHUNK))

    def after(self, number: int) -> list[tuple[int, str]] | None:
        """Return the batches behind one, by number; None where some of them are gone already."""
        with self._lock:
            found = [batch for batch in self._batches if batch[0] > number]
            return found if len(found) == self._number - number else None

    def history(self, begin: float, end: float) -> tuple[list[Message], bool]:
        """Read what Redis still holds of a time, Unix seconds; return it, and whether there was more.

        Raises:
            PublishError: Redis is away or refuses.
        """
        keys = Keys(self._publish.prefix, self._publish.partitions).streams(("clips", "captions"))
        first, last = int(begin * 1000), int(end * 1000)
        try:
            replies: list[Any] = [self._client.xrange(key, first, last, count=MOST_FOUND + 1) for key in keys]
        except TROUBLE as error:
            raise PublishError(explain(self._url, error)) from error
        entries = (Entry.of(key, *entry) for key, reply in zip(keys, replies, strict=True) for entry in reply)
        records = (entry.record for entry in entries if entry.record)
        found = sorted((message for record in records for message in said_of(record)), key=itemgetter("t"))
        return found[:MOST_FOUND], len(found) > MOST_FOUND

    def preview(self, source_id: str) -> bytes | None:
        """Ask for pictures of a source for some seconds more; return the newest as JPEG, None where there is none.

        Raises:
            PublishError: Redis is away or refuses.
        """
        keys = Keys(self._publish.prefix)
        try:
            # Of sources that nobody knows no key is written, whatever a page asks for.
            if source_id not in self._status["sources"]:
                return None
            self._client.set(keys.asked(source_id), 1, ex=_ASKED_SECONDS)
            found: Any = self._client.get(keys.preview(source_id))
        except TROUBLE as error:
            raise PublishError(explain(self._url, error)) from error
        return None if found is None else bytes(found)

    def _subscribed(self, since: float, on_lost: Callable[[Lost], object]) -> Subscription:
        return subscribe(
            self._url,
            streams=("clips", "captions", "sources"),
            since=datetime.fromtimestamp(since, UTC),
            prefix=self._publish.prefix,
            partitions=self._publish.partitions,
            block_s=_PULSE_SECONDS,
            idle_s=_PULSE_SECONDS,
            reconnect_s=_AWAY_SECONDS,
            on_lost=on_lost,
        )

    def _follow(self) -> None:
        since = time.time() - KEPT_SECONDS
        while not self._closed.is_set():
            try:
                with self._subscribed(since, self._tell_lost) as records:
                    self._stand("following", bad=False)
                    # Idle, it ends the loop and may be asked again.
                    while not self._closed.is_set():
                        for record in records:
                            since = max(since, record.recordedtime.timestamp())
                            self._take(record)
                            if self._closed.is_set():
                                return
            except (PublishError, RecordError) as error:
                # A page that says so is of more use than one that is gone.
                self._stand(redact_text(" ".join(str(error).split())), bad=True)
                since -= 1.0
                self._closed.wait(_AWAY_SECONDS)
            except Exception:
                log.exception("serve.feed")
                self._closed.wait(_AWAY_SECONDS)

    def _take(self, record: Record) -> None:
        if record.id in self._seen:
            return
        self._seen[record.id] = None
        if len(self._seen) > MOST_KEPT:
            self._seen.popitem(last=False)
        count = self._counts.setdefault(record.subject, Counter())
        if len(self._counts) > _SOURCES:
            self._counts.popitem(last=False)
        if isinstance(record.data, Gap):
            count["gaps"] += 1
        said = said_of(record)
        with self._lock:
            self._fresh += said
            self._fresh = self._fresh[-MOST_KEPT:]

    def _tell_lost(self, lost: Lost) -> None:
        self._counts.setdefault(lost.subject, Counter())["gaps"] += 1

    def _stand(self, words: str, *, bad: bool) -> None:
        with self._lock:
            self._standing = {"kind": "standing", "words": words, "bad": bad}
            self._fresh.append(self._standing)

    def _pulse(self) -> None:
        """Make a batch of what came, once for all pages."""
        while not self._closed.wait(_PULSE_SECONDS):
            now = time.time()
            with self._lock:
                while self._kept and self._kept[0][0] < now - KEPT_SECONDS:
                    self._kept.popleft()
                if not self._fresh:
                    continue
                texts = [json.dumps(one) for one in self._fresh]
                for one, text in zip(self._fresh, texts, strict=True):
                    if "t" in one:
                        self._kept.append((one["t"], one["source"] if one["kind"] == "clip" else "", text))
                self._number += 1
                self._batches.append((self._number, _array(texts)))
                self._fresh = []

    def _watch(self) -> None:
        """Read the status of every source every two seconds."""
        while not self._closed.wait(_STATUS_SECONDS):
            try:
                statuses, paused = dict(self._statuses()), self._paused()
            except TROUBLE as error:
                self._stand(redact_text(explain(self._url, error)), bad=True)
                continue
            with self._lock:
                since = time.time() - 60.0
                rates = Counter(source for moment, source, _ in self._kept if moment > since and source)
            sources = {
                name: {**statuses.get(name, {"state": "unknown"}), **self._counts.get(name, {}), "rate": rates[name]}
                | {"paused": name in paused}
                for name in {*statuses, *rates}
            }
            with self._lock:
                self._status = {"kind": "status", "sources": sources}
                self._fresh.append(self._status)
                if self._standing["bad"] and self._standing["words"] != "connecting to Redis":
                    self._standing = {"kind": "standing", "words": "following", "bad": False}
                    self._fresh.append(self._standing)

    def _statuses(self) -> Iterator[tuple[str, dict[str, Any]]]:
        start = f"{self._publish.prefix}:status:"
        for key in self._client.scan_iter(match=f"{start}*", count=500, _type="HASH"):
            known: Any = self._client.hgetall(key)
            facts = {text(field): text(value) for field, value in known.items()}
            yield text(key).removeprefix(start), {field: facts[field] for field in _SHOWN if facts.get(field)}


def said_of(record: Record) -> list[Message]:
    """Return what a page is told of a record; nothing of kinds that it does not show."""
    data, when = record.data, record.recordedtime.timestamp()
    one = {"id": record.id, "source": record.subject, "t": round(when, 3)}
    if isinstance(data, ClipLabelled):
        return [
            {
                **one,
                "kind": "clip",
                "track": face.track,
                "track_id": face.track_id,
                "label": face.label,
                "reason": face.reason,
                "probability": round(face.probability, 3),
                "emotions": {name: round(value, 3) for name, value in face.emotions.items()},
                "units": {name: round(value, 2) for name, value in (face.action_units_peak or {}).items()},
            }
            for face in data.faces
        ]
    if isinstance(data, ClipCaptioned):
        text = data.text[:_LONGEST_TEXT]
        return [{**one, "kind": "caption", "track": data.track, "track_id": data.track_id, "text": text}]
    return []


def _array(texts: Sequence[str]) -> str:
    return f"[{','.join(texts)}]"
