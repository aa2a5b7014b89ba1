"""``streamfer bridge webhook`` between a real Redis and a real HTTP server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import itertools
import json
import re
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from bridging import CLIPS, DEAD, Receiver, Running, clip, pending, wait_for
from command_line import streamfer
from published import entries
from record_examples import captioned
from servers import Node

from streamfer.bridges.bridge import AwayError, Bridge, RefusedError
from streamfer.bridges.webhook import Webhook, judge
from streamfer.config import load_config
from streamfer.publish import Lost, Publisher, connect
from streamfer.records import Record

Start = Callable[..., Any]
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "bridges.md"


def documented(name: str, **changes: str) -> dict[str, Any]:
    """What the how-to's program with this function comes to; some of its words changed."""
    blocks = re.findall(r"^```python\n(.*?)^```$", HOW_TO.read_text(encoding="utf-8"), re.M | re.S)
    (text,) = (block for block in blocks if f"def {name}" in block)
    for old, new in changes.items():
        text = text.replace(old, new)
    found: dict[str, Any] = {}
    exec(compile(text, str(HOW_TO), "exec"), found)
    return found


def test_batches_are_signed_and_acknowledged(
    program: Start, receiver: Receiver, publish: Start, client: redis.Redis
) -> None:
    records = [clip(at) for at in range(25)]
    records.append(captioned(records[0], "Die Lippen öffnen sich. " * 100_000))
    publish(*records)
    with program("webhook", receiver.url, "--secret", "${HOOK}", "--set", "bridge.batch=10", HOOK=SECRET) as running:
        wait_for(lambda: len(receiver.taken()) == 26, "all of them")
        wait_for(lambda: pending(client) == 0, "all is acknowledged")
        assert running.end() == 0
        assert "not signed" not in running.said
    verify = documented("verify")["verify"]
    for headers, body, _ in receiver.got:
        assert headers["Content-Type"] == "application/cloudevents-batch+json"
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
        assert verify(dict(headers.items()), body, SECRET)
        assert not verify(dict(headers.items()), body + b" ", SECRET)
        assert len(json.loads(body)) <= 10
    got = {one["id"]: one for _, body, _ in receiver.got for one in json.loads(body)}
    assert {Record.from_json(json.dumps(one)).to_json() for one in got.values()} == {
        record.numbered(got_sequence(got, record)).to_json() for record in records
    }


def got_sequence(got: dict[str, Any], record: Record) -> int:
    """Its number, which the publisher gave it."""
    return int(got[record.id]["sequence"])


def test_nothing_secret_is_said(bridge: Start, receiver: Receiver, publish: Start) -> None:
    answers = iter([401, 500, 422])
    receiver.answer = lambda _: (next(answers, 204), {})
    publish(clip(1))
    url = receiver.url.replace("http://", "http://me:${WORD}@") + "/T0KEN"
    with bridge("-v", "webhook", url, "--secret", "${HOOK}", WORD="s3cr3t/word", HOOK=SECRET) as running:
        running.says("refuses 1 records")
        assert running.end() == 0
        assert not re.search(f"s3cr3t|T0KEN|{SECRET}", running.said)
    assert base64.b64decode(receiver.got[0][0]["Authorization"].removeprefix("Basic ")) == b"me:s3cr3t/word"


