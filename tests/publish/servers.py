"""Redis servers that tests start: a Cluster, and a primary with a replica and Sentinels; nothing of them is on disk."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import redis
from free_ports import free_port
from redis.crc import key_slot

from streamfer.publish.embedded import server_executable


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for a condition; what the servers refuse meanwhile counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except redis.RedisError as error:
            what += f" ({error})" if str(error) not in what else ""
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def newer_server() -> Path | None:
    """A server of version 7 or later, where one is on the path."""
    for program in (Path(folder, "redis-server") for folder in os.get_exec_path()):
        if os.access(program, os.X_OK):
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
            if re.search(r"v=([7-9]|\d\d)\.", said):
                return program
    return None


class Certificate:
    """A certificate of this machine that vouches for itself, in ``folder``; and what a server is told of it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.path, key = folder / "certificate.pem", folder / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=streamfer"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", self.path]  # type: ignore[list-item]
        subprocess.run(command, check=True, capture_output=True)
        files = {"cert": self.path, "key": key, "ca-cert": self.path}
        self.words = [word for name, path in files.items() for word in (f"--tls-{name}-file", str(path))]
        self.words += ["--tls-auth-clients", "no", "--tls-replication", "yes", "--tls-cluster", "yes"]


def secure_server() -> Path | None:
    """A server that speaks TLS, where one is on the path."""
    program = newer_server()
    return program if program is not None and b"tls-cert-file" in program.read_bytes() else None


