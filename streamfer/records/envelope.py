"""The envelope: a document with its CloudEvents 1.0 attributes, as Redis fields or as one line of JSON.

CloudEvents has no Redis binding; the fields follow its Kafka binding in binary mode (``ce_`` attributes
beside the data). ``time`` is when the clip's last picture was captured. A file carries no such moment: its
times count from its first frame, so ``time`` (optional in CloudEvents) is left out and readers use
``data.clip.end_time``. ``recordedtime`` is when streamfer made the record, always present.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from streamfer.errors import RecordError
from streamfer.records.documents import AnyDocument, Document, RawDocument, read_document

SPEC_VERSION = "1.0"
TYPE_PREFIX = "streamfer."
CONTENT_TYPE = "application/json"
SCHEMA_URN = "urn:streamfer:schema:"
# Wide enough for any 64-bit counter, so that the text sorts as the number does.
SEQUENCE_DIGITS = 20
_DATA = ',"data":'


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Record:
    """One event: a document and its CloudEvents attributes.

    Attributes:
        id: deterministic id of the document, see :mod:`streamfer.records.identity`.
        source: ``/streamfer/<site>``.
        subject: the source id, never a URL with credentials.
        data: the document; raw where it is of a kind or version that this streamfer does not know.
        time: capture time of the clip's end, timezone-aware; None where the source has no wall time.
        recordedtime: when the record was made, timezone-aware.
        sequence: rises with every record of one subject; None until a publisher numbers it.
        traceparent: the record's place in a trace, as W3C writes it; None where nobody traces.
    """

    id: str
    source: str
    subject: str
    data: AnyDocument | RawDocument = field(repr=False)
    time: datetime | None = None
    recordedtime: datetime = field(default_factory=_now)
    sequence: int | None = None
    traceparent: str | None = None

    def __post_init__(self) -> None:
        for name in ("id", "source", "subject"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise RecordError(f"record without {name}")
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise RecordError(f"record's {name} {value!r} is not valid Unicode: give the source a plain id")
        for name in ("time", "recordedtime"):
            moment = getattr(self, name)
            if moment is not None and getattr(moment, "tzinfo", None) is None:
                raise RecordError(f"record's {name} needs to be a time with its zone")
        if not isinstance(self.data, Document | RawDocument):
            raise _no_document(self.data)
        if not isinstance(self.sequence, int | None) or not 0 <= (self.sequence or 0) < 10**SEQUENCE_DIGITS:
            raise RecordError(f"record's sequence does not fit {SEQUENCE_DIGITS} digits")

    @classmethod
    def of(
        cls, data: AnyDocument, *, source_id: str, site: str = "local", recordedtime: datetime | None = None
    ) -> Record:
        """Wrap ``data``, deriving id and time from it.

        Raises:
            RecordError: ``source_id`` is empty or not valid Unicode, or ``data`` is no document.
        """
        if not isinstance(data, Document):
            raise _no_document(data)
        source, made = f"/streamfer/{site}", recordedtime or _now()
        return cls(data.identity(source_id), source, source_id, data, data.captured, made)

    @property
    def type(self) -> str:
        """Full event type, such as ``streamfer.clip.labelled.v1``."""
        return TYPE_PREFIX + self.data.kind

    @property
    def dataschema(self) -> str:
        """URN of the JSON Schema that ``data`` obeys; the schema lies in ``streamfer/schemas``."""
        return SCHEMA_URN + self.data.kind

    @property
    def run_id(self) -> str:
        """Run of streamfer that made the record; empty where a document of another version does not say."""
        if not isinstance(self.data, RawDocument):
            return self.data.producer.run_id
        fields = self.data.fields
        producer = fields.get("producer") if isinstance(fields, dict) else None
        return str(producer.get("run_id", "")) if isinstance(producer, dict) else ""

    def numbered(self, sequence: int) -> Record:
        """The same record with its place in the order of its subject."""
        return replace(self, sequence=sequence)

    def attributes(self, sequence: int | None = None) -> dict[str, str]:
        """CloudEvents attributes as text, in a fixed order, without those that are absent; numbered where asked."""
        sequence = self.sequence if sequence is None else sequence
        values = {
            "specversion": SPEC_VERSION,
            "id": self.id,
            "source": self.source,
            "subject": self.subject,
            "type": self.type,
            "time": _rfc3339(self.time) if self.time else None,
            "recordedtime": _rfc3339(self.recordedtime),
            "sequence": None if sequence is None else f"{sequence:0{SEQUENCE_DIGITS}d}",
            "dataschema": self.dataschema,
            "traceparent": self.traceparent,
        }
        return {name: value for name, value in values.items() if value is not None}

    def to_fields(self, sequence: int | None = None) -> dict[str, str]:
        """Fields of a Redis stream entry: ``ce_*`` attributes, ``content-type`` and ``data``; numbered where asked."""
        fields = {f"ce_{name}": value for name, value in self.attributes(sequence).items()}
        return {**fields, "content-type": CONTENT_TYPE, "data": self.data.to_json()}

    def to_json(self) -> str:
        """One line in CloudEvents' JSON format, as written to ``.jsonl`` files."""
        return fields_to_line(self.to_fields())

    @classmethod
    def from_fields(cls, fields: Mapping[Any, Any]) -> Record:
        """Read the fields of a Redis stream entry; keys and values may be bytes or text.

        Raises:
            RecordError: an attribute is missing or malformed, or the type is none of streamfer's.
        """
        try:
            texts = {_text(name): _text(value) for name, value in fields.items()}
        except (UnicodeDecodeError, AttributeError) as error:
            raise RecordError("malformed record: no mapping of fields in UTF-8") from error
        content_type = texts.get("content-type", CONTENT_TYPE)
        if content_type.partition(";")[0].strip() != CONTENT_TYPE:
            raise RecordError(f"record's content-type is {content_type!r}, not {CONTENT_TYPE}")
        if "data" not in texts:
            raise RecordError("malformed record: no field 'data'")
        attributes = {name[3:]: value for name, value in texts.items() if name.startswith("ce_")}
        return cls._from_attributes(attributes, texts["data"])

    @classmethod
    def from_json(cls, line: str | bytes) -> Record:
        """Read what :meth:`to_json` wrote; a RecordError where the line is not JSON, or not a record."""
        try:
            event = json.loads(line)
        except (ValueError, TypeError, RecursionError) as error:
            raise RecordError(f"malformed record: not JSON: {error}") from error
        if not isinstance(event, dict) or "data" not in event:
            raise RecordError("malformed record: no object with a 'data' member")
        attributes = {name: str(value) for name, value in event.items() if name != "data"}
        return cls._from_attributes(attributes, json.dumps(event["data"], ensure_ascii=False, separators=(",", ":")))

    @classmethod
    def _from_attributes(cls, attributes: Mapping[str, str], data: str) -> Record:
        missing = [name for name in ("specversion", "id", "source", "subject", "type") if not attributes.get(name)]
        if missing:
            raise RecordError(f"malformed record: no attribute {', '.join(missing)}")
        if attributes["specversion"] != SPEC_VERSION:
            raise RecordError(f"record of CloudEvents {attributes['specversion']!r}, not {SPEC_VERSION}")
        kind = attributes["type"]
        if not kind.startswith(TYPE_PREFIX):
            raise RecordError(f"record of foreign type {kind!r}: streamfer's begin with {TYPE_PREFIX!r}")
        document = read_document(kind.removeprefix(TYPE_PREFIX), data)
        try:
            time = datetime.fromisoformat(attributes["time"]) if "time" in attributes else None
            recorded = datetime.fromisoformat(attributes["recordedtime"])
            sequence = int(attributes["sequence"]) if "sequence" in attributes else None
        except (KeyError, ValueError) as error:
            raise RecordError(f"malformed record: time, recordedtime or sequence: {error}") from error
        named = {name: attributes[name] for name in ("id", "source", "subject")}
        traceparent = attributes.get("traceparent")
        return cls(**named, data=document, time=time, recordedtime=recorded, sequence=sequence, traceparent=traceparent)


