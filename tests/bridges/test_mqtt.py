"""``streamfer bridge mqtt`` between a real Redis and a real Mosquitto."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import redis
from bridging import CAPTIONS, CLIPS, DEAD, Mosquitto, clip, pending, wait_for
from command_line import streamfer
from published import entries, later
from record_examples import captioned, examples

pytest.importorskip("aiomqtt")

Start = Callable[..., Any]
#: https://www.home-assistant.io/integrations/mqtt/ and the pages of sensor.mqtt and binary_sensor.mqtt.
KNOWN = {"name", "unique_id", "state_topic", "value_template", "json_attributes_topic", "availability_topic", "device",
         "origin", "icon", "device_class", "expire_after"}  # fmt: skip


def test_what_a_broker_gets(program: Start, broker: Start, watch: Start, publish: Start, client: redis.Redis) -> None:
    there = broker()
    watcher = watch(there)
    label = clip(3)
    publish(label, captioned(label, "Die Lippen öffnen sich."), *examples().values())
    with program("mqtt", there.url) as running:
        told = {"streamfer/hall/gap", "streamfer/hall/state", "streamfer/lobby/people/3/caption"}
        wait_for(lambda: told <= set(watcher.topics()), "a gap, a state and a caption")
        wait_for(lambda: pending(client) == pending(client, CAPTIONS) == 0, "all is acknowledged")
        said = watcher.last("streamfer/lobby/label")
        assert said["label"] == "happiness"
        assert said["probability"] == pytest.approx(0.7)
        assert said["id"] == label.id
        assert said["end_time"] - said["start_time"] == 1.875
        assert watcher.last("streamfer/lobby/people/3/label") == said
        assert watcher.last("streamfer/lobby/people/3/caption")["text"] == "Die Lippen öffnen sich."
        assert watcher.last("streamfer/hall/state")["state"] == "backoff"
        assert "producer" not in watcher.last("streamfer/hall/state")
        assert watcher.last("streamfer/available") == "online"
        late = watch(there)
        wait_for(lambda: len(late.got) >= 12, "what is retained")
        assert sum(retained for topic, _, retained in late.got if topic.endswith("/config")) == 6
        kept = {topic for topic, _, retained in late.got if retained and not topic.startswith("homeassistant/")}
        assert kept == {
            *(f"streamfer/{source}/{what}" for source in ("lobby", "hall") for what in ("label", "caption")),
            "streamfer/hall/state",
            "streamfer/available",
        }
        assert running.end() == 0
        wait_for(lambda: watcher.last("streamfer/available") == "offline", "offline")
        assert len(running.said.splitlines()) == 1, "nothing but where records go"


def test_home_assistant_finds_each_source(bridge: Start, broker: Start, watch: Start, publish: Start) -> None:
    there = broker()
    watcher = watch(there)
    label = clip(3)
    publish(label, captioned(label, "x" * 400), *examples().values())
    with bridge("mqtt", there.url, "--topic", "home/faces", "--set", "bridge.discovery=ha"):
        wait_for(lambda: "home/faces/hall/state" in watcher.topics(), "the state")
        configs = {topic: said for topic, said, _ in watcher.got if topic.endswith("/config")}
    assert len(configs) == 6
    shown = {}
    for topic, config in configs.items():
        assert re.fullmatch(r"ha/(sensor|binary_sensor)/[A-Za-z0-9_-]+/[A-Za-z0-9_-]+/config", topic)
        assert config.keys() <= KNOWN
        assert config["availability_topic"] == "home/faces/available"
        assert config["device"]["identifiers"]
        assert config["origin"]["name"] == "streamfer"
        if (said := watcher.last(config["state_topic"])) is not None:
            assert config["json_attributes_topic"] == config["state_topic"]
            assert isinstance(said, dict), "attributes are an object"
            state = jinja2.Template(config["value_template"]).render(value_json=said)
            assert len(state) <= 255
            shown[config["device"]["name"], config["name"]] = state
    assert shown["lobby", "Expression"] == "happiness"
    assert shown["lobby", "Caption"] == "x" * 250
    assert shown["hall", "Online"] == "OFF"
    assert len({config["unique_id"] for config in configs.values()}) == 6


def test_a_broker_that_is_killed_and_comes_back_gets_everything(
    program: Start, broker: Start, watch: Start, publish: Start, client: redis.Redis
) -> None:
    there = broker()
    first = watch(there)
    publish(*(clip(at) for at in range(50)))
    with program("mqtt", there.url) as running:
        wait_for(lambda: first.people() == set(range(50)), "the first fifty")
        there.kill()
        publish(*(clip(at) for at in range(50, 100)))
        running.says("records wait in Redis")
        assert pending(client) >= 50
        # It must not come back ahead of who is to see everything.
        running.process.send_signal(signal.SIGSTOP)
        there.start()
        second = watch(there)
        running.process.send_signal(signal.SIGCONT)
        wait_for(lambda: second.people() >= set(range(50, 100)), "the other fifty")
        wait_for(lambda: pending(client) == 0, "all is acknowledged")
        running.says("takes records again")
        assert second.last("streamfer/available") == "online"
        assert any(topic.endswith("/config") for topic in second.topics()), "a broker without a memory is told again"
        assert running.end() == 0


def test_a_bridge_that_is_killed_loses_nothing(
    program: Start, broker: Start, watch: Start, publish: Start, client: redis.Redis
) -> None:
    there = broker()
    watcher = watch(there)
    with program("mqtt", there.url) as running:
        running.says("records go to")
        publish(*(clip(at) for at in range(200)))
        wait_for(lambda: len(watcher.people()) > 20, "some")
        there.process.send_signal(signal.SIGSTOP)
        publish(*(clip(at) for at in range(200, 400)))
        running.process.kill()
        running.process.wait()
        there.process.send_signal(signal.SIGCONT)
    wait_for(lambda: watcher.last("streamfer/available") == "offline", "its will")
    assert pending(client) > 0, "killed in the middle"
    with program("mqtt", there.url) as running:
        wait_for(lambda: watcher.people() == set(range(400)), "all of them")
        wait_for(lambda: pending(client) == 0, "all is acknowledged")
        assert watcher.last("streamfer/available") == "online"
        assert running.end() == 0


def test_nothing_is_acknowledged_ahead_of_the_broker(
    bridge: Start, broker: Start, watch: Start, publish: Start, client: redis.Redis
) -> None:
    there = broker()
    watcher = watch(there)
    with bridge("mqtt", there.url) as running:
        running.says("records go to")
        wait_for(lambda: watcher.last("streamfer/available") == "online", "the connection")
        there.process.send_signal(signal.SIGSTOP)
        publish(*(clip(at) for at in range(30)))
        time.sleep(1.5)
        assert pending(client) == 30
        there.process.send_signal(signal.SIGCONT)
        wait_for(lambda: watcher.people() == set(range(30)), "all of them")
        wait_for(lambda: pending(client) == 0, "all is acknowledged")


def test_a_frozen_broker_is_said_to_be_away(bridge: Start, broker: Start, watch: Start) -> None:
    there = broker()
    watcher = watch(there)
    with bridge("mqtt", there.url) as running:
        running.says("records go to")
        wait_for(lambda: watcher.last("streamfer/available") == "online", "the connection")
        there.process.send_signal(signal.SIGSTOP)
        running.says("records wait in Redis")
        assert running.end() == 0


def test_what_the_rules_of_the_broker_deny_waits(
    bridge: Start, broker: Start, watch: Start, publish: Start, client: redis.Redis, tmp_path: Path
) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic read #\ntopic write streamfer/available\n")
    there = broker(f"acl_file {rules}")
    watcher = watch(there)
    publish(*(clip(at) for at in range(3)))
    with bridge("mqtt", there.url) as running:
        running.says("takes no message (Not authorized); its rules must allow streamfer/# and homeassistant/#")
        assert pending(client) == 3
        rules.write_text("topic readwrite #\n")
        there.process.send_signal(signal.SIGHUP)
        wait_for(lambda: watcher.people() == {0, 1, 2}, "all of them")
        wait_for(lambda: pending(client) == 0, "all is acknowledged")


HOSTILE = ("a/b", "+", "#", "$SYS/x", "größe", "überwachung " * 30, "a b\tc", "..", "{{ 1 }}", '"')


def test_no_source_can_write_to_topics_of_others(bridge: Start, broker: Start, watch: Start, publish: Start) -> None:
    there = broker()
    watcher = watch(there)
    publish(*(clip(at, source) for at, source in enumerate(HOSTILE)))
    with bridge("mqtt", there.url):
        wait_for(lambda: watcher.people() == set(range(len(HOSTILE))), "all of them")
    own = [(topic, said) for topic, said, _ in watcher.got if topic.startswith("streamfer/") and "label" in topic]
    assert {said["source"] for _, said in own} == set(HOSTILE)
    places = {said["source"]: topic.split("/")[1] for topic, said in own}
    assert len(set(places.values())) == len(HOSTILE)
    assert all(re.fullmatch(r"streamfer/[\x21-\x7e]{1,200}/(label|people/\d+/label)", topic) for topic, _ in own)
    assert places["größe"] == "gr%C3%B6%C3%9Fe"
    found = [said for topic, said, _ in watcher.got if topic.endswith("/config")]
    assert len({said["unique_id"] for said in found}) == 3 * len(HOSTILE)


def test_a_huge_caption_is_shortened_and_what_no_packet_holds_is_set_aside(
    bridge: Start, broker: Start, watch: Start, publish: Start, client: redis.Redis
) -> None:
    there = broker("max_packet_size 12000")
    watcher = watch(there)
    small, wide = clip(1), clip(2)
    huge = {f"class {number}": 0.001 for number in range(2000)}
    publish(
        captioned(small, "x" * 3_000_000), captioned(wide, "ü" * 8_000), clip(3, emotions=huge, top="class 7"), small
    )
    with bridge("mqtt", there.url) as running:
        wait_for(lambda: watcher.people() == {1}, "what stands behind them")
        wait_for(lambda: pending(client) == pending(client, CAPTIONS) == 0, "all is acknowledged or set aside")
        assert running.said.count("refuses 1 records") == 2
    said = watcher.last("streamfer/lobby/caption")
    assert said["shortened"] is True
    assert said["text"] == "x" * 8_000 + "…"
    buried = [fields for _, fields in entries(client, DEAD)]
    assert len(buried) == 2
    assert all(b"its largest packet" in fields[b"dead_reason"] for fields in buried)


def test_records_of_later_versions_go_on_as_they_are(
    bridge: Start, broker: Start, watch: Start, client: redis.Redis
) -> None:
    there = broker()
    watcher = watch(there)
    client.xadd(CLIPS, later("mood.v3", '{"mood":"\\ud800"}'))
    client.xadd(CLIPS, later("mood.v3", "[1,2]"))
    with bridge("mqtt", there.url):
        wait_for(lambda: watcher.topics().count("streamfer/hall/other") == 2, "both")
    first, second = (said for topic, said, _ in watcher.got if topic.endswith("/other"))
    assert (first["mood"], first["type"], second["data"]) == ("\ud800", "streamfer.mood.v3", [1, 2])


def test_what_was_trimmed_is_told(
    bridge: Start, broker: Start, watch: Start, publish: Start, client: redis.Redis
) -> None:
    there = broker()
    watcher = watch(there)
    publish(clip(0))
    with bridge("mqtt", there.url) as running:
        wait_for(lambda: watcher.people() == {0} and pending(client) == 0, "the first")
        assert running.end() == 0
    publish(*(clip(at) for at in range(1, 6)))
    client.xtrim(CLIPS, maxlen=2, approximate=False)
    with bridge("mqtt", there.url) as running:
        wait_for(lambda: 5 in watcher.people(), "the last")
        assert watcher.last("streamfer/lost")["count"] == 3
        running.says("3 are missing")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["localhost"], "cannot be read: it has no scheme; write mqtt://HOST or mqtts://HOST"),
        (["http://localhost"], "begins with http://; write mqtt://HOST or mqtts://HOST"),
        (["mqtt://"], "names no host"),
        (["mqtt://localhost:port"], "the port is no number"),
        (["mqtt://localhost/topic"], "nothing may follow the port; bridge.topic"),
        (["mqtt://u:${NOT_THERE}@localhost"], "${NOT_THERE}: the environment has no such variable"),
        (["mqtts://localhost", "--set", "bridge.ca=missing.pem"], "bridge.ca: missing.pem cannot be used"),
        (["mqtt://localhost", "--topic", "a/+"], "bridge.topic"),
        (["mqtt://localhost", "--set", "bridge.streams=[faces]"], "no stream 'faces'"),
    ],
)
def test_what_is_written_wrong_is_one_line(words: list[str], complaint: str, redis_url: str) -> None:
    done = streamfer("bridge", "mqtt", *words, "--redis", redis_url)
    assert done.code == 2
    (line,) = done.complaints
    assert complaint in line


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    for name in [name for name in sys.modules if name.startswith(("aiomqtt", "streamfer.bridges"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiomqtt", None)
    done = streamfer("bridge", "mqtt", "mqtt://localhost", "--redis", redis_url)
    assert (done.code, len(done.complaints)) == (2, 1)
    assert "pip install 'streamfer[mqtt]'" in done.err


def secured(broker: Start, tmp_path: Path) -> Mosquitto:
    words = tmp_path / "passwords"
    words.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", words, "bridge", "s3cr3t/word"], check=True, capture_output=True)
    found: Mosquitto = broker(f"password_file {words}")
    return found


def test_credentials_are_checked_at_the_start_and_never_shown(
    program: Start, broker: Start, watch: Start, publish: Start, tmp_path: Path, redis_url: str
) -> None:
    there = secured(broker, tmp_path)
    watcher = watch(there, username="bridge", password="s3cr3t/word")
    publish(clip(1))
    url = f"mqtt://bridge:${{BROKER_PASSWORD}}@127.0.0.1:{there.port}"
    with program("mqtt", url, BROKER_PASSWORD="wr0ngw0rd") as running:
        assert running.wait() == 2
        assert "refuses the connection (Not authorized); give USER:PASSWORD@ in the address" in running.said
        assert "wr0ngw0rd" not in running.said
    with program("-v", "mqtt", url, BROKER_PASSWORD="s3cr3t/word") as running:
        wait_for(lambda: watcher.people() == {1}, "the record")
        assert "s3cr3t" not in Path(f"/proc/{running.process.pid}/cmdline").read_text() + running.said
        assert running.end() == 0
        assert "s3cr3t" not in running.said


def test_a_broker_that_is_not_there_yet_is_waited_for(
    program: Start, broker: Start, watch: Start, publish: Start
) -> None:
    there = broker()
    there.kill()
    publish(clip(1))
    with program("mqtt", there.url) as running:
        running.says("cannot be reached")
        running.process.send_signal(signal.SIGSTOP)
        there.start()
        watcher = watch(there)
        running.process.send_signal(signal.SIGCONT)
        wait_for(lambda: watcher.people() == {1}, "the record")


def test_who_does_not_speak_mqtt_costs_no_memory(bridge: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        with bridge("mqtt", url) as running:
            running.says("cannot be reached")
            assert running.end() == 0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that nobody knows, and a certificate of it for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    make = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj"]
    sign = "openssl x509 -req -days 2 -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names"
    for command in (
        [*make, "/CN=nobody", "-days", "2", "-x509", "-keyout", "ca.key", "-out", "ca.pem"],
        [*make, "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr"],
        [*sign.split(), "-out", "server.pem"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def _openssl() -> None:
    if subprocess.run(["which", "openssl"], capture_output=True, check=False).returncode:
        pytest.skip("no openssl here")


@pytest.mark.usefixtures("_openssl")
def test_a_certificate_is_trusted_by_its_authority_alone(
    bridge: Start, broker: Start, publish: Start, client: redis.Redis, certificates: Path
) -> None:
    there = broker(f"certfile {certificates / 'server.pem'}", f"keyfile {certificates / 'server.key'}")
    publish(clip(1))
    url = f"mqtts://127.0.0.1:{there.port}"
    with bridge("mqtt", url) as running:
        assert running.wait() == 2
        assert "its certificate is not trusted" in running.said
        assert "bridge.ca" in running.said
    with bridge("mqtt", url, "--set", f"bridge.ca={certificates / 'ca.pem'}") as running:
        running.says("records go to")
        wait_for(lambda: pending(client) == 0, "the record is acknowledged")
        assert running.end() == 0
