"""Language models that write captions: an endpoint's or a folder's, what they are asked, and their answers on disk.

They are asked to put labels into prose, or two sentences into one text, all in our own words (``writers.toml``).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs

from streamfer.captions.chat import ChatClient, ChatError, Reply, endpoint_url, key_for
from streamfer.captions.english import movement
from streamfer.captions.protocol import Message
from streamfer.captions.transformers_models import TextModel
from streamfer.captions.vocabulary import ACTION_UNITS, in_order
from streamfer.closing import Closing
from streamfer.errors import ConfigError
from streamfer.files import table_beside
from streamfer_train.captions.grammar import emotion_caption
from streamfer_train.captions.labels import FaceLabels

#: Raise when wording changes, so that cached answers to the old prompts are not taken for answers to the new ones.
PROMPT_VERSION = 1
_MAX_TOKENS = 300
_TEMPERATURE = 0.7
_EXAMPLE = FaceLabels.of([1, 6, 15, 24])
_PROMPTS: dict[str, str] = table_beside(__file__)
_TABLE = """CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, prompt_tokens INTEGER, answer_tokens INTEGER) WITHOUT ROWID"""


@dataclass(frozen=True, slots=True)
class Writer:
    """A language model; ``write`` answers messages from any thread, or says by a ChatError why it does not."""

    name: str  #: identifies model and settings, for the cache
    write: Callable[[Sequence[Message]], Reply]


def named_writer(url: str | None, model: str, **more: Any) -> Writer:
    """Return the language model that is named, an endpoint's once it has answered that it is there.

    Args:
        model: name of the endpoint's model, or a folder of transformers where there is no ``url``.
        more: as :class:`~streamfer.captions.chat.ChatClient` takes it; the key comes from the environment.

    Raises:
        ConfigError: the endpoint's address cannot be used, it refuses or lacks the model (those that it has are
            listed), or the folder holds none.
        CheckpointError: what the folder holds is no such model.
    """
    if not url:
        return local_model(Path(model))
    url = endpoint_url(url)
    client = ChatClient(url, model, key=key_for(url), **more)
    writer = endpoint(client)
    try:
        client.find()
    except ChatError as error:
        raise ConfigError(f"{error}; name a server that answers, or no model: the grammar writes") from error
    return writer


def endpoint(client: ChatClient) -> Writer:
    """Return a model behind an endpoint; another address of the same model gives the same answers."""
    name = f"{client.model} temperature={_TEMPERATURE:g} max_tokens={_MAX_TOKENS}"
    return Writer(name, partial(client.write, max_tokens=_MAX_TOKENS, temperature=_TEMPERATURE))


def local_model(folder: Path, *, max_tokens: int = _MAX_TOKENS) -> Writer:
    """Return the causal language model of a transformers folder; decoding is greedy, one call at a time.

    Raises:
        ConfigError: nothing is there.
        CheckpointError: the folder holds no such model.
    """
    model = TextModel(folder, max_tokens=max_tokens, device="cpu")

    def write(messages: Sequence[Message]) -> Reply:
        try:
            reply = model.reply(messages)
        except ConfigError as error:
            raise ChatError("nonsense", str(error)) from error
        if not reply.text:
            raise ChatError("nonsense", "the model wrote nothing")
        return reply

    return Writer(f"local:{folder.name} max_tokens={max_tokens}", write)


def content_key(writer: str, messages: Sequence[Message], number: int = 0) -> str:
    """Return the key of one question: writer with settings, prompt version, every message, and number of the draw."""
    document = json.dumps([PROMPT_VERSION, writer, list(messages), number], ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


class ReplyCache(Closing):
    """An SQLite file of replies; threads and processes may share it, and a killed one leaves it whole.

    Without a ``path`` it lies in the user's cache folder; one that lies in this folder from before is used on.

    Raises:
        ConfigError: the file cannot be made, or is something else.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            here = Path("captions.sqlite")
            path = here if here.is_file() else platformdirs.user_cache_path("streamfer") / here
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(_TABLE)
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"{path}: cannot be used as a cache ({error}); name another file with --cache") from error

    def get(self, key: str) -> Reply | None:
        """Return the reply kept under ``key``, or None."""
        with self._lock:
            row = self._connection.execute(
                "SELECT text, prompt_tokens, answer_tokens FROM replies WHERE key = ?", (key,)
            ).fetchone()
        return Reply(*row) if row else None

    def put(self, key: str, reply: Reply) -> None:
        with self._lock:
            self._connection.execute(
                "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)",
                (key, reply.text, reply.prompt_tokens, reply.answer_tokens),
            )

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def rewrite_messages(labels: FaceLabels) -> list[Message]:
    """Ask for a text over the action units of ``labels``, with one worked example."""
    glossary = "\n".join(f"- {unit.name}: {movement(number)}" for number, unit in ACTION_UNITS.items())
    return [
        {"role": "system", "content": _PROMPTS["rewrite"].format(glossary=glossary)},
        {"role": "user", "content": _actions(_EXAMPLE)},
        {"role": "assistant", "content": _PROMPTS["example"]},
        {"role": "user", "content": _actions(labels)},
    ]


def fuse_messages(action: str, emotion: str) -> list[Message]:
    """Ask for one text out of a sentence over actions and one over emotions."""
    return [
        {"role": "system", "content": _PROMPTS["fuse"]},
        {"role": "user", "content": f"Facial actions: {action}\nEmotion: {emotion}"},
    ]


def reword_messages(question: str) -> list[Message]:
    """Ask for a question in other words."""
    return [{"role": "system", "content": _PROMPTS["reword"]}, {"role": "user", "content": question}]


def emotion_statement(labels: FaceLabels) -> str:
    """The sentence over the emotions that goes into a fusion; neutral where there is none."""
    return emotion_caption(labels) or "The face shows no particular emotion."


def _actions(labels: FaceLabels) -> str:
    names = [ACTION_UNITS[unit].name for unit in in_order(labels.action_units or ())]
    return f"Describe a face with these actions: {', '.join(names)}."
