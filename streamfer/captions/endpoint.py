"""A language model behind an OpenAI-compatible server (vLLM, Ollama, LM Studio, llama.cpp, a cloud) as captioner.

What leaves the machine is stated: measurements and, unless ``captions.images`` is ``none``, the aligned crops of faces
(``surroundings``: with what is around them), to the address that was named explicitly. An absent server fails no run:
its captions are missing and counted.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from streamfer.addresses import is_loopback
from streamfer.captions.card import face_crop
from streamfer.captions.chat import ChatClient, ChatError, Reply, Spending, endpoint_url, key_for
from streamfer.captions.prompts import again, answer_messages, check_prompts, describe_messages
from streamfer.captions.protocol import Caption, CaptionerInfo, CaptionError, CaptionRequest, Keyframes, Message
from streamfer.captions.writers import ENDPOINT, CheckedWriter, Refused, SpentError
from streamfer.config import CaptionsConfig
from streamfer.errors import ConfigError, UnknownModelError
from streamfer.geometry import squashed_crop
from streamfer.redaction import redact_url

#: What is sent by ``captions.images``, and the same in words; surroundings reach a face's size to each side of it.
_PICTURES = {
    "crops": (face_crop(224), "pictures of faces and measurements"),
    "surroundings": (squashed_crop(448, margin=1.0), "pictures of faces with their surroundings and measurements"),
    "none": (None, "measurements"),
}
#: A prompt with its pictures takes so many tokens; a server with less room cuts it silently.
_ROOM_TOKENS = 2048
#: The fewest pictures that any known server takes in one request.
_MOST_PICTURES = 5
#: An endpoint that cannot be reached, or is busy without saying for how long, is left alone for so long.
_REST_SECONDS = 60.0
_LONGEST_REST = 3600.0
_HOUR, _DAY = 3600.0, 86_400.0
#: Requests that are kept in the debug folder; a run of days must not fill a disk.
_MOST_DEBUGGED = 1000
_TOKENS_A_WORD = 1.4
_POLL_SECONDS = 0.1

log = logging.getLogger(__name__)


class EndpointWriter(CheckedWriter):
    """A model behind an endpoint; deadlines of their own end its calls. ``clock`` is for rests and caps."""

    def __init__(self, model: str, settings: CaptionsConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Look at the settings (ConfigError where one cannot be used); nothing is sent before :meth:`check`."""
        super().__init__()
        if not model:
            raise ConfigError("captions.model: openai: names no model; write it as in openai:qwen3-vl")
        check_prompts(settings)
        self._settings, self._clock = settings, clock
        url = endpoint_url(settings.url)
        key = key_for(url, settings.key_env)
        self._client = ChatClient(
            url, model, key=key, timeout=settings.timeout, attempts=settings.attempts, connections=settings.concurrency
        )
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="streamfer endpoint")
        self._rest_until, self._resting_for = 0.0, ""
        self._asked: deque[float] = deque()
        self._tokens: deque[tuple[float, int]] = deque()
        self._debugged = 0
        self._said: set[str] = set()
        self.spending = Spending()
        self._unparsed = 0
        self._info = CaptionerInfo(
            f"{ENDPOINT}{model}",
            hashlib.sha256(f"{redact_url(url)} {model}".encode()).hexdigest(),
            "as the model's authors and the server's operator state",
            crop=_PICTURES[settings.images][0],
            max_new_tokens=settings.max_tokens,
            device="endpoint",
            precision="as served",
        )

    def check(self) -> None:
        """Ask the endpoint whether it has the model, and whether that looks at pictures.

        An endpoint that cannot be reached is only warned of: it may come back.

        Raises:
            UnknownModelError: there is no such model (those that are there are listed), or it takes no pictures.
            ConfigError: the key is missing or refused.
        """
        if not is_loopback(self._client.url):
            log.warning("captions: %s", leaving(self._settings))
        try:
            entry = self._client.find()
            room = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx")
            if isinstance(room, int) and room < _ROOM_TOKENS:
                log.warning("captioner %s: has room for %d tokens; give it %d", self.info.name, room, _ROOM_TOKENS)
            if self.info.crop is not None:
                self._show()
        except ChatError as error:
            if error.kind == "denied":
                raise ConfigError(f"captioner {self.info.name}: {error}") from error
            if error.kind == "absent":
                raise UnknownModelError(f"captioner {self.info.name}: {error}") from error
            self._rest(error)

    def _show(self) -> None:
        """Show a red picture, so that a model without eyes is named at the start and not by empty captions."""
        red = np.zeros((1, 64, 64, 3), np.uint8)
        red[..., 0] = 220
        asked: list[Message] = [{"role": "user", "content": "Which colour is this picture? Answer with one word."}]
        try:
            reply = self._client.write(_with_pictures(asked, red), **self._options(16))
        except ChatError as error:
            if error.kind == "refused" or "image" in str(error).lower():
                raise UnknownModelError(
                    f"captioner {self.info.name} takes no pictures ({error}); choose a model that does, or send "
                    "measurements alone: --set captions.images=none"
                ) from error
            if error.kind != "nonsense":
                raise
            log.warning("captioner %s: %s", self.info.name, error)
            return
        self._count(reply, asked)
        if "red" not in reply.text.lower():
            log.warning(
                "captioner %s may not see pictures: it calls a red one %.40r; captions.images=none sends measurements",
                self.info.name, reply.text,
            )  # fmt: skip

    def draft(
        self, requests: Sequence[CaptionRequest], refused: Sequence[Refused] | None = None
    ) -> list[Caption | CaptionError]:
        wrong: Sequence[Refused | None] = refused or [None] * len(requests)
        drafts = [self._pool.submit(self._draft, *work) for work in zip(requests, wrong, strict=True)]
        if (patience := self.patience) is None:
            return [one.result() for one in drafts]
        # Each has a deadline of its own; a run that is stopped does not wait for it.
        while wait(drafts, _POLL_SECONDS).not_done and not patience.over():
            continue
        return [patience.error() if one.cancel() or not one.done() else one.result() for one in drafts]

    def _draft(self, request: CaptionRequest, wrong: Refused | None) -> Caption | CaptionError:
        messages = describe_messages(request, self._settings, as_json=True)
        if wrong is not None:
            messages = again(messages, *wrong)
        try:
            reply = self._ask(messages, request.keyframes, self._schema)
        except CaptionError as error:
            return error
        text, checked = self._read(reply)
        self._debug(request, messages, reply)
        return Caption(text, checked=checked)

    def answer(self, question: str, told: str, keyframes: Keyframes) -> str:
        """Answer a question about a face, in the question's language; a CaptionError says why none came."""
        seen = self.info.crop is not None and len(keyframes) > 0
        return self._ask(answer_messages(question, told, pictures=seen), keyframes).text

    def _ask(self, messages: list[Message], frames: Keyframes, schema: Any = None) -> Reply:
        self._may_ask()
        # OpenAI has a price for each picture's detail.
        seen = _with_pictures(messages, frames, low=self._client.is_openai)
        try:
            reply = self._client.write(seen, **self._options(self._settings.max_tokens, schema))
        except ChatError as error:
            if error.passing:
                self._rest(error)
            elif error.kind not in self._said:
                self._said.add(error.kind)
                log.warning("captioner %s: %s; such captions are missing", self.info.name, error)
            raise CaptionError(f"endpoint_{error.kind}", str(error)) from error
        with self._lock:
            if self._resting_for:
                log.info("captioner %s is back", self.info.name)
                self._resting_for = ""
        self._count(reply, messages)
        return reply

    def _options(self, max_tokens: int, schema: Any = None) -> dict[str, Any]:
        thinking = self._settings.thinking
        return {
            "max_tokens": max_tokens,
            "temperature": self._settings.temperature,
            "response_format": schema,
            "chat_template_kwargs": None if thinking else {"enable_thinking": False},
            "think": None if thinking else False,
        }

    @property
    def _schema(self) -> dict[str, Any]:
        """What the answer looks like; without titles and limits, at which Ollama drops required fields."""
        fields = ["caption"] if self._settings.language == "en" else ["english", "caption"]
        schema: dict[str, Any] = {"type": "object", "required": fields, "additionalProperties": False}
        schema["properties"] = {name: {"type": "string"} for name in fields}
        return {"type": "json_schema", "json_schema": {"name": "caption", "strict": True, "schema": schema}}

    def _read(self, reply: Reply) -> tuple[str, str | None]:
        """Return text and English twin of an answer, however it is dressed."""
        found = read_fields(reply.text)
        if found is None:
            with self._lock:
                self._unparsed += 1
            found = {"caption": _undressed(reply.text)}
        text = found.get("caption") or found.get("text") or found.get("description") or found.get("english", "")
        return text, None if self._settings.language == "en" else found.get("english", "")

    def _may_ask(self) -> None:
        """Count a call, or say (CaptionError) that the endpoint is being left alone, or a cap is reached."""
        settings, now = self._settings, self._clock()
        with self._lock:
            if now < self._rest_until:
                raise CaptionError("endpoint_resting", self._resting_for)
            while self._asked and now - self._asked[0] >= _HOUR:
                self._asked.popleft()
            while self._tokens and now - self._tokens[0][0] >= _DAY:
                self._tokens.popleft()
            if settings.per_hour is not None and len(self._asked) >= settings.per_hour:
                raise SpentError("hourly_cap", f"captions.per_hour ({settings.per_hour}) is reached")
            spent = sum(tokens for _, tokens in self._tokens)
            if settings.tokens_per_day is not None and spent >= settings.tokens_per_day:
                raise SpentError("token_budget", f"captions.tokens_per_day ({settings.tokens_per_day}) is spent")
            self._asked.append(now)

    def _count(self, reply: Reply, asked: Sequence[Message]) -> None:
        # Where the server does not count, words do; pictures in the messages are none.
        said = " ".join(message["content"] for message in asked if isinstance(message["content"], str))
        pairs = ((reply.prompt_tokens, said), (reply.answer_tokens, reply.text))
        prompt, answer = (
            round(_TOKENS_A_WORD * len(text.split())) if known is None else known for known, text in pairs
        )
        with self._lock:
            self.spending.calls += 1
            self.spending.prompt_tokens += prompt
            self.spending.answer_tokens += answer
            self._tokens.append((self._clock(), prompt + answer))

    def _rest(self, error: ChatError) -> None:
        """Leave the endpoint alone for as long as it asks, a minute if it does not say; this is said once."""
        with self._lock:
            said = bool(self._resting_for)
            self._resting_for = str(error)
            self._rest_until = self._clock() + min(_LONGEST_REST, max(_REST_SECONDS, error.wait or 0.0))
        if not said:
            log.warning("captioner %s: %s; captions are missing until it answers", self.info.name, error)

    def _debug(self, request: CaptionRequest, messages: list[Message], reply: Reply) -> None:
        folder = self._settings.debug
        with self._lock:
            self._debugged += 1
            if folder is None or self._debugged > _MOST_DEBUGGED:
                return
        stem = folder / re.sub(r"[^\w.-]", "_", f"{self._debugged:04d}-{request.seed}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            document = {"source": request.source, "messages": messages, "answer": reply.text}
            Path(f"{stem}.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
            for number, frame in enumerate(request.keyframes if self.info.crop is not None else ()):
                Path(f"{stem}-{number}.jpg").write_bytes(_jpeg(frame))
        except OSError as error:
            log.warning("captions.debug: %s: cannot be written (%s)", folder, error.strerror)

    def close(self) -> None:
        """Close the connections, and say what was spent."""
        super().close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()
        spent, price = self.spending, self._settings.price
        cost = f", {spent.cost(price):.4f} at the prices given" if price else ""
        if spent.calls:
            log.info(
                "captioner %s: %d calls, %d + %d tokens%s; %d answers were not in the form asked for",
                self.info.name, spent.calls, spent.prompt_tokens, spent.answer_tokens, cost, self._unparsed,
            )  # fmt: skip


def leaving(settings: CaptionsConfig) -> str:
    """Return in words what is sent where."""
    url, what = endpoint_url(settings.url), _PICTURES[settings.images][1]
    return f"{what} {'go to' if is_loopback(url) else 'leave this machine for'} {redact_url(url)}"


def _with_pictures(messages: Sequence[Message], frames: Keyframes, *, low: bool = False) -> list[Message]:
    """Put pictures behind the words of the first message of the user, oldest first."""
    if not len(frames):
        return list(messages)
    detail = {"detail": "low"} if low else {}
    urls = [f"data:image/jpeg;base64,{b64encode(_jpeg(one)).decode()}" for one in frames[-_MOST_PICTURES:]]
    pictures = [{"type": "image_url", "image_url": {"url": url, **detail}} for url in urls]
    found = list(messages)
    place = next(place for place, message in enumerate(found) if message["role"] == "user")
    found[place] = {**found[place], "content": [{"type": "text", "text": found[place]["content"]}, *pictures]}
    return found


def _jpeg(frame: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _undressed(text: str) -> str:
    """Return a text without thoughts and code fences around it."""
    text = re.sub(r"<think>.*?</think>|^.*</think>", "", text, flags=re.DOTALL)
    text = re.sub(r"```(?:json)?", "", text).strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] == '"' else text


def read_fields(text: str) -> dict[str, str] | None:
    """Return the text fields of the JSON object in an answer; None where there is no such object."""
    bare = _undressed(text)
    start = bare.find("{")
    if start < 0:
        return None
    try:
        document, _ = json.JSONDecoder().raw_decode(bare[start:])
    except ValueError:
        # Cut by the token limit, or loosely quoted: the first field may still be whole.
        pairs = re.findall(r'"(english|caption|text|description)"\s*:\s*"((?:[^"\\]|\\.)*)"', bare)
        return dict(pairs) or None
    if not isinstance(document, dict):
        return None
    found = {str(name): " ".join(value.split()) for name, value in document.items() if isinstance(value, str)}
    return found or None