def test_a_text_signs_as_it_is(bridge: Start, receiver: Receiver, publish: Start, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret of some words\n")
    publish(clip(1))
    with bridge("webhook", receiver.url, "--secret", f"${{file:{tmp_path / 'secret'}}}"):
        wait_for(receiver.taken, "the record")
    headers, body, _ = receiver.got[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(b"a secret of some words", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


def test_a_receiver_in_trouble_loses_nothing(
    bridge: Start, receiver: Receiver, publish: Start, client: redis.Redis
) -> None:
    receiver.answer = lambda _: (500, {})
    with bridge("webhook", receiver.url, "--set", "bridge.seconds=0.2") as running:
        running.says("records go to")
        publish(*(clip(at) for at in range(500)))
        running.says("HTTP 500; records wait in Redis")
        assert pending(client) == 500
        publish(*(clip(at) for at in range(500, 600)))
        wait_for(lambda: len(receiver.got) >= 4, "it is tried again and again")
        receiver.answer = lambda _: (204, {})
        wait_for(lambda: len(set(receiver.taken())) == 600, "all of them")
        wait_for(lambda: pending(client) == 0, "all is acknowledged")
        running.says("takes records again")
        assert running.said.count("HTTP 500") == 1, "said once"
    assert len(receiver.taken()) == 600
    tries = [headers["webhook-id"] for headers, body, status in receiver.got if body == receiver.got[0][1]]
    assert len(tries) > 2
    assert len(set(tries)) == 1, "a repetition is told by its id"


def test_a_bridge_that_is_killed_loses_nothing(
    program: Start, receiver: Receiver, publish: Start, client: redis.Redis
) -> None:
    most = 0

    def answer(_: object) -> tuple[int, dict[str, str]]:
        while len(set(receiver.taken())) > most:
            time.sleep(0.01)
        return 204, {}

    receiver.answer = answer
    words = ("webhook", receiver.url, "--set", "bridge.batch=7")
    records = [clip(at) for at in range(300)]
    publish(*records)
    for most in (20, 80, 140):
        with program(*words) as running:
            wait_for(lambda least=most: len(set(receiver.taken())) > least, "some")  # type: ignore[misc]
            running.process.kill()
            running.process.wait()
    assert pending(client) > 0
    most = len(records)
    with program(*words) as running:
        wait_for(lambda: set(receiver.taken()) == {record.id for record in records}, "all of them")
        wait_for(lambda: pending(client) == 0, "all is acknowledged")
        assert running.end() == 0
    assert Counter(receiver.taken()).most_common(1)[0][1] <= 4
    assert client.xlen(DEAD) == 0


def test_many_restarts_bury_nothing(program: Start, receiver: Receiver, publish: Start, client: redis.Redis) -> None:
    receiver.answer = lambda _: (503, {})
    publish(clip(1))
    for number in range(6):  # one more than a death is given
        with program("webhook", receiver.url) as running:
            running.says("HTTP 503", times=number + 1)
            running.process.kill()
    receiver.answer = lambda _: (204, {})
    with program("webhook", receiver.url):
        wait_for(lambda: receiver.taken() == [clip(1).id], "it still comes")
    assert client.xlen(DEAD) == 0


def test_one_bad_record_holds_up_no_other(
    bridge: Start, receiver: Receiver, publish: Start, client: redis.Redis
) -> None:
    bad = clip(33)
    receiver.answer = lambda records: (400 if bad.id in [one["id"] for one in records] else 204, {})
    records = [clip(at) for at in range(60)]
    publish(*records)
    with bridge("webhook", receiver.url) as running:
        wait_for(lambda: set(receiver.taken()) == {record.id for record in records} - {bad.id}, "the others")
        wait_for(lambda: pending(client) == 0, "all is acknowledged or set aside")
        running.says("refuses 1 records (HTTP 400); they go to the dead-letter stream")
    ((_, buried),) = entries(client, DEAD)
    assert Record.from_fields(buried).id == bad.id
    assert buried[b"dead_reason"] == f"{receiver.url.removesuffix('/hook')}: HTTP 400".encode()


def test_what_is_gone_is_not_asked_for_each_record(
    bridge: Start, receiver: Receiver, publish: Start, client: redis.Redis
) -> None:
    receiver.answer = lambda _: (410, {})
    publish(*(clip(at) for at in range(40)))
    with bridge("webhook", receiver.url) as running:
        running.says("refuses 40 records (HTTP 410)")
        wait_for(lambda: client.xlen(DEAD) == 40, "they are set aside")
    assert len(receiver.got) == 1


def test_who_is_denied_waits_and_a_redirect_is_not_followed(
    bridge: Start, receiver: Receiver, publish: Start, client: redis.Redis
) -> None:
    answers = iter([(401, {}), (307, {"Location": receiver.url + "/elsewhere"}), (404, {})])
    moments: list[float] = []
    receiver.answer = lambda _: (moments.append(time.monotonic()), next(answers, (204, {})))[1]  # type: ignore[func-returns-value]
    publish(clip(1))
    with bridge("webhook", receiver.url, "--set", "bridge.retry=1.5"):
        wait_for(receiver.taken, "the record")
        wait_for(lambda: pending(client) == 0, "it is acknowledged")
    assert [status for _, _, status in receiver.got] == [401, 307, 404, 204]
    assert all(after - before >= 1.5 for before, after in itertools.pairwise(moments)), "as long as it ever waits"


def test_a_receiver_says_when_it_wants_to_be_asked_again(bridge: Start, receiver: Receiver, publish: Start) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    answers = iter([(429, {"Retry-After": "2"}), (503, {"Retry-After": later}), (503, {"Retry-After": "soon"})])
    moments: list[float] = []
    receiver.answer = lambda _: (moments.append(time.monotonic()), next(answers, (204, {})))[1]  # type: ignore[func-returns-value]
    publish(clip(1))
    with bridge("webhook", receiver.url):
        wait_for(receiver.taken, "the record")
    waits = [after - before for before, after in itertools.pairwise(moments)]
    assert waits[0] >= 2
    assert len(waits) == 3


def test_who_takes_long_is_waited_for(bridge: Start, receiver: Receiver, publish: Start, client: redis.Redis) -> None:
    receiver.answer = lambda _: (time.sleep(3), (204, {}))[1]  # type: ignore[func-returns-value]
    publish(*(clip(at) for at in range(3)))
    with bridge("webhook", receiver.url) as running:
        wait_for(lambda: receiver.got, "the batch")
        running.says("records go to")
        wait_for(lambda: pending(client) == 0, "it is acknowledged")
        assert len(receiver.got) == 1
        assert running.end() == 0


def test_large_records_go_in_small_batches(bridge: Start, receiver: Receiver, publish: Start) -> None:
    publish(*(captioned(clip(at), "long " * 80_000) for at in range(7)))
    with bridge("webhook", receiver.url):
        wait_for(lambda: len(receiver.taken()) == 7, "all of them")
    assert [len(json.loads(body)) for _, body, _ in receiver.got] == [3, 3, 1]


def test_records_wait_for_company_and_not_for_long(bridge: Start, receiver: Receiver, publish: Start) -> None:
    with bridge("webhook", receiver.url, "--set", "bridge.seconds=3") as running:
        running.says("records go to")
        for at in range(5):
            publish(clip(at))
            time.sleep(0.02)
        wait_for(lambda: len(receiver.taken()) == 5, "all of them")
    assert len(receiver.got) == 1


def test_what_was_trimmed_is_told_with_what_follows(
    bridge: Start, receiver: Receiver, publish: Start, client: redis.Redis
) -> None:
    publish(clip(0))
    with bridge("webhook", receiver.url) as running:
        wait_for(receiver.taken, "the first")
        wait_for(lambda: pending(client) == 0, "it is acknowledged")
        assert running.end() == 0
    publish(*(clip(at) for at in range(1, 6)))
    client.xtrim(CLIPS, maxlen=2, approximate=False)
    with bridge("webhook", receiver.url) as running:
        wait_for(lambda: len(receiver.taken()) == 3, "the last two")
        running.says("3 are missing")
    assert [headers["streamfer-lost"] for headers, _, _ in receiver.got] == [None, "3"]


def test_a_redis_that_is_away_is_waited_for(bridge: Start, receiver: Receiver, tmp_path: Path) -> None:
    node = Node(tmp_path, "--appendonly", "yes")
    url = f"redis://127.0.0.1:{node.port}/0"

    def put(*records: Record) -> None:
        client = connect(url)
        Publisher(client).publish_many(list(records))
        client.close()

    try:
        put(clip(0))
        with Running(url, "webhook", receiver.url) as running:
            wait_for(receiver.taken, "the first")
            node.kill()
            running.says("subscribe.disconnected")
            time.sleep(1.5)
            node.start()
            put(clip(1))
            wait_for(lambda: clip(1).id in receiver.taken(), "the second")
            assert running.end() == 0
    finally:
        node.kill()


def test_an_order_to_stop_is_obeyed_where_a_library_swallows_it(redis_url: str) -> None:
    class Swallowing(Webhook):
        async def deliver(self, records: Sequence[Record], lost: Sequence[Lost]) -> None:
            bridge.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)

    config = load_config(None, {"publish.redis": redis_url}, {})
    bridge = Bridge(config, Swallowing("http://127.0.0.1:1", config.bridge), lambda _: None)

    async def run() -> None:
        await asyncio.wait_for(bridge.run(), 30)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())


def test_the_program_for_kafka_commits_what_was_taken(
    publish: Start, client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own words against a real Redis; of Kafka only what it is told."""
    sent: list[tuple[str, str, str]] = []

    class Producer:
        def __init__(self, _settings: object) -> None:
            self.flushes = 0

        def produce(self, topic: str, value: str, key: str, headers: list[tuple[str, str]], on_delivery: Start) -> None:
            sent.append((topic, key, dict(headers)["ce_id"]))
            on_delivery(None if len(sent) < 230 else "refused", value)

        def flush(self, _seconds: float) -> int:
            return 0

    monkeypatch.setitem(sys.modules, "confluent_kafka", types.SimpleNamespace(Producer=Producer))
    records = [clip(at) for at in range(250)]
    client.xgroup_create(CLIPS, "kafka", id="0", mkstream=True)
    publish(*records)
    with pytest.raises(SystemExit, match="refused"):
        documented("told", **{"redis://127.0.0.1:6379/0": redis_url})
    assert [number for _, _, number in sent] == [record.id for record in records]
    assert sent[0][:2] == ("streamfer", "lobby")
    assert pending(client) == 50, "those of the last batch come again"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["localhost"], "cannot be read: it has no scheme; write http://HOST or https://HOST"),
        (["mqtt://localhost"], "begins with mqtt://; write http://HOST or https://HOST"),
        (["http://localhost", "--secret", "short"], "bridge.secret: it is shorter than 16 bytes"),
        (["http://localhost", "--secret", "whsec_???"], "bridge.secret: what follows whsec_ is not base64"),
        (["http://localhost", "--secret", "${NOT_THERE}"], "${NOT_THERE}: the environment has no such variable"),
        (["http://localhost", "--set", "bridge.batch=0"], "bridge.batch"),
    ],
)
def test_what_is_written_wrong_is_one_line(words: list[str], complaint: str, redis_url: str) -> None:
    done = streamfer("bridge", "webhook", *words, "--redis", redis_url)
    assert done.code == 2
    (line,) = done.complaints
    assert complaint in line
    assert "short;" not in line


def test_a_redis_that_is_not_there_is_one_line() -> None:
    done = streamfer("bridge", "webhook", "http://localhost", "--redis", "redis://127.0.0.1:1/0")
    assert (done.code, len(done.complaints)) == (2, 1)


@pytest.mark.parametrize("status", [200, 202, 204])
def test_what_is_taken(status: int) -> None:
    judge(status, None)


@pytest.mark.parametrize(("status", "denied"), [(500, False), (503, False), (429, False), (408, False), (401, True),
                                                (403, True), (302, True), (404, True)])  # fmt: skip
def test_what_may_pass(status: int, denied: bool) -> None:
    with pytest.raises(AwayError) as caught:
        judge(status, "7")
    assert (caught.value.wait, caught.value.denied) == (7.0, denied)


@pytest.mark.parametrize("status", [400, 410, 413, 422])
def test_what_never_passes(status: int) -> None:
    with pytest.raises(RefusedError):
        judge(status, None)
