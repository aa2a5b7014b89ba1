"""An MQTT broker (version 5): every message is acknowledged by it (QoS 1) before its record is in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import aiomqtt

from streamfer.addresses import address_name
from streamfer.bridges.bridge import AwayError, Destination, RefusedError, read_destination, trusting, untrusted
from streamfer.bridges.topics import Message, discovery, lost_message, messages_of
from streamfer.config import BridgeConfig
from streamfer.errors import ConfigError
from streamfer.publish import Lost
from streamfer.records import Record

_SCHEMES = {"mqtt": 1883, "mqtts": 8883}
_ANSWER_SECONDS = 10.0
_KEEPALIVE_SECONDS = 10
_PUBLISH_SECONDS = 60.0
#: Bytes of a packet, where the broker names no limit: what is larger would only have it hang up, again and again.
_LARGEST_PACKET = 262_144
_PACKET_HEAD = 16
#: What a client complains of is raised, too, and said once by the bridge.
_CLIENT_LOG = logging.getLogger(f"{__name__}.client")
_CLIENT_LOG.setLevel(logging.CRITICAL)
#: Reason codes (MQTT 5.0, 2.4): who asks may not; what may pass; what is wrong with a message itself.
_DENIALS = {0x86, 0x87, 0x8A, 0x8C}
_PASSING = {0x88, 0x89, 0x97, 0x9F}
_WRONG = {0x90, 0x95, 0x99}


class _Client(aiomqtt.Client):
    """Remembers what the broker says of its limits and of messages that it does not take, which aiomqtt drops."""

    largest = _LARGEST_PACKET
    refusal: Any = None

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        self.largest = min(self.largest, getattr(properties, "MaximumPacketSize", self.largest))
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        if reason_code.is_failure:
            self.refusal = reason_code
        super()._on_publish(client, userdata, mid, reason_code, properties)


_Link = tuple[_Client, "asyncio.Task[None]"]


class Broker(Destination):
    """Publishes records to the broker of an ``mqtt://`` or ``mqtts://`` URL, which may hold ``${NAME}``.

    Raises:
        ConfigError: the address or the authority's file cannot be used.
    """

    batch, seconds = 100, 0.0

    def __init__(self, url: str, config: BridgeConfig) -> None:
        filled, address, self.name = read_destination(url, _SCHEMES)
        parts = urlsplit(filled)
        if parts.path.strip("/") or parts.query:
            raise ConfigError(f"{self.name}: nothing may follow the port; bridge.topic is what topics begin with")
        self._prefix, self._discovery = config.topic.rstrip("/"), config.discovery
        self.identity = address_name(f"{filled.rstrip('/')}/{self._prefix}")
        who = f"{self.identity} {config.group} {config.consumer or socket.gethostname()}"
        self._available = f"{self._prefix}/available"
        self._options: dict[str, Any] = {
            "hostname": address.host,
            "port": address.port or _SCHEMES[address.scheme],
            "username": unquote(parts.username) if parts.username else None,
            "password": unquote(parts.password) if parts.password else None,
            "protocol": aiomqtt.ProtocolVersion.V5,
            # The same at each start: the broker says farewell for the one before, and not later than this one comes.
            "identifier": f"streamfer-{hashlib.sha256(who.encode()).hexdigest()[:12]}",
            "will": aiomqtt.Will(self._available, "offline", 1, True),
            "timeout": _ANSWER_SECONDS,
            "keepalive": _KEEPALIVE_SECONDS,
            "logger": _CLIENT_LOG,
            "tls_context": trusting(config.ca) if address.scheme == "mqtts" else None,
        }
        self._link: _Link | None = None
        self._was_there = False
        self._announced: set[str] = set()

    async def deliver(self, records: Sequence[Record], lost: Sequence[Lost]) -> None:
        link = await self._connected()
        fresh = dict.fromkeys(record.subject for record in records if record.subject not in self._announced)
        if self._discovery is not None:
            found = [one for source in fresh for one in discovery(source, self._prefix, self._discovery)]
            await self._publish(link, found)
        self._announced |= fresh.keys()
        messages = [lost_message(one, self._prefix) for one in lost] if records else []
        await self._publish(link, [*messages, *(m for record in records for m in messages_of(record, self._prefix))])

    async def aclose(self) -> None:
        if self._link is None:
            return
        (client, broken), self._link = self._link, None
        with contextlib.suppress(aiomqtt.MqttError):
            if not broken.done():
                await client.publish(self._available, "offline", qos=1, retain=True)
        broken.cancel()
        await asyncio.wait({broken})
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)

    async def _connected(self) -> _Link:
        """Return a connection that is there, as far as is known."""
        if self._link is not None and not self._link[1].done():
            return self._link
        await self.aclose()
        client = _Client(**self._options)
        client.pending_calls_threshold = sys.maxsize
        try:
            await client.__aenter__()
        except aiomqtt.MqttError as error:
            raise self._explained(error) from None
        self._link = (client, asyncio.create_task(_until_broken(client)))
        self._announced, self._was_there = set(), True
        await self._publish(self._link, [Message(self._available, b"online", retain=True)])
        return self._link

    def _explained(self, error: aiomqtt.MqttError) -> Exception:
        """Return what a failed connection means; at the start, what waiting will not mend ends the bridge."""
        rc = getattr(error, "rc", None)
        code = getattr(rc, "value", None)
        denied, reason = False, f"cannot be reached ({error})"
        if distrust := untrusted(error):
            denied, reason = True, distrust
        elif code is not None:
            way_out = "; give USER:PASSWORD@ in the address" if code in _DENIALS else ""
            denied, reason = code not in _PASSING, f"refuses the connection ({rc}){way_out}"
        if denied and not self._was_there:
            return ConfigError(f"{self.name}: {reason}")
        return AwayError(reason, denied=denied)

    async def _publish(self, link: _Link, messages: Sequence[Message]) -> None:
        """Publish messages, in order, and wait until the broker has them all."""
        client, broken = link
        for one in messages:
            size = len(one.payload) + len(one.topic.encode()) + _PACKET_HEAD
            if size > client.largest:
                raise RefusedError(f"{size} bytes are more than the {client.largest} of its largest packet")
        client.refusal = None
        words = ((one.topic, one.payload, 1, one.retain) for one in messages)
        sending = asyncio.gather(
            *(client.publish(*word, timeout=_PUBLISH_SECONDS) for word in words), return_exceptions=True
        )
        both: set[asyncio.Future[Any]] = {sending, broken}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            failed = [one for one in sending.result() if one is not None] if sending.done() else ["it hung up"]
        finally:
            # Nobody waits for it any more: how it ends is no defect, of which asyncio would write a traceback.
            sending.add_done_callback(lambda over: over.cancelled() or over.exception())
            sending.cancel()
        if failed:
            broken.cancel()
            raise AwayError(f"does not acknowledge ({failed[0]})")
        refusal = client.refusal
        if refusal is not None and refusal.value in _WRONG:
            raise RefusedError(str(refusal))
        if refusal is not None:
            topics = f"{self._prefix}/#" + (f" and {self._discovery}/#" if self._discovery else "")
            raise AwayError(f"takes no message ({refusal}); its rules must allow {topics}", denied=True)


async def _until_broken(client: aiomqtt.Client) -> None:
    """Return when the broker hung up: nothing is subscribed, so nothing else can come."""
    with contextlib.suppress(aiomqtt.MqttError):
        await anext(client.messages)
