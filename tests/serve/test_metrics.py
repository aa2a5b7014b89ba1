"""The numbers of a run, whenever they are asked for."""

from __future__ import annotations

import sys
import types

import pytest

from streamfer import Session
from streamfer.serve.board import Board
from streamfer.serve.metrics import Metrics


@pytest.mark.parametrize("parts", [{}, {"cuda": types.ModuleType("torch.cuda")}], ids=["begun", "nearly done"])
def test_a_scrape_while_torch_is_being_imported_is_answered(
    parts: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = types.ModuleType("torch")
    vars(half).update(parts)
    monkeypatch.setitem(sys.modules, "torch", half)
    session = Session()
    assert b"process_resident_memory_bytes" in Metrics(session, Board(session)).text()
