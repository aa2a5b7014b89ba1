"""A webhook: records posted as CloudEvents batches, signed as Standard Webhooks says (https://www.standardwebhooks.com).

A request is ``application/cloudevents-batch+json``, an array of what :meth:`streamfer.records.Record.to_json` writes.
``webhook-id`` is the same whenever the same records are sent again.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
import uuid
from collections.abc import Sequence

import httpx2

from streamfer.addresses import address_name, fill, is_loopback, seconds_to_wait
from streamfer.bridges.bridge import AwayError, Destination, RefusedError, read_destination, trusting, untrusted
from streamfer.config import BridgeConfig
from streamfer.errors import ConfigError
from streamfer.publish import Lost
from streamfer.records import Record

_SCHEMES = {"http": 80, "https": 443}
_NAMESPACE = uuid.UUID("8f5c7a52-5f52-4b0c-8d83-1f4a3c0f6c5e")
_ANSWER_SECONDS = 30.0
#: Seconds and bytes of an answer's body that are read, so that its connection serves again.
_BODY_SECONDS, _LARGEST_ANSWER = 1.0, 65_536
_GONE = 410
#: The request itself is wrong, and will be at the next try.
_REFUSALS = {400, 406, 409, _GONE, 411, 413, 414, 415, 422, 431, 451}
#: Somebody must mend the address, the rights or the receiver; so too where it answers with a redirect.
_DENIALS = {401, 402, 403, 404, 405, 407, 501}


class Webhook(Destination):
    """Posts records to one http(s) URL, which may hold user and password, and ``${NAME}``.

    Raises:
        ConfigError: the address or the secret cannot be used.
    """

    def __init__(self, url: str, config: BridgeConfig) -> None:
        self._url, _, self.name = read_destination(url, _SCHEMES)
        try:
            httpx2.URL(self._url)
        except httpx2.InvalidURL:
            raise ConfigError(f"{self.name}: the address cannot be read") from None
        self.identity = address_name(self._url)
        self.batch, self.seconds = config.batch, config.seconds
        self._key = None if config.secret is None else read_secret(fill(config.secret))
        # A redirect would carry records elsewhere; a proxy of the environment is none for this machine.
        self._client = httpx2.AsyncClient(
            verify=trusting(config.ca), timeout=_ANSWER_SECONDS, trust_env=not is_loopback(self._url)
        )

    async def deliver(self, records: Sequence[Record], lost: Sequence[Lost]) -> None:
        if not records:
            return
        body = f"[{','.join(record.to_json() for record in records)}]".encode()
        headers = self._headers(" ".join(record.id for record in records), body)
        if lost:
            headers["streamfer-lost"] = str(sum(one.count for one in lost))
        posting = self._client.stream("POST", self._url, content=body, headers=headers)
        size, answer = 0, None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS), posting as answer:
                async with asyncio.timeout(_BODY_SECONDS):
                    async for chunk in answer.aiter_raw():
                        size += len(chunk)
                        if size > _LARGEST_ANSWER:
                            break
        except (TimeoutError, httpx2.HTTPError) as error:
            # Of an answer its status counts; what follows need never end.
            if answer is None:
                raise _explained(error) from None
        judge(answer.status_code, answer.headers.get("Retry-After"))

    async def aclose(self) -> None:
        await self._client.aclose()

    def _headers(self, what: str, body: bytes) -> dict[str, str]:
        number, stamp = f"msg_{uuid.uuid5(_NAMESPACE, what).hex}", str(int(time.time()))
        headers = {
            "Content-Type": "application/cloudevents-batch+json",
            "webhook-id": number,
            "webhook-timestamp": stamp,
        }
        if self._key is not None:
            digest = hmac.digest(self._key, f"{number}.{stamp}.".encode() + body, hashlib.sha256)
            headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
        return headers


def _explained(error: Exception) -> AwayError:
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return AwayError(f"gave no answer within {_ANSWER_SECONDS:.0f} s")
    if distrust := untrusted(error):
        return AwayError(distrust, denied=True)
    return AwayError(f"cannot be reached ({str(error) or 'it hung up without an answer; is it https:// ?'})")


def judge(status: int, retry_after: str | None) -> None:
    """Return where an answer says that records are taken.

    Raises:
        AwayError: it may take them yet.
        RefusedError: it will never take them.
    """
    if status in _REFUSALS:
        raise RefusedError(f"HTTP {status}", gone=status == _GONE)
    if not 200 <= status < 300:
        denied = status in _DENIALS or status < 400
        moved = ", a redirect, which is not followed: give the address that it leads to"
        mend = moved if status < 400 else ": mend the address or the rights there" if denied else ""
        raise AwayError(f"HTTP {status}{mend}", wait=seconds_to_wait(retry_after), denied=denied)


def read_secret(text: str) -> bytes:
    """Return the key of a secret: ``whsec_`` and base64, or any other text as it is.

    Raises:
        ConfigError: it is no base64, or too short to keep anything safe.
    """
    prefix, encoded, rest = text.partition("whsec_")
    try:
        key = base64.b64decode(rest, validate=True) if encoded and not prefix else text.encode()
    except ValueError:
        raise ConfigError("bridge.secret: what follows whsec_ is not base64") from None
    if len(key) < 16:
        raise ConfigError("bridge.secret: it is shorter than 16 bytes; openssl rand -base64 32 makes one")
    return key
