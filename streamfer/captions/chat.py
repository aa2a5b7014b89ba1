"""An OpenAI-compatible chat endpoint: one call, with a deadline, a size limit, and waits that the server asks for.

Servers differ in what they take (vLLM, Ollama, LM Studio, llama.cpp, clouds): what one refuses is left out of the next
try, and left out from then on. Source: the servers' documentation and issues, 2026-11.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

import httpx2

from streamfer.addresses import AddressError, is_loopback, read_address, seconds_to_wait
from streamfer.captions.protocol import Message
from streamfer.errors import ConfigError
from streamfer.redaction import redact_url

#: Environment variable with the key of any endpoint that is named; no flag and no file takes it.
KEY_VARIABLE = "STREAMFER_LLM_API_KEY"
OPENAI = "https://api.openai.com/v1"
_LARGEST_ANSWER = 1_000_000  # bytes
_PASSING_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_CONNECT_SECONDS = 10.0
#: What may be left out where a server refuses it, in the order in which it is tried.
_OPTIONAL = ("chat_template_kwargs", "think", "response_format", "temperature", "max_tokens")

log = logging.getLogger(__name__)


class ChatError(Exception):
    """An endpoint gave no text, and asks to wait so many seconds, where it says so.

    ``kind`` is ``slow``, ``busy``, ``unreachable``, ``denied`` (the key; a redirect), ``refused`` (what was asked),
    ``absent`` (no such model or path there) or ``nonsense``.
    """

    def __init__(self, kind: str, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.wait = wait

    @property
    def passing(self) -> bool:
        return self.kind in ("busy", "unreachable")


@dataclass(frozen=True, slots=True)
class Reply:
    """A text with the tokens that it cost; None where the endpoint does not say."""

    text: str
    prompt_tokens: int | None
    answer_tokens: int | None


@dataclass(slots=True)
class Spending:
    """What a model was asked, and what that cost."""

    calls: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def cost(self, price: tuple[float, float]) -> float:
        """Return what the tokens cost at prices for a million tokens of prompt and answer."""
        return (self.prompt_tokens * price[0] + self.answer_tokens * price[1]) / 1e6


def endpoint_url(url: str | None) -> str:
    """Return the address that ``/chat/completions`` is appended to; ``/v1`` is added to a bare host.

    Raises:
        ConfigError: it is no HTTP address, or carries credentials.
    """
    url = url or os.environ.get("OPENAI_BASE_URL") or OPENAI
    try:
        is_http = read_address(url).scheme in ("http", "https")
    except AddressError:
        is_http = False
    if not is_http:
        raise ConfigError(f"{redact_url(url)}: is no http(s) address; write it as in http://localhost:11434/v1")
    if "@" in urlsplit(url).netloc:
        raise ConfigError(f"{redact_url(url)}: carries credentials; put the key into {KEY_VARIABLE} instead")
    bare = url.rstrip("/").removesuffix("/chat/completions")
    return bare if urlsplit(bare).path else f"{bare}/v1"


def key_for(url: str, variable: str | None = None) -> str | None:
    """Return the key for an address, out of ``variable`` (which must hold one, ConfigError) or the usual ones.

    OpenAI's own goes to OpenAI alone, or where the environment points it.
    """
    if variable is not None:
        if not os.environ.get(variable):
            raise ConfigError(f"captions.key_env: the environment variable {variable} is empty; put the key into it")
        return os.environ[variable]
    if key := os.environ.get(KEY_VARIABLE):
        return key
    theirs = {urlsplit(place).netloc for place in (OPENAI, os.environ.get("OPENAI_BASE_URL", "")) if place}
    return os.environ.get("OPENAI_API_KEY") if urlsplit(url).netloc in theirs else None


class ChatClient:
    """Calls one endpoint, from any thread; where nothing comes of it, a :class:`ChatError` says why.

    ``timeout`` seconds may one answer take, tries and waits included; a busy or unreachable endpoint is asked
    ``attempts`` times, with ``longest_wait`` seconds at most between two.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        timeout: float = 60.0,
        attempts: int = 4,
        longest_wait: float = 20.0,
        connections: int = 16,
    ) -> None:
        self.url, self.model = url, model
        self._timeout, self._attempts, self._longest_wait = timeout, attempts, longest_wait
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        # A redirect would carry the key to another host, a proxy of the environment is none for this machine.
        self._client = httpx2.Client(
            headers=headers,
            follow_redirects=False,
            trust_env=not is_loopback(url),
            timeout=httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            limits=httpx2.Limits(max_connections=connections),
        )
        self._lock = threading.Lock()
        self.is_openai = urlsplit(url).netloc == urlsplit(OPENAI).netloc
        self._left_out = {"chat_template_kwargs", "think", "max_tokens"} if self.is_openai else set[str]()

    def close(self) -> None:
        """Close the connections; calls in progress fail."""
        self._client.close()

    def find(self) -> dict[str, Any]:
        """Look whether the endpoint has the model, and return what it says of it: nothing where it lists none.

        Raises:
            ChatError: it cannot be reached, refuses the key, or has other models, which are listed.
        """
        deadline = time.monotonic() + min(self._timeout, 2 * _CONNECT_SECONDS)
        try:
            document = json.loads(self._send("GET", "models", None, deadline))
        except ChatError as error:
            if error.kind in ("unreachable", "denied", "slow"):
                raise
            return {}
        except ValueError:
            return {}
        listed = document.get("data", document.get("models")) if isinstance(document, dict) else document
        entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        known = {str(entry.get("id") or entry.get("name")): entry for entry in entries}
        # Ollama lists "qwen3-vl:latest" for what it also calls "qwen3-vl", llama.cpp the path of its file.
        for name, entry in known.items():
            if self.model in (name, name.removesuffix(":latest"), PurePath(name).name):
                self.model = name
                return entry
        if known:
            there = ", ".join(sorted(known)[:20])
            raise ChatError("absent", f"{redact_url(self.url)} has no such model; it has {there}")
        return {}

    def write(self, messages: Sequence[Message], **options: Any) -> Reply:
        """Ask for the next turn of a conversation (ChatError: none came); ``options`` are more fields, unless None."""
        deadline = time.monotonic() + self._timeout
        wanted = {name: value for name, value in options.items() if value is not None}
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._ask(messages, wanted, deadline)
            except ChatError as error:
                pause = min(0.2 * 2**attempt, self._longest_wait) if error.wait is None else error.wait
                late = time.monotonic() + pause >= deadline
                if not error.passing or attempt >= self._attempts or late or pause > self._longest_wait:
                    raise
            time.sleep(pause)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector of each text, as ``/embeddings`` gives them (ChatError: none came)."""
        body = {"model": self.model, "input": list(texts)}
        try:
            rows = json.loads(self._send("POST", "embeddings", body, time.monotonic() + self._timeout))["data"]
            vectors = [row["embedding"] for row in sorted(rows, key=lambda row: row.get("index", 0))]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ChatError("nonsense", "the answer holds no embeddings") from error
        if len(vectors) != len(texts):
            raise ChatError("nonsense", f"{len(vectors)} embeddings for {len(texts)} texts")
        return vectors

    def _ask(self, messages: Sequence[Message], options: dict[str, Any], deadline: float) -> Reply:
        """Ask once, leaving out one thing at a time of what may be refused: for good where that helped."""
        left_out = set(self._left_out)
        while True:
            body = {"model": self.model, "messages": list(messages)}
            body |= {name: value for name, value in options.items() if name not in left_out}
            if "max_tokens" in left_out and "max_tokens" in options:
                body["max_completion_tokens"] = options["max_tokens"]
            try:
                reply = read_reply(self._send("POST", "chat/completions", body, deadline))
            except ChatError as error:
                named = [name for name in _OPTIONAL if name in body and name in str(error)]
                left = named or [name for name in _OPTIONAL if name in body]
                if error.kind != "refused" or not left or "image" in str(error).lower():
                    raise
                left_out.add(left[0])
                continue
            with self._lock:
                if new := left_out - self._left_out:
                    log.info("%s does not take %s", redact_url(self.url), ", ".join(sorted(new)))
                self._left_out |= new
            return reply

    def _send(self, method: str, path: str, body: Any, deadline: float) -> bytes:
        try:
            with self._client.stream(method, f"{self.url}/{path}", json=body) as response:
                answer = self._read(response, deadline)
        except (httpx2.TimeoutException, TimeoutError) as error:
            if isinstance(error, httpx2.ConnectTimeout):
                raise ChatError("unreachable", f"{redact_url(self.url)} cannot be reached") from error
            raise ChatError("slow", f"no answer within {self._timeout:g} s") from error
        except (httpx2.HTTPError, httpx2.StreamError, RuntimeError, OSError) as error:
            raise ChatError("unreachable", f"{redact_url(self.url)} cannot be reached") from error
        if response.status_code == 200:
            return answer
        raise self._refused(response, answer)

    def _read(self, response: httpx2.Response, deadline: float) -> bytes:
        """Read bit by bit, so that an endpoint that drips cannot hold a thread for ever."""
        answer = bytearray()
        for chunk in response.iter_bytes():
            answer += chunk
            if time.monotonic() > deadline:
                raise ChatError("slow", f"no complete answer within {self._timeout:g} s")
            if len(answer) > _LARGEST_ANSWER:
                raise ChatError("nonsense", "an answer of more than a megabyte")
        return bytes(answer)

    def _refused(self, response: httpx2.Response, answer: bytes) -> ChatError:
        code = response.status_code
        said = _message(answer)
        reason = f"{redact_url(self.url)} answered {code}{f': {said}' if said else ''}"
        if code in _PASSING_STATUS:
            return ChatError("busy", reason, seconds_to_wait(response.headers.get("Retry-After")))
        if 300 <= code < 400:
            return ChatError("denied", f"{reason}, a redirect; name the address that it leads to")
        if code in (401, 403):
            return ChatError("denied", f"{reason}; is the key in {KEY_VARIABLE} right?")
        return ChatError("absent" if code == 404 else "refused" if code in (400, 413, 415, 422) else "nonsense", reason)


def _message(answer: bytes) -> str:
    """Return what an error document says, one short line."""
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    for name in ("error", "message", "detail"):
        if isinstance(document, dict) and name in document:
            document = document[name]
    return " ".join(str(document).split())[:200]


def read_reply(answer: bytes) -> Reply:
    """Return the text of a chat completion; a ChatError where there is none."""
    try:
        document = json.loads(answer)
        choice = document["choices"][0]
        message = choice["message"]
        text = message.get("content")
        usage = document.get("usage") or {}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ChatError("nonsense", "the answer is no chat completion") from error
    if isinstance(text, list):
        text = " ".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
    if not isinstance(text, str) or not text.strip():
        if message.get("reasoning_content") or message.get("reasoning"):
            raise ChatError(
                "nonsense",
                "the model spent its whole answer on thinking; turn its thinking off at the server, choose another "
                "model, or raise captions.max_tokens",
            )
        raise ChatError("nonsense", "the answer holds no text")
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    prompt, written = (count if isinstance(count, int) and count >= 0 else None for count in counts)
    return Reply(" ".join(text.split()), prompt, written)
