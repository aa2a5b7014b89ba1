"""Answers of language models kept on disk, under a key made of everything that went into the question."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from streamfer.captions.chat import Reply
from streamfer.captions.protocol import Message
from streamfer.closing import Closing
from streamfer.errors import ConfigError
from streamfer_train.captions.prompts import PROMPT_VERSION

_TABLE = """CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, prompt_tokens INTEGER, answer_tokens INTEGER) WITHOUT ROWID"""


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
