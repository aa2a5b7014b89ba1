"""``streamfer bridge``: hand records on to what does not speak Redis."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from streamfer.cli.options import takes
from streamfer.cli.terminal import note
from streamfer.extras import needs
from streamfer.redaction import redact_text

if TYPE_CHECKING:
    from streamfer.config import Config


@takes("bridge__topic", "bridge__secret", "bridge__since", "redis")
def bridge(
    config: Config,
    kind: Annotated[Literal["mqtt", "webhook"], typer.Argument(metavar="mqtt|webhook", hidden=True)],
    url: Annotated[str, typer.Argument(metavar="URL", hidden=True)],
) -> None:
    """Hand records on, to an MQTT broker or a webhook.

    URL is the broker's, mqtt:// or mqtts://, or the receiver's, http:// or https://; '${NAME}' in it is a secret. A
    record is acknowledged in Redis when the destination has acknowledged it, so that after any end, of either, it goes
    on where it was. Home Assistant discovers what is published; requests to webhooks are batches that --secret signs.
    """

    async def run() -> None:
        from streamfer.bridges.bridge import Bridge, Destination

        there: Destination
        if kind == "mqtt":
            with needs("mqtt", "streamfer bridge mqtt"):
                from streamfer.bridges.broker import Broker
            there = Broker(url, config.bridge)
        else:
            from streamfer.bridges.webhook import Webhook

            there = Webhook(url, config.bridge)
        bridge = Bridge(config, there, lambda line: note(redact_text(line)))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, bridge.stop)
        await bridge.run()

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(run())
