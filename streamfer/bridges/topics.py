"""MQTT topics and what is said on them: records, what is missing, and what Home Assistant discovers.

A source's part of a topic is percent-encoded, so that no id can be read as a level or a wildcard; its payloads name it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from streamfer.publish import Lost
from streamfer.records import ClipCaptioned, ClipLabelled, Record

#: Characters of a source's part of a topic, and of a text, that are kept.
_LONGEST_PART, _LONGEST_TEXT = 200, 8_000
_NAMES = {"source.state": "state", "gap": "gap", "frames.analysed": "frames"}


@dataclass(frozen=True, slots=True)
class Message:
    """What is published; what is to ``retain`` is for who subscribes later, too."""

    topic: str
    payload: bytes
    retain: bool = False


def place(prefix: str, source: str) -> str:
    """Return what the topics of a source begin with."""
    part = quote(source, safe="")
    return f"{prefix}/{part if len(part) <= _LONGEST_PART else f'{part[: _LONGEST_PART - 20]}~{_digest(source)}'}"


def messages_of(record: Record, prefix: str) -> list[Message]:
    """Return what a record says; labels and captions twice, by source for who comes later and by person."""
    data, here = record.data, place(prefix, record.subject)
    one = {"id": record.id, "source": record.subject, "time": (record.time or record.recordedtime).isoformat()}
    if isinstance(data, ClipLabelled):
        face = data.faces[0]
        name, track = "label", face.track
        fields = {"label", "probability", "reason", "emotions", "quality", "track", "track_id"}
        body = {field: getattr(face, field) for field in sorted(fields)} | {"action_units": face.action_units_peak}
    elif isinstance(data, ClipCaptioned):
        name, track = "caption", data.track
        short = len(data.text) > _LONGEST_TEXT
        body = {"text": data.text[:_LONGEST_TEXT] + "…" if short else data.text, "shortened": short or None}
        body |= {field: getattr(data, field) for field in ("question", "writer", "clip_id", "track", "track_id")}
    else:
        name = _NAMES.get(data.kind.rpartition(".")[0], "other")
        said: Any = json.loads(data.to_json())
        # What later versions say may be anything.
        body = {**said, "producer": None} if isinstance(said, dict) else {"data": said}
        return [_message(f"{here}/{name}", {**body, **one, "type": record.type}, retain=name == "state")]
    words = {**one, **body, "start_time": data.clip.start_time, "end_time": data.clip.end_time}
    return [_message(f"{here}/{name}", words, retain=True), _message(f"{here}/people/{track}/{name}", words)]


def lost_message(lost: Lost, prefix: str) -> Message:
    """Return that records are missing; 0 of them where nobody can count."""
    return _message(f"{prefix}/lost", {"source": lost.subject, "count": lost.count, "reason": lost.why})


def discovery(source: str, prefix: str, where: str) -> list[Message]:
    """Return what Home Assistant needs to show a source: its label, its caption, and whether it is online.

    Source: https://www.home-assistant.io/integrations/mqtt/ (discovery, sensor, binary sensor), 2026-11.
    """
    # Of a topic's parts Home Assistant takes letters, digits, _ and -.
    node = f"{re.sub(r'[^A-Za-z0-9_-]+', '_', source)[:40]}_{_digest(f'{prefix}/{source}')}"
    shared = {
        "availability_topic": f"{prefix}/available",
        "device": {"identifiers": [f"streamfer_{node}"], "name": source[:100], "manufacturer": "streamfer"},
        "origin": {"name": "streamfer", "sw_version": version("streamfer")},
    }
    # Nobody is happy for ever because they were when they left.
    passing = {"icon": "mdi:emoticon-outline", "expire_after": 60}
    online = {"device_class": "connectivity"}
    messages = []
    for component, name, what, template, more in (
        ("sensor", "Expression", "label", "value_json.label", passing),
        # A state has 255 characters at most; the attribute has all of it.
        ("sensor", "Caption", "caption", "value_json.text[:250]", {"icon": "mdi:text"}),
        ("binary_sensor", "Online", "state", "'ON' if value_json.state == 'online' else 'OFF'", online),
    ):
        topic = f"{place(prefix, source)}/{what}"
        body = {"name": name, "unique_id": f"streamfer_{node}_{what}", **more, **shared}
        body |= {"state_topic": topic, "json_attributes_topic": topic, "value_template": f"{{{{ {template} }}}}"}
        messages.append(_message(f"{where}/{component}/{node}/{what}/config", body, retain=True))
    return messages


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _message(topic: str, body: dict[str, Any], *, retain: bool = False) -> Message:
    kept = {name: value for name, value in body.items() if value is not None}
    # A half of a surrogate pair, as later versions may say it, stays the escape that it was in JSON.
    return Message(topic, json.dumps(kept, ensure_ascii=False).encode(errors="backslashreplace"), retain)
