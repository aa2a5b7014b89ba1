"""A run that publishes, whose sources come and go while it goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from streamfer.api.publishing import Outlet, publishing
from streamfer.config import Config, SourceConfig
from streamfer.errors import ConfigError, SourceNotFoundError
from streamfer.video.locate import SourceSpec, configured_sources, find_sources

if TYPE_CHECKING:
    from streamfer.pipeline.events import Event, SourceDone
    from streamfer.pipeline.loop import Pipeline

_TAKEN = ("sources", "live")


class Run:
    """Publishes the records of sources that can be added, changed, paused and removed meanwhile, from any thread.

    Without ``sources`` (paths or URLs) it has the configuration's; ConfigError where there are none, nor can be later.
    """

    def __init__(self, session: Any, sources: Sequence[str] | None) -> None:
        # A Session, whose module imports this one.
        self._session = session
        self._configured = sources is None
        config = session.config
        later = config.health.token is not None and not config.sources
        specs = find_sources(sources) if sources is not None else [] if later else configured_sources(config)
        self._lock = threading.Lock()
        self.outlet = Outlet()
        #: the sources by id, paused and ended ones included
        self.specs: Mapping[str, SourceSpec] = {spec.source_id: spec for spec in specs}

    @property
    def pipeline(self) -> Pipeline | None:
        """What analyses the sources; None before the models are loaded, and at the end."""
        pipeline: Pipeline | None = self._session._running
        return pipeline

    def go(self, watch: Callable[[Event], None] | None) -> list[SourceDone]:
        """Publish until all sources have ended, or the session is stopped; see :meth:`Session.publish`."""
        from streamfer.pipeline.events import SourceDone

        session, specs, ends = self._session, self.specs.values(), list[SourceDone]()
        with publishing(session.config, session.config.publish.redis or "embedded", waits=True) as self.outlet:
            opened, live, count = session._opened([spec for spec in specs if not spec.paused])
            previews = self.outlet.previews
            onlooker = None if previews is None else previews.take
            for event in session._events(opened, live or self.stays, count or 1, onlooker=onlooker):
                self.outlet.take(event)
                if isinstance(event, SourceDone):
                    ends.append(event)
                if watch is not None:
                    watch(event)
        return ends

    def add(self, source: SourceConfig) -> list[str]:
        """Let a source join, or all those of a folder; return their ids.

        Raises ConfigError where an id is taken or nothing runs (yet), SourceError where it is not there.
        """
        found = {spec.source_id: spec for spec in configured_sources(Config(sources=(source,)))}
        with self._lock:
            if taken := sorted(found.keys() & self.specs.keys()):
                raise ConfigError(f"sources: the id {taken[0]!r} is used already; change that one, or choose another")
            self._become({**self.specs, **found})
        return list(found)

    def change(self, source_id: str, source: SourceConfig | None = None, *, paused: bool = False) -> None:
        """Put another source in the place of one, or pause it, or let it go on.

        Raises ConfigError where ``source`` has another id or nothing runs (yet), SourceError where either is not there.
        """
        with self._lock:
            spec = replace(self._known(source_id), paused=paused)
            if source is not None:
                spec, *more = configured_sources(Config(sources=(source,)))
                if more or spec.source_id != source_id:
                    raise ConfigError(f"sources: {source_id!r} can only become another source of that id")
            self._become({**self.specs, source_id: spec})

    def remove(self, source_id: str) -> None:
        """End a source, also while it connects.

        Raises ConfigError where nothing runs (yet), SourceNotFoundError where there is no source of that id.
        """
        with self._lock:
            self._known(source_id)
            self._become({name: spec for name, spec in self.specs.items() if name != source_id})

    def reload(self, config: Config) -> tuple[list[str], list[str]]:
        """Take ``sources`` and ``live`` of another configuration, and nothing else; sources that are the same go on.

        Returns the ids of those that were added, removed or changed, and the sections that differ and stay.

        Raises:
            ConfigError: the run has other sources than a configuration's, or two share an id; or
            SourceError: a source is not there. Nothing has changed then.
        """
        if not self._configured:
            raise ConfigError("nothing to reload: this run's sources stand on the command line")
        session = self._session
        specs = {spec.source_id: spec for spec in configured_sources(config)}
        differ = [name for name in Config.model_fields if getattr(config, name) != getattr(session.config, name)]
        with self._lock:
            every = config.live != session.config.live
            session.config = session.config.model_copy(update={name: getattr(config, name) for name in _TAKEN})
            changed = self._become(specs, every=every)
        return changed, [name for name in differ if name not in _TAKEN]

    def _known(self, source_id: str) -> SourceSpec:
        if source_id not in self.specs:
            raise SourceNotFoundError(f"{source_id}: there is no such source; known are {', '.join(self.specs)}")
        return self.specs[source_id]

    @property
    def stays(self) -> bool:
        """Whether the run goes on without a source, for one may come."""
        controlled = self._session.config.health.token is not None
        return controlled or any(spec.paused for spec in self.specs.values())

    def _become(self, specs: Mapping[str, SourceSpec], *, every: bool = False) -> list[str]:
        """Have these sources and no others; return which were touched."""
        if (pipeline := self.pipeline) is None:
            raise ConfigError("the run has not begun yet, or is at its end: try again in a minute")
        old, self.specs = self.specs, specs
        pipeline.stays = self.stays
        changed = [name for name in {**old, **specs} if every or old.get(name) != specs.get(name)]
        for name in changed:
            spec = specs.get(name)
            opens = spec is not None and not spec.paused
            pipeline.replace(name, self._session._source(spec, len(specs)) if spec and opens else None)
        return changed
