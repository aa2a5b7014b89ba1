"""Another configuration for a run that is going on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamfer.config import Config
from streamfer.errors import ConfigError
from streamfer.video.locate import configured_sources

if TYPE_CHECKING:
    from streamfer.api.session import Session

_TAKEN = ("sources", "live")


def reload_sources(session: Session, config: Config) -> tuple[list[str], list[str]]:
    """Give the run of ``session`` the sources of another configuration; sources that are the same go on.

    Args:
        session: publishes the sources of its configuration.
        config: its ``sources`` and ``live`` count; the rest stays as it is until the next run.

    Returns:
        The ids of the sources that were added, removed or changed, and the sections that differ and stay.

    Raises:
        ConfigError: no such run is going on, or two sources share an id. Nothing has changed then, or if
        SourceError: a source is not there.
    """
    running, old = session._running, session._specs
    if running is None or not old:
        raise ConfigError("nothing to reload: no run is going on with the sources of a configuration")
    specs = {spec.source_id: spec for spec in configured_sources(config)}
    every = config.live != session.config.live
    differ = [name for name in Config.model_fields if getattr(config, name) != getattr(session.config, name)]
    session.config = session.config.model_copy(update={name: getattr(config, name) for name in _TAKEN})
    session._specs = specs
    changed = [name for name in {**old, **specs} if every or old.get(name) != specs.get(name)]
    for name in changed:
        running.replace(name, session._source(specs[name], len(specs)) if name in specs else None)
    return changed, [name for name in differ if name not in _TAKEN]
