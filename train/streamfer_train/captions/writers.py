"""Language models that write: an OpenAI-compatible endpoint, or a transformers model in a local folder."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import stamina

from streamfer.errors import ConfigError, InternalError
from streamfer.redaction import redact_url
from streamfer_train.captions.prompts import Message

#: Environment variable that holds the key of the endpoint; no flag and no file takes it.
KEY_VARIABLE = "STREAMFER_LLM_API_KEY"
_LARGEST_ANSWER = 1_000_000  # bytes
_PASSING_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Reply:
    """A text with the tokens that it cost; None where the endpoint does not say."""

    text: str
    prompt_tokens: int | None
    answer_tokens: int | None


class WriterFault(Exception):
    """A writer gave no text; ``kind`` is ``slow``, ``busy``, ``unreachable``, ``denied`` or ``nonsense``."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class _PassingFault(WriterFault):
    """One that may be gone at the next try, after ``wait`` seconds if the endpoint asked for that."""

    def __init__(self, kind: str, reason: str, wait: float | None = None) -> None:
        super().__init__(kind, reason)
        self.wait = wait


class Writer(Protocol):
    """Anything that answers messages with a text. ``name`` identifies model and settings, for the cache."""

    @property
    def name(self) -> str: ...

    def write(self, messages: Sequence[Message]) -> Reply:
        """Return a text, from any thread.

        Raises:
            WriterFault: there is none.
        """


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible chat endpoint: ``url`` is what ``/chat/completions`` is appended to.

    ``timeout`` is the whole time for one answer in seconds; ``attempts`` how often a busy or unreachable endpoint is
    asked before that counts as a fault. The key comes from the environment (``STREAMFER_LLM_API_KEY``).
    """

    url: str
    model: str
    timeout: float = 60.0
    attempts: int = 4
    max_tokens: int = 300
    temperature: float = 0.7
    longest_wait: float = 20.0

    def __post_init__(self) -> None:
        """Check the address.

        Raises:
            ConfigError: it is no HTTP address, or carries credentials.
        """
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"{redact_url(self.url)}: is no http(s) address; write it as in https://host/v1")
        if "@" in parts.netloc:
            raise ConfigError(f"{redact_url(self.url)}: carries credentials; put the key into {KEY_VARIABLE} instead")

    @property
    def name(self) -> str:
        """Model and settings; another address of the same model gives the same answers."""
        return f"{self.model} temperature={self.temperature:g} max_tokens={self.max_tokens}"

    def write(self, messages: Sequence[Message]) -> Reply:
        """Ask the endpoint, again after waiting where it is busy, slow to start, or out of reach.

        Raises:
            WriterFault: it refused, took too long, or answered something else than a text.
        """
        for attempt in stamina.retry_context(
            on=_pause, attempts=self.attempts, timeout=None, wait_initial=0.2, wait_max=self.longest_wait
        ):
            with attempt:
                return self._ask(messages)
        raise InternalError("stamina's retry context ended without result and without error")

    def _ask(self, messages: Sequence[Message]) -> Reply:
        body = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)  # noqa: S310
        deadline = time.monotonic() + self.timeout
        try:
            with _OPENER.open(request, timeout=self.timeout) as response:
                answer = self._read(response, deadline)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from None
        except TimeoutError as error:
            raise WriterFault("slow", f"no answer within {self.timeout:g} s") from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise WriterFault("slow", f"no answer within {self.timeout:g} s") from error
            raise _PassingFault("unreachable", f"{redact_url(self.url)} cannot be reached") from error
        return _reply(answer)

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        """Read bit by bit, so that an endpoint that drips cannot hold a thread for ever."""
        answer = bytearray()
        while chunk := response.read1(65536):
            answer += chunk
            if time.monotonic() > deadline:
                raise WriterFault("slow", f"no complete answer within {self.timeout:g} s")
            if len(answer) > _LARGEST_ANSWER:
                raise WriterFault("nonsense", "an answer of more than a megabyte")
        return bytes(answer)

    def _refused(self, error: urllib.error.HTTPError) -> WriterFault:
        reason = f"{redact_url(self.url)} answered {error.code}"
        if error.code in _PASSING_STATUS:
            wait = error.headers.get("Retry-After", "") if error.headers else ""
            seconds = min(float(wait), self.longest_wait) if wait.isdecimal() else None
            return _PassingFault("busy", reason, seconds)
        return WriterFault("denied", reason)


def _pause(error: Exception) -> bool | float:
    """Tell stamina whether to try again, and after how many seconds if the endpoint said so."""
    if not isinstance(error, _PassingFault):
        return False
    return True if error.wait is None else error.wait


def _reply(answer: bytes) -> Reply:
    try:
        document = json.loads(answer)
        text = document["choices"][0]["message"]["content"]
        usage = document.get("usage") or {}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise WriterFault("nonsense", "the answer is no chat completion") from error
    if not isinstance(text, str) or not text.strip():
        raise WriterFault("nonsense", "the answer holds no text")
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    prompt, written = (count if isinstance(count, int) and count >= 0 else None for count in counts)
    return Reply(" ".join(text.split()), prompt, written)


@dataclass(slots=True)
class LocalModel:
    """A causal language model in a transformers folder; nothing is downloaded and no code of the folder runs."""

    folder: Path
    max_tokens: int = 300
    device: str = "cpu"
    _loaded: tuple[Any, Any] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """Folder name and settings; decoding is greedy."""
        return f"local:{self.folder.name} max_tokens={self.max_tokens}"

    def load(self) -> tuple[Any, Any]:
        """Load tokenizer and model once.

        Raises:
            ConfigError: the folder holds no such model.
        """
        if self._loaded is None:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            if not (self.folder / "config.json").is_file():
                raise ConfigError(
                    f"{self.folder}: no transformers model there (config.json is absent); name its folder"
                )
            try:
                tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
                model: Any = AutoModelForCausalLM.from_pretrained(self.folder, local_files_only=True)
                model = model.to(self.device)
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise ConfigError(f"{self.folder}: cannot be loaded as a causal language model ({reason})") from error
            self._loaded = tokenizer, model.eval()
        return self._loaded

    def write(self, messages: Sequence[Message]) -> Reply:
        """Continue the conversation, greedily, one call at a time.

        Raises:
            WriterFault: nothing was written.
        """
        import torch

        with self._lock, torch.inference_mode():
            tokenizer, model = self.load()
            if tokenizer.chat_template:
                prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            else:
                prompt = "\n\n".join(message["content"] for message in messages) + "\n\n"
            inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)
            length = inputs["input_ids"].shape[1]
            room = getattr(model.config, "max_position_embeddings", None)
            if room is not None and length + self.max_tokens > room:
                raise WriterFault("nonsense", f"the prompt of {length} tokens does not fit the model's {room}")
            written = model.generate(
                **inputs,
                max_new_tokens=self.max_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            )[0, length:]
            text = tokenizer.decode(written, skip_special_tokens=True)
        if not text.strip():
            raise WriterFault("nonsense", "the model wrote nothing")
        return Reply(" ".join(text.split()), length, len(written))
