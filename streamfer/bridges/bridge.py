"""A bridge: records handed to one destination, each acknowledged in Redis once the destination has it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from streamfer.addresses import Address, AddressError, fill, read_address
from streamfer.config import Config
from streamfer.errors import ConfigError, PublishError
from streamfer.publish import AsyncSubscription, Lost, StreamName, subscribe_async
from streamfer.records import Record

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 3600.0
#: A destination to which nothing is sent is looked after this often.
_LOOK_SECONDS = 1.0
#: Characters of records that end a batch.
_LARGEST_BATCH = 1_000_000


class AwayError(Exception):
    """A destination takes nothing now; it may ask for ``wait`` seconds, or be ``denied`` until somebody mends it."""

    def __init__(self, reason: str, *, wait: float | None = None, denied: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.denied = wait, denied


class RefusedError(Exception):
    """A destination will never take this; where it is ``gone``, nor a part of it."""

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone


class Destination(ABC):
    """Where records go."""

    name: str  #: its address without anything secret
    identity: str  #: makes the name of its consumer group
    batch: int  #: most records that go together
    seconds: float  #: how long one waits for company

    @abstractmethod
    async def deliver(self, records: Sequence[Record], lost: Sequence[Lost]) -> None:
        """Return when it has the records, and knows what is missing before them; without any, see that it is there.

        Raises:
            AwayError, RefusedError: it has not all of them.
            ConfigError: as it is set, it never will.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Take leave."""


class Bridge:
    """Hands records on until it is stopped, and ``say``s so to people; after any end it goes on where it was."""

    def __init__(self, config: Config, destination: Destination, say: Callable[[str], None]) -> None:
        self._config, self._destination, self._say = config, destination, say
        self._lost: list[Lost] = []
        self._work: asyncio.Task[None] | None = None
        self._stopped = False

    def stop(self) -> None:
        """Have :meth:`run` end, cancelled; a batch that is under way comes again at the next start."""
        # Python 3.11's wait_for, which clients use, swallows a cancellation that comes with an answer.
        self._stopped = True
        if self._work is not None:
            self._work.cancel()

    async def run(self) -> None:
        """Hand records on.

        Raises:
            PublishError: Redis cannot be reached at the start, or refuses.
            ConfigError: the destination refuses who asks.
        """
        self._work = asyncio.current_task()
        publish, bridge = self._config.publish, self._config.bridge
        group = bridge.group or f"bridge-{self._destination.identity}"
        subscription = subscribe_async(
            publish.redis,
            streams=cast("tuple[StreamName, ...]", bridge.streams),
            since=bridge.since,
            group=group,
            consumer=bridge.consumer or socket.gethostname(),
            manual_commit=True,
            prefix=publish.prefix,
            partitions=publish.partitions,
            reconnect_s=math.inf,
            on_lost=self._lose,
        )
        async with subscription as records, contextlib.aclosing(self._destination) as destination:
            self._say(f"records go to {destination.name}; consumer group {group}")
            batch: list[Record] = []
            while True:
                await self._hand_on(records, batch)
                with contextlib.suppress(PublishError):
                    # Where Redis is away, asking for the next record commits it.
                    await records.commit()
                batch = await self._collect(records)

    async def _collect(self, records: AsyncSubscription) -> list[Record]:
        """Return the records that go together next; none where none came for a second."""
        batch: list[Record] = []
        size, deadline = 0, 0.0
        records.idle_s = _LOOK_SECONDS
        while len(batch) < self._destination.batch and size < _LARGEST_BATCH:
            try:
                record = await anext(records)
            except StopAsyncIteration:
                break
            if not batch:
                deadline = time.monotonic() + self._destination.seconds
            batch.append(record)
            size += len(record.data.to_json())
            records.idle_s = max(0.0, deadline - time.monotonic())
        return batch

    async def _hand_on(self, records: AsyncSubscription, batch: Sequence[Record]) -> None:
        """Return when the destination has the batch, or what it refuses of it is set aside."""
        name, wait, trouble = self._destination.name, _FIRST_WAIT, ""
        while True:
            if self._stopped:
                raise asyncio.CancelledError
            try:
                await self._destination.deliver(batch, self._lost)
            except AwayError as error:
                usual = self._config.bridge.retry if error.denied else wait * random.uniform(0.5, 1)  # noqa: S311
                # Who asks for no wait at all is not asked in a circle.
                pause = usual if error.wait is None else min(max(error.wait, _FIRST_WAIT), _LONGEST_WAIT)
                if str(error) != trouble:
                    asked = "" if error.wait is None else f" in {pause:.0f} s, as it asks"
                    self._say(f"{name}: {error}; records wait in Redis, and it is tried again{asked}")
                trouble = str(error)
                await asyncio.sleep(pause)
                wait = min(2 * wait, self._config.bridge.retry)
            except RefusedError as error:
                if len(batch) > 1 and not error.gone:
                    half = len(batch) // 2
                    await self._hand_on(records, batch[:half])
                    return await self._hand_on(records, batch[half:])
                for record in batch:
                    records.reject(record, f"{name}: {error}")
                return self._say(f"{name}: refuses {len(batch)} records ({error}); they go to the dead-letter stream")
            else:
                if trouble:
                    self._say(f"{name}: takes records again")
                self._lost = [] if batch else self._lost
                return None

    def _lose(self, lost: Lost) -> None:
        self._lost.append(lost)
        self._say(f"{lost.subject or 'records'}: {lost.count or 'some'} are missing: {lost.why}")


def read_destination(url: str, schemes: Mapping[str, int]) -> tuple[str, Address, str]:
    """Return a URL with its secrets filled in, its parts, and what it is called in messages.

    ``schemes`` are those that can be used, with their usual ports.

    Raises:
        ConfigError: it is none of these, or a secret is not there.
    """
    filled = fill(url)
    choices = " or ".join(f"{scheme}://HOST" for scheme in schemes)
    try:
        address = read_address(filled)
    except AddressError as error:
        raise ConfigError(f"the destination's address cannot be read: {error}; write {choices}") from None
    if address.scheme not in schemes:
        raise ConfigError(f"the destination's address begins with {address.scheme}://; write {choices}")
    host = f"[{address.host}]" if ":" in address.host else address.host
    return filled, address, f"{address.scheme}://{host}:{address.port or schemes[address.scheme]}"


def untrusted(error: Exception) -> str:
    """Return what to do about a certificate that was not accepted; nothing where an error is about something else."""
    if "CERTIFICATE_VERIFY_FAILED" not in str(error):
        return ""
    return f"its certificate is not trusted ({error}); name its authority's file in bridge.ca"


def trusting(ca: Path | None) -> ssl.SSLContext:
    """Return what checks a destination's certificate: by the authorities of a file (ConfigError), or the system's."""
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigError(f"bridge.ca: {ca} cannot be used ({error.strerror or error}); name a PEM file") from None
