"""Following records as a subscriber, alone or in a consumer group, in a loop that waits or in asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from streamfer.closing import Closing
from streamfer.publish.connection import disconnect
from streamfer.publish.following import Following
from streamfer.records import Record

_LOOK_SECONDS = 0.02


class Subscription(Following, Closing, Iterator[Record]):
    """Follows the records on ``url``: an iterator that survives restarts and failovers of the server.

    Connects and finds its place before it returns: what is published afterwards is delivered.

    In a group a record is acknowledged when the next one is asked for: by then its effect is done. A consumer
    that dies between gets it again, so effects should bear repetition; ``record.id`` tells a repetition. A record
    that was delivered more than five times, or cannot be read, goes to the dead-letter stream.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://HOST:26379,HOST:26379/NAME/0`` or
            ``redis+cluster://HOST:6379,HOST:6379``; the embedded server where it is None.
        streams: which of ``clips``, ``captions``, ``sources`` and, where they are published, ``frames``.
        since: where to begin: ``new``, ``start`` (all that is kept), the id of an entry, a time (a datetime with its
            zone, or as text), or how long ago (``90s``, ``10m``, ``2h``, ``1d``). With a group it counts only where the
            group is new.
        group, consumer: join a consumer group, whose members share the records. A stable consumer's name finds its
            unfinished records at once after a restart; without one it is host and process.
        manual_commit: acknowledge by :meth:`commit` alone, all records that were handed out so far, so that many can be
            handled together; ``reject(record, reason)`` has the next commit put one into the dead-letter stream. What
            is not committed comes again after a restart, however often.
        sources: only records of these source ids.
        prefix, partitions: as the publishers have them.
        block_s: seconds a single read waits for new entries.
        idle_s: end the iteration when no record came for so many seconds; None follows for ever. An attribute that may
            be changed: after its end an iteration can be gone on with.
        reconnect_s: seconds to wait for a server that is away before giving up.
        claim_idle_s: seconds after which another member's unfinished record counts as abandoned and goes to this one;
            more than three times what handling sixteen of them takes.
        claim_every_s: seconds between looks for abandoned records.
        on_lost: called when records are missing (trimmed before they were read, or lost by the server); their number
            counts in ``lost``, too.

    Attributes:
        places: stream key to id of the last entry that was handed out; resume from it with ``since``.
        skipped: entries that could not be read as records.
        lost: records that were published and never seen here, as far as they can be counted.

    Raises:
        PublishError: the server cannot be reached, or refuses.
        ConfigError: an argument is wrong.
    """

    def _begin(self) -> None:
        self._connect()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        """Wait for the next record.

        Raises:
            StopIteration: the subscription was closed, or idle for ``idle_s``.
            PublishError: the server stayed away for ``reconnect_s``, or refuses.
        """
        if (found := self._next()) is None:
            raise StopIteration
        return self._hand_out(*found)

    def commit(self) -> None:
        """Acknowledge what was handed out without asking for another record, for example before stopping.

        Raises:
            PublishError: the server is away or refuses; asking for the next record tries it again, and so does a
                restart, which delivers what is not acknowledged again.
        """
        self._commit()

    def close(self) -> None:
        """Leave; what was handed out and not committed stays unfinished. May be called twice."""
        if not self._closed:
            self._closed = True
            self._stopped.set()
            self._leave()


class AsyncSubscription(Following, AsyncIterator[Record]):
    """Follows the records on ``url`` in asyncio: ``async for record in streamfer.subscribe_async(...)``.

    Arguments as of ``subscribe``. Connects and finds its place when it is entered (``async with``), else when the
    first record is asked for. It reads in a thread of its own; who asked and was cancelled gets the record when it asks
    again.

    Raises:
        ConfigError: an argument is wrong.
    """

    def _begin(self) -> None:
        self._thread = ThreadPoolExecutor(1, "streamfer subscribe")
        self._reading: Future[Any] | None = None

    async def __aenter__(self) -> Self:
        if self._client is None and not self._closed:
            if (tell := self._on_lost) is not None:
                # Where the other tasks are, not in the thread.
                loop = asyncio.get_running_loop()
                self._on_lost = lambda lost: loop.call_soon_threadsafe(tell, lost)
            try:
                await asyncio.wrap_future(self._thread.submit(self._connect))
            except BaseException:
                self._closed = True
                self._thread.submit(self._let_go)
                self._thread.shutdown(wait=False)
                raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def __anext__(self) -> Record:
        """Wait for the next record.

        Raises:
            StopAsyncIteration: the subscription was closed, or idle for ``idle_s``.
            PublishError: the server cannot be reached, stayed away for ``reconnect_s``, or refuses.
        """
        await self.__aenter__()
        if self._closed:
            raise StopAsyncIteration
        self._reading = self._reading or self._thread.submit(self._next)
        reading = asyncio.wrap_future(self._reading)
        # Where nobody asks any more, nobody is told of an error.
        reading.add_done_callback(lambda one: one.cancelled() or one.exception())
        await asyncio.wait([reading])
        self._reading = None
        if (found := reading.result()) is None:
            raise StopAsyncIteration
        return self._hand_out(*found)

    async def commit(self) -> None:
        """Acknowledge what was handed out; see :meth:`Subscription.commit`."""
        await self._break_off()
        await asyncio.wrap_future(self._thread.submit(self._commit))

    async def close(self) -> None:
        """Leave; see :meth:`Subscription.close`."""
        if self._closed:
            return
        self._closed = True
        self._stopped.set()
        await self._break_off()
        if self._client is not None:
            await asyncio.wrap_future(self._thread.submit(self._leave))
        self._thread.shutdown(wait=False)

    async def _break_off(self) -> None:
        """End a read whose asker was cancelled, if there is one; what it has found by then is kept."""
        if self._reading is None:
            return
        self._broken_off = True
        while not self._reading.done():
            # Else it would take what comes later to a reader that is gone.
            disconnect(self._client)
            await asyncio.sleep(_LOOK_SECONDS)
        self._broken_off = False
        if self._reading.exception() or self._reading.result() is None:
            self._reading = None


subscribe = Subscription
subscribe_async = AsyncSubscription
