"""Names of the Redis keys. The braces are cluster hash tags: what one script touches lies in one slot.

streamfer:{p}:clips          labels and gaps, in order per source and epoch
streamfer:{p}:captions       captions
streamfer:{p}:sources        changes of the sources' states
streamfer:{p}:frames         the faces of every frame, where they are wanted
streamfer:{p}:dead           entries that no consumer could handle
streamfer:{p}:seen:<id>      ids published lately, and the numbers they had (expires)
streamfer:{p}:moved          by how much the numbers of sources moved up (hash, expires)
streamfer:status:<source>    a source's heartbeat (hash, expires)
streamfer:asked:<source>     somebody wants to see the source (expires)
streamfer:preview:<source>   its picture as JPEG, while somebody does (expires)

``p`` is a source's partition: order holds per source, and consumers have few keys to follow.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from streamfer.errors import ConfigError
from streamfer.records.envelope import TYPE_PREFIX

StreamName = Literal["clips", "captions", "sources", "frames"]
STREAM_NAMES: tuple[StreamName, ...] = get_args(StreamName)
#: What subscribers get unless they name streams.
USUAL_STREAMS: tuple[StreamName, ...] = STREAM_NAMES[:3]
# By the types without their versions: records of later versions stand beside those of earlier ones.
_STREAM_OF: dict[str, StreamName] = {
    "clip.captioned": "captions",
    "source.state": "sources",
    "frames.analysed": "frames",
}


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one prefix."""

    prefix: str = "streamfer"  #: first part of every key
    partitions: int = 1  #: number of slots that sources are spread over; all publishers and subscribers must agree

    def __post_init__(self) -> None:
        if not self.prefix or any(character in "{}: \t\n" for character in self.prefix):
            raise ConfigError(f"Redis key prefix {self.prefix!r}: use a word without braces, colons or blanks")
        if self.partitions < 1:
            raise ConfigError(f"Redis partitions {self.partitions}: must be 1 or more")

    def partition(self, source_id: str) -> int:
        """Partition of a source; CRC-32, since Python's own hash differs between processes."""
        return zlib.crc32(source_id.encode()) % self.partitions

    def stream(self, name: StreamName, partition: int = 0) -> str:
        """Key of one of the record streams."""
        return f"{self.prefix}:{{{partition}}}:{name}"

    @staticmethod
    def name_of(kind: str) -> StreamName:
        """Stream that records of a full type belong to; a gap stands among the clips that it interrupts."""
        return _STREAM_OF.get(kind.rpartition(".")[0].removeprefix(TYPE_PREFIX), "clips")

    def streams(self, names: Iterable[StreamName], sources: Iterable[str] | None = None) -> list[str]:
        """Keys to follow for ``names``, in all partitions or only in those of ``sources``.

        Raises:
            ConfigError: a name is none of the streams.
        """
        wanted = list(names)
        for name in wanted:
            if name not in STREAM_NAMES:
                raise ConfigError(f"no stream {name!r}: choose from {', '.join(STREAM_NAMES)}")
        if sources is None:
            partitions = list(range(self.partitions))
        else:
            partitions = sorted({self.partition(source) for source in sources})
        return [self.stream(name, partition) for partition in partitions for name in wanted]

    def seen(self, record_id: str, partition: int = 0) -> str:
        """Key that marks a record as published, in the slot of its stream."""
        return f"{self.prefix}:{{{partition}}}:seen:{record_id}"

    def moved(self, partition: int = 0) -> str:
        """Key of how far numbers moved up, for what came under another number before."""
        return f"{self.prefix}:{{{partition}}}:moved"

    @staticmethod
    def dead(stream: str) -> str:
        """Dead-letter stream in the slot of ``stream``."""
        return f"{stream.rpartition(':')[0]}:dead"

    def status(self, source_id: str) -> str:
        return f"{self.prefix}:status:{source_id}"

    def asked(self, source_id: str) -> str:
        """Key that is there while somebody wants to see a source."""
        return f"{self.prefix}:asked:{source_id}"

    def preview(self, source_id: str) -> str:
        return f"{self.prefix}:preview:{source_id}"
