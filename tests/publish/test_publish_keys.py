"""Key names: exactly as documented, and everything that one script touches in one cluster slot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_examples import examples, labelled
from redis.crc import key_slot

from streamfer.errors import ConfigError
from streamfer.publish import Keys
from streamfer.records import Record


def test_names() -> None:
    keys, record = Keys(), examples()["clip.labelled.v1"]
    assert keys.streams(["clips", "captions", "sources"]) == [
        "streamfer:{0}:clips",
        "streamfer:{0}:captions",
        "streamfer:{0}:sources",
    ]
    assert keys.seen(record.id) == f"streamfer:{{0}}:seen:{record.id}"
    assert keys.dead("streamfer:{0}:clips") == "streamfer:{0}:dead"
    assert keys.status("hall") == "streamfer:status:hall"


@pytest.mark.parametrize(
    ("kind", "stream"),
    [
        ("clip.labelled.v1", "clips"),
        ("gap.v1", "clips"),
        ("clip.captioned.v1", "captions"),
        ("source.state.v1", "sources"),
    ],
)
def test_each_kind_has_its_stream(kind: str, stream: str) -> None:
    assert Keys.name_of(examples()[kind].type) == stream


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.integers(1, 64))
def test_what_belongs_together_lies_in_one_slot(source: str, partitions: int) -> None:
    keys = Keys(partitions=partitions)
    record, partition = Record.of(labelled(), source_id=source), keys.partition(source)
    stream = keys.stream(keys.name_of(record.type), partition)
    others = (keys.seen(record.id, partition), keys.moved(partition), keys.dead(stream))
    slots = {key_slot(key.encode()) for key in (stream, *others)}
    assert len(slots) == 1
    assert stream in keys.streams(["clips"], [source])
    assert stream in keys.streams(["clips"])


def test_partitions_are_the_same_in_every_process() -> None:
    assert [Keys(partitions=8).partition(source) for source in ("hall", "door", "film.mp4")] == [7, 5, 3]


@pytest.mark.parametrize("keys", [{"prefix": "a:b"}, {"prefix": "{x}"}, {"prefix": ""}, {"partitions": 0}])
def test_bad_settings(keys: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Keys(**keys)  # type: ignore[arg-type]


def test_unknown_stream() -> None:
    with pytest.raises(ConfigError, match="faces"):
        Keys().streams(["faces"])  # type: ignore[list-item]
