"""Following records as a subscriber, alone or in a consumer group, in a loop that waits or in asyncio's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, Self, TypeVar

from streamfer.closing import Closing
from streamfer.errors import PublishError
from streamfer.publish.connection import TROUBLE, explain, make_client
from streamfer.publish.embedded import EmbeddedRedis
from streamfer.publish.following import Following
from streamfer.publish.reading import Steps
from streamfer.records import Record

T = TypeVar("T")

log = logging.getLogger(__name__)


class _Connected(Following):
    """What follows, with its client and its share in the embedded server."""

    _client: Any = None
    _embedded: EmbeddedRedis | None = None

    def _connect(self, *, asynchronous: bool) -> None:
        if self._url is None:
            self._embedded = EmbeddedRedis.start()
            self._url = self._embedded.url
        self._client = make_client(self._url, socket_timeout=self._answer_s, asynchronous=asynchronous)

    def _revive(self) -> None:
        """See that the embedded server runs, where it was away."""
        if self._embedded and self._troubled:
            with contextlib.suppress(PublishError):
                self._embedded.ensure()

    def _reported(self, error: Exception) -> PublishError:
        return PublishError(explain(str(self._url), error))

    def _left_silently(self, error: Exception) -> None:
        log.info("subscribe.left_silently", extra={"reason": explain(str(self._url), error)})


class Subscription(_Connected, Closing, Iterator[Record]):
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
        self._stopped = threading.Event()
        self._connect(asynchronous=False)
        try:
            self._drive(self._prepare())
        except BaseException as error:
            self._let_go()
            if isinstance(error, (*TROUBLE, UnicodeError)):
                raise self._reported(error) from error
            raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        """Wait for the next record.

        Raises:
            StopIteration: the subscription was closed, or idle for ``idle_s``.
            PublishError: the server stayed away for ``reconnect_s``, or refuses.
        """
        record = self._drive(self._next())
        if record is None:
            raise StopIteration
        return record

    def commit(self) -> None:
        """Acknowledge what was handed out without asking for another record, for example before stopping.

        Raises:
            PublishError: the server is away or refuses; asking for the next record tries it again, and so does a
                restart, which delivers what is not acknowledged again.
        """
        self._settle()
        try:
            self._drive(self._finish())
        except TROUBLE as error:
            raise self._reported(error) from error

    def close(self) -> None:
        """Leave; what was handed out and not committed stays unfinished. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._stopped.set()
        try:
            self._drive(self._leave())
        except TROUBLE as error:
            self._left_silently(error)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._client.close()
        if self._embedded:
            self._embedded.close()

    def _drive(self, steps: Steps[T]) -> T:
        with contextlib.closing(steps):
            advance: Callable[[], Any] = partial(next, steps)
            while True:
                try:
                    step = advance()
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]  # what the steps come to
                try:
                    if isinstance(step, float):
                        self._stopped.wait(step)
                        self._revive()
                        advance = partial(next, steps)
                    else:
                        advance = partial(steps.send, step(self._client))
                except TROUBLE as error:
                    advance = partial(steps.throw, error)


class AsyncSubscription(_Connected, AsyncIterator[Record]):
    """The same for asyncio: ``async for record in streamfer.subscribe_async(...)``; arguments as of ``subscribe``.

    Connects and finds its place when it is entered (``async with``), else when the first record is asked for.

    Raises:
        ConfigError: an argument is wrong.
    """

    async def __aenter__(self) -> Self:
        if self._client is None:
            await asyncio.to_thread(self._connect, asynchronous=True)
            try:
                await self._drive(self._prepare())
            except BaseException as error:
                self._closed = True
                await self._let_go()
                if isinstance(error, (*TROUBLE, UnicodeError)):
                    raise self._reported(error) from error
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
        record = await self._drive(self._next())
        if record is None:
            raise StopAsyncIteration
        return record

    async def commit(self) -> None:
        """Acknowledge what was handed out; see :meth:`Subscription.commit`."""
        self._settle()
        try:
            await self._drive(self._finish())
        except TROUBLE as error:
            raise self._reported(error) from error

    async def close(self) -> None:
        """Leave; see :meth:`Subscription.close`."""
        if self._closed:
            return
        self._closed = True
        if self._client is None:
            return
        try:
            await self._drive(self._leave())
        except TROUBLE as error:
            self._left_silently(error)
        finally:
            await self._let_go()

    def _revive(self) -> None:
        super()._revive()
        if self._troubled and str(self._url).startswith(("rediss:", "rediss+sentinel:")):
            # A connection that was made knows the authorities that there were then.
            self._client.connection_pool.reset()

    async def _let_go(self) -> None:
        await self._client.aclose()
        if self._embedded:
            await asyncio.to_thread(self._embedded.close)

    async def _drive(self, steps: Steps[T]) -> T:
        with contextlib.closing(steps):
            advance: Callable[[], Any] = partial(next, steps)
            while True:
                try:
                    step = advance()
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]  # what the steps come to
                try:
                    if isinstance(step, float):
                        await asyncio.sleep(step)
                        await asyncio.to_thread(self._revive)
                        advance = partial(next, steps)
                    else:
                        advance = partial(steps.send, await step(self._client))
                except TROUBLE as error:
                    advance = partial(steps.throw, error)


subscribe = Subscription
subscribe_async = AsyncSubscription
