"""``streamfer serve``: a page that shows what every source sees, says and costs."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from streamfer.cli.options import takes
from streamfer.cli.signals import first_of
from streamfer.cli.terminal import note
from streamfer.extras import needs

if TYPE_CHECKING:
    from streamfer.config import Config


@takes("redis", "serve__address")
def serve(config: Config) -> None:
    """Show a live page of the records in Redis.

    Sources, people, expressions, action units, captions, history. The page is a subscriber like any other and may run
    anywhere. Adding, pausing and removing sources needs serve.control (the health address of a run) and
    serve.control_token. Other machines may look only with serve.token.
    """
    with needs("serve", "streamfer serve"):
        from streamfer.serve.dashboard import serving
    stopped = first_of(signal.SIGINT, signal.SIGTERM)
    with serving(config) as url:
        note(f"look at {url}")
        stopped.wait()