def fields_to_line(fields: Mapping[str, str]) -> str:
    """Return what :meth:`Record.to_json` writes of the record with these fields."""
    head = {name[3:]: value for name, value in fields.items() if name.startswith("ce_")}
    opening = json.dumps({**head, "datacontenttype": CONTENT_TYPE}, ensure_ascii=False, separators=(",", ":"))[:-1]
    # The document is already JSON in its final form: parsing it again could only change it.
    return f"{opening}{_DATA}{fields['data']}}}"


def line_to_fields(line: str) -> dict[str, str]:
    """Return the fields of what :meth:`Record.to_json` wrote, the document unread.

    Raises:
        RecordError: it is none.
    """
    # Within an attribute its quotes would be escaped.
    head, found, data = line.partition(_DATA)
    try:
        attributes = json.loads(head + "}")
        fields = {f"ce_{name}": attributes[name] for name in attributes if name != "datacontenttype"}
    except (ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"malformed record: not JSON: {error}") from error
    if not found or not fields.keys() >= {"ce_id", "ce_subject", "ce_type"}:
        raise RecordError("malformed record: an attribute or the data are missing")
    return {**fields, "content-type": CONTENT_TYPE, "data": data[:-1]}


def _no_document(data: Any) -> RecordError:
    return RecordError(f"record's data: a {type(data).__name__}; expected a document of streamfer.records")


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