class Node:
    """One server process on a port of its own, over TLS where there is a certificate."""

    def __init__(
        self,
        folder: Path,
        *words: str,
        config: str | None = None,
        password: str | None = None,
        program: Path | None = None,
        tls: Certificate | None = None,
    ) -> None:
        self._program = program or (secure_server() if tls else None) or server_executable()
        self._tls = tls
        # A Cluster talks on a second one, ten thousand above.
        self.port = free_port(10_000)
        self._folder = folder / str(self.port)
        self._folder.mkdir(parents=True)
        self._words = words
        if config is not None:
            (self._folder / "node.conf").write_text(config)
            self._words = (str(self._folder / "node.conf"), *words)
        self.client = redis.Redis(
            host="127.0.0.1",
            port=self.port,
            password=password,
            socket_timeout=3,
            decode_responses=True,
            protocol=2,
            ssl=tls is not None,
            ssl_ca_certs=str(tls.path) if tls else None,
        )
        self.start()

    def start(self) -> None:
        """Start it (again), and wait until it answers."""
        secure = ["--port", "0", "--tls-port", str(self.port), *self._tls.words] if self._tls else []
        loopback = [*(secure or ["--port", str(self.port)]), "--bind", "127.0.0.1", "--logfile", "log"]
        command = [str(self._program), *self._words, *loopback]
        self.process = subprocess.Popen(command, cwd=self._folder, stdout=subprocess.DEVNULL)
        wait_for(lambda: self.process.poll() is not None or bool(self.client.ping()), f"{self.port} answers")
        assert self.process.poll() is None, (self._folder / "log").read_text()

    def say(self, *words: str | int) -> Any:
        """Give the server a command."""
        return self.client.execute_command(*words)  # type: ignore[no-untyped-call]

    def knows(self, name: str) -> bool:
        """Whether it knows another of its Cluster."""
        return name in str(self.say("CLUSTER NODES"))

    def kill(self) -> None:
        """End it at once."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self.client.close()


class Cluster:
    """Three primaries, and a replica for each where they are wanted."""

    def __init__(self, folder: Path, *, replicas: bool = False, tls: Certificate | None = None) -> None:
        self._tls = tls
        words = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--save", "", "--appendonly", "no"]
        words += ["--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"]
        self.nodes: list[Node] = []
        try:
            for _ in range(6 if replicas else 3):
                self.nodes.append(Node(folder, *words, tls=tls))
            self._join()
        except BaseException:
            self.kill()
            raise

    @property
    def url(self) -> str:
        """URL with two of the nodes."""
        hosts = f"127.0.0.1:{self.nodes[0].port},127.0.0.1:{self.nodes[1].port}"
        return f"rediss+cluster://{hosts}/0?ssl_ca_certs={self._tls.path}" if self._tls else f"redis+cluster://{hosts}"

    def owner(self, key: str) -> Node:
        """The node that has ``key``."""
        slot = key_slot(key.encode())
        with redis.Redis(port=self.alive()[0].port, protocol=2) as client:
            client.set_response_callback("CLUSTER SLOTS", lambda reply, **_: reply)
            reply: Any = client.execute_command("CLUSTER SLOTS")
        for first, last, (_, port, *_), *_ in reply:
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody has {key}")

    def alive(self) -> list[Node]:
        """Nodes whose processes run."""
        return [node for node in self.nodes if node.process.poll() is None]

    def move(self, key: str, to: Node, *, between: Callable[[], None] = lambda: None) -> None:
        """Move the slot of ``key``, as redis-cli's reshard does; ``between`` is called when half of its keys went."""
        slot, source = key_slot(key.encode()), self.owner(key)
        to.say("CLUSTER", "SETSLOT", slot, "IMPORTING", source.say("CLUSTER", "MYID"))
        source.say("CLUSTER", "SETSLOT", slot, "MIGRATING", to.say("CLUSTER", "MYID"))
        between()
        while keys := source.say("CLUSTER", "GETKEYSINSLOT", slot, 1000):
            source.say("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        between()
        for node in (to, source, *(node for node in self.alive() if node not in (to, source))):
            node.say("CLUSTER", "SETSLOT", slot, "NODE", to.say("CLUSTER", "MYID"))

    def kill(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.kill()

    def _join(self) -> None:
        first = self.nodes[0]
        for node in self.nodes[1:]:
            first.say("CLUSTER", "MEET", "127.0.0.1", node.port)
        bounds = (0, 5461, 10923, 16384)
        for node, low, high in zip(self.nodes, bounds, bounds[1:], strict=False):
            node.say("CLUSTER", "ADDSLOTS", *range(low, high))
        for primary, replica in zip(self.nodes[:3], self.nodes[3:], strict=False):
            name = primary.say("CLUSTER", "MYID")
            wait_for(partial(replica.knows, name), "they know each other")
            replica.say("CLUSTER", "REPLICATE", name)
        for node in self.nodes:
            wait_for(lambda node=node: self._whole(node), "the Cluster is whole")  # type: ignore[misc]

    def _whole(self, node: Node) -> bool:
        facts = node.client.cluster("INFO")
        state = (facts["cluster_state"], facts["cluster_slots_ok"], int(facts["cluster_known_nodes"]))
        linked = len(self.nodes) == 3 or "master_link_status:down" not in str(node.client.info("replication"))
        return state == ("ok", "16384", len(self.nodes)) and linked


class Watched:
    """A primary with a replica, and three Sentinels that watch them."""

    def __init__(self, folder: Path, *, tls: Certificate | None = None) -> None:
        self._tls = tls
        plain = ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]
        self.nodes: list[Node] = []
        try:
            self.primary = self._start(folder, *plain)
            self.replica = self._start(folder, *plain, "--replicaof", "127.0.0.1", str(self.primary.port))
            config = "\n".join(
                (
                    f"sentinel monitor mymaster 127.0.0.1 {self.primary.port} 2",
                    "sentinel down-after-milliseconds mymaster 1000",
                    "sentinel failover-timeout mymaster 4000",
                    "requirepass watch",
                    "sentinel sentinel-pass watch",
                )
            )
            self.sentinels = [self._start(folder, "--sentinel", config=config) for _ in range(3)]
            wait_for(lambda: self.replica.client.info("replication")["master_link_status"] == "up", "it replicates")
            for sentinel in self.sentinels:
                wait_for(lambda sentinel=sentinel: self._ready(sentinel), "the Sentinels know all")  # type: ignore[misc]
        except BaseException:
            self.kill()
            raise

    @property
    def url(self) -> str:
        """URL with all Sentinels, and their password."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        secure = f"&ssl_ca_certs={self._tls.path}" if self._tls else ""
        return f"redis{'s' * bool(self._tls)}+sentinel://{hosts}/mymaster/0?sentinel_password=watch{secure}"

    def kill(self) -> None:
        """End all."""
        for node in self.nodes:
            node.kill()

    def _start(self, folder: Path, *words: str, config: str | None = None) -> Node:
        node = Node(folder, *words, config=config, password="watch" if config else None, tls=self._tls)
        self.nodes.append(node)
        return node

    def _ready(self, sentinel: Node) -> bool:
        facts: Any = sentinel.client.sentinel_master("mymaster")
        return (facts["num-slaves"], facts["num-other-sentinels"]) == (1, 2)
