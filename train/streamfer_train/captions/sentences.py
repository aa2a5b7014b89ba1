"""The words that synthesised captions and questions are made of; they stand in ``sentences.toml``."""

from __future__ import annotations

from streamfer.files import table_beside

SENTENCES = table_beside(__file__)
