"""The numbers and the health of a run, whenever they are asked for."""

from __future__ import annotations

import asyncio
import json
import sys
import types
from dataclasses import replace
from typing import Any

import pytest
from record_examples import examples
from starlette.requests import Request
from starlette.routing import Route

from streamfer import Session
from streamfer.pipeline.clock import StageClock
from streamfer.pipeline.events import FrameFaces
from streamfer.serve.board import Board
from streamfer.serve.health import health_routes
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


def ask(route: Route) -> tuple[int, Any]:
    answer = asyncio.run(route.endpoint(Request({"type": "http"})))
    text = bytes(answer.body).decode()
    return answer.status_code, json.loads(text) if text.startswith("{") else text


@pytest.fixture
def session() -> Session:
    """A session whose run has its models and its Redis, as far as health and numbers look at them."""
    clock = StageClock()
    with clock.measure("encode", 12):
        pass
    delivery = types.SimpleNamespace(trouble="", waiting=3, spool_bytes=4096, published=70, errors=2)
    pipeline = types.SimpleNamespace(depths=lambda: {"model": 1, "events": 5}, clock=clock)
    session = Session()
    vars(session)["run"] = types.SimpleNamespace(
        pipeline=pipeline, outlet=types.SimpleNamespace(delivery=delivery), specs={}
    )
    return session


def test_it_lives_while_pictures_move_or_it_is_known_why_not(session: Session) -> None:
    board = Board(session)
    live, ready, _ = health_routes(session, board)
    assert ask(live) == (200, {"sources": {}, "stuck": {}})
    record = examples()["source.state.v1"]
    for state, code in (("online", 503), ("backoff", 200), ("connecting", 200), ("ended", 200)):
        board.take(replace(record, data=record.data.model_copy(update={"state": state})))  # type: ignore[union-attr]
        assert ask(live) == (200, {"sources": {"hall": state}, "stuck": {}})
        board.standings()["hall"].moved -= session.config.live.stall_timeout + 15
        found, told = ask(live)
        assert (found, list(told["stuck"])) == (code, ["hall"] if code == 503 else [])
    assert ask(ready) == (200, {"ready": True, "reasons": []})
    run: Any = session.run
    run.outlet.delivery.trouble = "Redis is away"
    assert ask(ready) == (503, {"ready": False, "reasons": ["Redis is away"]})
    run.pipeline, run.outlet.delivery = None, None
    assert ask(ready)[0] == 503
    session.run = None
    code, told = ask(ready)
    assert (code, "loading" in told["reasons"][0]) == (503, True)


def test_every_number_has_its_name_and_value(session: Session) -> None:
    board = Board(session)
    *_, numbers = health_routes(session, board)
    known = examples()
    for kind in ("source.state.v1", "gap.v1", "clip.labelled.v1"):
        board.take(known[kind])
    for index, dropped in ((4, {"queue_full": 1}), (9, {"queue_full": 3, "stale": 1})):
        board.take(FrameFaces("hall", 1, index, 0.4, (), newest=1.0, dropped=dropped))
    text = ask(numbers)[1]
    lines = [line for line in text.splitlines() if line.startswith("streamfer_") and "_created" not in line]
    found = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
    buckets = {name: found.pop(name) for name in list(found) if "_bucket" in name}
    assert [name.split('"')[1] for name, count in buckets.items() if not count] == []
    assert next(iter(buckets)) == 'streamfer_clip_latency_seconds_bucket{le="0.1",source="hall"}'
    assert list(buckets)[-1] == 'streamfer_clip_latency_seconds_bucket{le="+Inf",source="hall"}'
    assert found == {
        'streamfer_source_up{source="hall"}': 0,
        'streamfer_clip_latency_seconds_count{source="hall"}': 1,
        'streamfer_clip_latency_seconds_sum{source="hall"}': 0.0337,
        'streamfer_frames_total{source="hall",stage="decoded"}': 10,
        'streamfer_frames_total{source="hall",stage="analysed"}': 2,
        'streamfer_frames_dropped_total{cause="queue_full",source="hall"}': 3,
        'streamfer_frames_dropped_total{cause="stale",source="hall"}': 1,
        'streamfer_reconnects_total{reason="no_picture",source="hall"}': 1,
        'streamfer_gaps_total{cause="queue_full",source="hall"}': 1,
        'streamfer_queue_depth{queue="model"}': 1,
        'streamfer_queue_depth{queue="events"}': 5,
        'streamfer_queue_depth{queue="publish"}': 3,
        "streamfer_batch_size_count": 1,
        "streamfer_batch_size_sum": 12,
        "streamfer_spool_bytes": 4096,
        "streamfer_published_total": 70,
        "streamfer_redis_errors_total": 2,
    }
