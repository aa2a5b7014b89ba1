"""The deeds of a session as functions, each with a session of its own: what most programs need.

>>> annotate("interview.mp4", model="dfew", clip__stride=0.5).clips             # doctest: +SKIP
>>> annotate_folder("interviews/", "tables/", overlay=True, blur_faces=True)    # doctest: +SKIP
BatchReport(12 done, 0 already done, 0 failed, 0 to do; tables)
>>> ask("interview.mp4", "Is the person smiling?").probability                  # doctest: +SKIP
0.93
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

from streamfer.api.session import Session

_Found = TypeVar("_Found")
_OWN = "The session is its own: ``config``, ``salt`` and ``settings`` are those of :class:`Session`."


def _alone(deed: Callable[..., _Found]) -> Callable[..., _Found]:
    """Return a method of :class:`Session` as a function that takes the session's arguments, too."""
    _, *own = inspect.signature(deed).parameters.values()
    _, config, *rest = inspect.signature(Session.__init__).parameters.values()
    placed = [one for one in own if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    signature = inspect.signature(deed).replace(parameters=[*placed, config, *own[len(placed) :], *rest])

    @functools.wraps(deed)
    def call(*arguments: Any, **named: Any) -> _Found:
        given = signature.bind(*arguments, **named).arguments
        of_session = {one.name: given.pop(one.name) for one in (config, *rest) if one.name in given}
        settings = of_session.pop("settings", {})
        with ExitStack() as open_ones:
            found = deed(open_ones.enter_context(Session(**of_session, **settings)), **given)
            # What is read piece by piece needs its session until it is read or left.
            return _held(found, open_ones.pop_all()) if isinstance(found, Iterator) else found  # type: ignore[return-value]

    vars(call).update(__signature__=signature)
    call.__doc__, call.__module__, call.__qualname__ = f"{inspect.getdoc(deed)}\n\n{_OWN}", __name__, call.__name__
    return call


def _held(records: Iterator[Any], open_ones: ExitStack) -> Iterator[Any]:
    with open_ones:
        yield from records


annotate = _alone(Session.annotate)
annotate_folder = _alone(Session.annotate_folder)
stream = _alone(Session.stream)
ask = _alone(Session.ask)
