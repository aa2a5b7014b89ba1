"""Following records as a subscriber, alone or in a consumer group, in a loop that waits or in asyncio's."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from streamfer.closing import Closing
from streamfer.errors import PublishError
from streamfer.publish.connection import TROUBLE, explain, make_client
from streamfer.publish.embedded import EmbeddedRedis
from streamfer.publish.following import Following
from streamfer.publish.reading import Steps
from streamfer.records import Record

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

log = logging.getLogger(__name__)


class _Subscription:
    """What both kinds of subscription are.

    Attributes:
        places: stream key to id of the last entry that was handed out; resume from it with ``since``.
        skipped: entries that could not be read as records.
        lost: records that were published and never seen here, as far as they can be counted.
    """

    def __init__(self, following: Following) -> None:
        self._following = following
        self._embedded: EmbeddedRedis | None = None
        self._client: Any = None

    @property
    def places(self) -> dict[str, str]:
        """Stream key to id of the last entry that was handed out; resume from it with ``since``."""
        return self._following.places

    @property
    def skipped(self) -> int:
        """Entries that could not be read as records."""
        return self._following.skipped

    @property
    def lost(self) -> int:
        """Records that were published and never seen here, as far as they can be counted."""
        return self._following.lost

    def _open(self, *, asynchronous: bool) -> None:
        following = self._following
        if following.url is None:
            self._embedded = EmbeddedRedis.start()
            following.url = self._embedded.url
        self._client = make_client(following.url, socket_timeout=following.answer_s, asynchronous=asynchronous)

    def _revive(self) -> None:
        """See that the embedded server runs, where it was away."""
        if self._embedded and self._following.troubled:
            with contextlib.suppress(PublishError):
                self._embedded.ensure()

    def _trouble(self, error: Exception) -> PublishError:
        return PublishError(explain(str(self._following.url), error))

    def _left_silently(self, error: Exception) -> None:
        log.info("subscribe.left_silently", extra={"reason": explain(str(self._following.url), error)})


class Subscription(_Subscription, Closing, Iterator[Record]):
    """An iterator over records that survives restarts and failovers of the server; made by :func:`subscribe`.

    In a group a record is acknowledged when the next one is asked for: by then its effect is done. A consumer
    that dies between gets it again, so effects should bear repetition; ``record.id`` tells a repetition. A record
    that was delivered more than five times, or cannot be read, goes to the dead-letter stream.
    """

    def __init__(self, following: Following) -> None:
        super().__init__(following)
        self._stopped = threading.Event()
        self._open(asynchronous=False)
        try:
            self._drive(following.prepare())
        except BaseException as error:
            self._let_go()
            if isinstance(error, (*TROUBLE, UnicodeError)):
                raise self._trouble(error) from error
            raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        """Wait for the next record.

        Raises:
            StopIteration: the subscription was closed, or idle for ``idle_s``.
            PublishError: the server stayed away for ``reconnect_s``, or refuses.
        """
        record = self._drive(self._following.next())
        if record is None:
            raise StopIteration
        return record

    def commit(self) -> None:
        """Acknowledge the record handed out last without asking for another, for example before stopping.

        Raises:
            PublishError: the server is away or refuses; the record will be delivered again.
        """
        try:
            self._drive(self._following.finish())
        except TROUBLE as error:
            raise self._trouble(error) from error

    def close(self) -> None:
        """Leave; a record that was handed out last and not committed stays unfinished. May be called twice."""
        if self._following.closed:
            return
        self._following.closed = True
        self._stopped.set()
        try:
            self._drive(self._following.leave())
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
            advance: Callable[[], Any] = functools.partial(next, steps)
            while True:
                try:
                    step = advance()
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]  # what the steps come to
                try:
                    if isinstance(step, float):
                        self._stopped.wait(step)
                        self._revive()
                        advance = functools.partial(next, steps)
                    else:
                        advance = functools.partial(steps.send, step(self._client))
                except TROUBLE as error:
                    advance = functools.partial(steps.throw, error)


class AsyncSubscription(_Subscription, AsyncIterator[Record]):
    """The same for asyncio: ``async for record in subscribe_async(...)``; made by :func:`subscribe_async`.

    It connects and finds its place when it is entered (``async with``), else when the first record is asked for.
    """

    async def __aenter__(self) -> Self:
        if self._client is None:
            await asyncio.to_thread(self._open, asynchronous=True)
            try:
                await self._drive(self._following.prepare())
            except BaseException as error:
                self._following.closed = True
                await self._let_go()
                if isinstance(error, (*TROUBLE, UnicodeError)):
                    raise self._trouble(error) from error
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __anext__(self) -> Record:
        """Wait for the next record.

        Raises:
            StopAsyncIteration: the subscription was closed, or idle for ``idle_s``.
            PublishError: the server cannot be reached, stayed away for ``reconnect_s``, or refuses.
        """
        await self.__aenter__()
        record = await self._drive(self._following.next())
        if record is None:
            raise StopAsyncIteration
        return record

    async def commit(self) -> None:
        """Acknowledge the record handed out last; see :meth:`Subscription.commit`."""
        try:
            await self._drive(self._following.finish())
        except TROUBLE as error:
            raise self._trouble(error) from error

    async def close(self) -> None:
        """Leave; see :meth:`Subscription.close`."""
        if self._following.closed:
            return
        self._following.closed = True
        if self._client is None:
            return
        try:
            await self._drive(self._following.leave())
        except TROUBLE as error:
            self._left_silently(error)
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        await self._client.aclose()
        if self._embedded:
            await asyncio.to_thread(self._embedded.close)

    async def _drive(self, steps: Steps[T]) -> T:
        with contextlib.closing(steps):
            advance: Callable[[], Any] = functools.partial(next, steps)
            while True:
                try:
                    step = advance()
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]  # what the steps come to
                try:
                    if isinstance(step, float):
                        await asyncio.sleep(step)
                        await asyncio.to_thread(self._revive)
                        advance = functools.partial(next, steps)
                    else:
                        advance = functools.partial(steps.send, await step(self._client))
                except TROUBLE as error:
                    advance = functools.partial(steps.throw, error)


def _takes(make: Callable[P, Following]) -> Callable[[Callable[[Following], S]], Callable[P, S]]:
    """Give a function of a :class:`Following` the arguments that make one."""

    def decorate(function: Callable[[Following], S]) -> Callable[P, S]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> S:
            return function(make(*args, **kwargs))

        returns = inspect.signature(function).return_annotation
        call.__signature__ = inspect.signature(make).replace(return_annotation=returns)  # type: ignore[attr-defined]
        told = inspect.cleandoc(make.__doc__ or "").partition("\n\n")[2].partition("\n\nAttributes:")[0]
        call.__doc__ = inspect.cleandoc(function.__doc__ or "").replace("ARGUMENTS", told)
        return call

    return decorate


@_takes(Following)
def subscribe(following: Following) -> Subscription:
    """Follow the records on ``url``, or on the embedded server where it is None.

    Connects and finds its place before it returns: what is published afterwards is delivered.

    ARGUMENTS

    Raises:
        PublishError: the server cannot be reached, or refuses.
        ConfigError: an argument is wrong.
    """
    return Subscription(following)


@_takes(Following)
def subscribe_async(following: Following) -> AsyncSubscription:
    """Follow the records in asyncio's loop, with the arguments of :func:`subscribe`.

    Connects when it is entered (``async with``), or when the first record is asked for.

    Raises:
        ConfigError: an argument is wrong.
    """
    return AsyncSubscription(following)
