"""Ports for servers that are started a moment later, and again: none that the system gives away meanwhile."""

from __future__ import annotations

import itertools
import os
import random
import re
import socket

#: Below what systems give to whoever asks for any port; each process of a test run has its part of them.
_FIRST, _LAST, _PARTS = 10_000, 16_000, 8
_SIZE = (_LAST - _FIRST) // _PARTS
_WORKER = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0)
_TURNS = itertools.count(random.SystemRandom().randrange(_SIZE))


def free_port(*beside: int) -> int:
    """Return a TCP port of this machine on which nobody listens, nor on those ``beside`` it, as many above."""
    for _ in range(_SIZE):
        port = _FIRST + _WORKER % _PARTS * _SIZE + next(_TURNS) % _SIZE
        if all(_free(port + step) for step in (0, *beside)):
            return port
    raise AssertionError("no port is free")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def torchrun_variables(rank: str = "0") -> dict[str, str]:
    """Return what torchrun sets for one of two processes."""
    return {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "RANK": rank}
