"""The operators as PyTorch sees them: schemas, torch.compile, autocast; and who decides what runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from references import DEVICE, error

import streamfer_kernels
from streamfer_kernels import (
    Shape,
    attention,
    attention_launch,
    attention_packed,
    backend,
    preflight,
    self_test,
    source_digest,
    trial,
    use,
)

OPERATORS = torch.ops.streamfer_kernels


def random(*shape: int, gradient: bool = False, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype).requires_grad_(gradient)


def samples() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Each operator with arguments."""
    q, k = random(1, 2, 5, 16), random(1, 2, 40, 16)
    return {
        "attention": (OPERATORS.attention.default, (q, k, k, 0.25)),
        "attention short": (OPERATORS.attention.default, (q, q, q, 0.25)),
        "packed": (OPERATORS.attention_packed.default, (random(2, 5, 96), 2, 0.25)),
    }


@pytest.mark.parametrize("name", samples())
def test_opcheck(name: str) -> None:
    operator, arguments = samples()[name]
    # Dynamic shapes are traced with numbers of their own: not with poisoned memory, which would be filled at tracing.
    torch.use_deterministic_algorithms(False)
    results = torch.library.opcheck(operator, arguments)
    assert set(results.values()) == {"SUCCESS"}


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]] = {
    "attention": (attention, lambda: (random(1, 2, 5, 16), random(1, 2, 9, 16), random(1, 2, 9, 16))),
    "attention_packed": (lambda x: attention_packed(x, 2), lambda: (random(2, 40, 96),)),
}


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("mode", ["triton", "torch"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_as_one_graph(name: str, mode: Literal["triton", "torch"], gradient: bool) -> None:
    torch.use_deterministic_algorithms(False)
    torch._dynamo.reset()
    function, make = FUNCTIONS[name]
    arguments = tuple(value.requires_grad_(gradient) for value in make())
    whole = torch.compile(function, fullgraph=True, backend="aot_eager")
    with use(mode):
        expected, found = function(*arguments), whole(*arguments)
        torch.testing.assert_close(found, expected)
        if gradient:
            for one, other in zip(
                torch.autograd.grad(found.sum(), arguments),
                torch.autograd.grad(expected.sum(), arguments),
                strict=True,
            ):
                torch.testing.assert_close(one, other)


def test_a_compiled_function_follows_the_mode() -> None:
    torch.use_deterministic_algorithms(False)
    torch._dynamo.reset()
    graphs = []

    def keep(module: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        graphs.append(str(module.graph))
        return module.forward

    whole = torch.compile(lambda q: attention(q, q, q), fullgraph=True, backend=keep)
    q = random(1, 1, 4, 16, gradient=False)
    for mode in ("triton", "torch"):
        with use(mode):
            whole(q)
    assert ["streamfer_kernels.attention" in graph for graph in graphs] == [True, False]


@pytest.mark.parametrize("mode", ["triton", "torch"])
def test_autocast(mode: str) -> None:
    q = random(1, 2, 5, 16, gradient=True)
    with use(mode), torch.autocast(DEVICE.type, torch.bfloat16):  # type: ignore[arg-type]
        out = attention(q, q, q)
        packed = attention_packed(q.reshape(1, 5, 32).repeat(1, 1, 3), 2)
        mixed = attention(q, q.bfloat16(), q.half())
    assert out.dtype == packed.dtype == torch.bfloat16
    assert error(mixed, out) < 1e-2
    out.float().sum().backward()
    assert q.grad is not None
    assert q.grad.dtype == torch.float32


BAD = [
    ({"q": [1]}, TypeError, "q is a list; expected a tensor"),
    ({"q": torch.zeros(2, 4, 16)}, ValueError, "q has shape .* expected 4 dimensions"),
    ({"q": torch.zeros(1, 2, 4, 16).double()}, TypeError, "q is float64; expected float32, bfloat16, float16"),
    ({"q": torch.zeros(1, 2, 0, 16)}, ValueError, "no dimension of size zero"),
    ({"q": torch.zeros(1, 2, 4, 32)[..., ::2]}, ValueError, "q has stride 2 in its last dimension"),
    ({"q": torch.zeros(1, 2, 2000, 16)}, ValueError, "the length of q is 2000; expected 1 to 1024"),
    ({"q": torch.zeros(1, 2, 4, 12)}, ValueError, "q has heads of size 12; expected a multiple of 8"),
    ({"q": torch.zeros(1, 2, 4, 136)}, ValueError, "heads of size 136"),
    ({"k": None}, TypeError, "k is a NoneType"),
    ({"k": torch.zeros(1, 2, 5, 16).bfloat16()}, TypeError, "k is bfloat16; expected float32"),
    ({"k": torch.zeros(1, 3, 5, 16)}, ValueError, r"k has shape \(1, 3, 5, 16\); expected \(1, 2, 5, 16\)"),
    ({"k": torch.zeros(1, 2, 5, 32)}, ValueError, "k has shape"),
    ({"v": torch.zeros(1, 2, 6, 16)}, ValueError, "v has shape"),
    ({"v": torch.zeros(1, 2, 5, 16, device="meta")}, ValueError, "v is on meta"),
    ({"scale": -1.0}, ValueError, "scale is -1.0; expected a positive number"),
]


@pytest.mark.parametrize("mode", ["triton", "torch"])
@pytest.mark.parametrize(("changes", "kind", "message"), BAD)
def test_bad_attention_is_named(changes: dict[str, Any], kind: type[Exception], message: str, mode: str) -> None:
    arguments: dict[str, Any] = {
        "q": torch.zeros(1, 2, 4, 16), "k": torch.zeros(1, 2, 5, 16), "v": torch.zeros(1, 2, 5, 16), **changes
    }  # fmt: skip
    with use(mode), pytest.raises(kind, match=message):  # type: ignore[arg-type]
        attention(**arguments)


@pytest.mark.parametrize(
    ("qkv", "heads", "kind", "message"),
    [
        (torch.zeros(1, 4, 50), 2, ValueError, "qkv has 50 columns; expected a multiple of 3 x heads = 6"),
        (torch.zeros(1, 4, 96), 2.0, TypeError, "heads is a float"),
        (torch.zeros(1, 4, 96), 0, ValueError, "heads is 0"),
        (torch.zeros(1, 4, 96), 8, ValueError, "heads of size 4"),
        (torch.zeros(1, 96, 4).mT, 2, ValueError, "qkv has stride"),
    ],
)
def test_bad_packed_attention_is_named(qkv: torch.Tensor, heads: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        attention_packed(qkv, heads)


def test_without_measurements_pytorch_runs() -> None:
    assert not backend.runs_triton(DEVICE)
    report = streamfer_kernels.backend_report(DEVICE)
    assert report["summary"].startswith(
        "measured for each model" if DEVICE.type == "cuda" else "PyTorch (Triton's interp"
    )
    assert json.loads(json.dumps(report)) == report
    with use("triton"):
        assert backend.runs_triton(DEVICE)
        assert streamfer_kernels.backend_report(DEVICE)["mode"] == "triton"
        with use("torch"):
            assert not backend.runs_triton(DEVICE)
    assert streamfer_kernels.backend_report(DEVICE)["mode"] == "auto"
    with pytest.raises(ValueError, match="mode is 'fast'; expected auto, torch or triton"), use("fast"):  # type: ignore[arg-type]
        pass


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", backend.VARIABLE)}
    kept |= {"PYTHONPATH": str(Path(streamfer_kernels.__file__).parent.parent), **environment}
    return subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=False)


def test_without_triton_everything_runs() -> None:
    ran = run(
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'triton' else real(name, *a)\n"
        "sys.modules['triton'] = None\n"
        "import torch, streamfer_kernels as sk\n"
        "q = torch.randn(1, 2, 5, 16, requires_grad=True)\n"
        "sk.attention(q, q, q).sum().backward()\n"
        "sk.attention_packed(torch.zeros(1, 5, 96), 2)\n"
        "print(sk.backend_report()['mode'], '|', sk.backend_report()['obstacle'], '|', sk.backend_report()['summary'])",
        STREAMFER_KERNELS="on",
        CUDA_VISIBLE_DEVICES="",
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.startswith(
        "triton | Triton is not installed | PyTorch (Triton kernels off: Triton is not installed)"
    )


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "cuda")
    with pytest.raises(ValueError, match="STREAMFER_KERNELS is 'cuda'; expected auto, off or on"):
        backend._mode_from_environment()


def test_one_call_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    q = random(1, 1, 4, 16)
    launched: list[object] = []
    monkeypatch.setattr(attention_launch, "launch", lambda *_: launched.append(None))
    for wanted, count in (("torch", 0), (None, 0), ("triton", 1)):
        attention(q, q, q, backend=wanted)  # type: ignore[arg-type]
        assert len(launched) == count
    with pytest.raises(ValueError, match="backend is 'cuda'; expected torch, triton or None"):
        attention(q, q, q, backend="cuda")  # type: ignore[arg-type]


def test_launches_go_to_the_device_of_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    guarded: list[torch.Tensor] = []
    original: Any = torch.cuda.device_of

    def record(value: torch.Tensor) -> Any:
        guarded.append(value)
        return original(value)

    monkeypatch.setattr(torch.cuda, "device_of", record)
    for name, (operator, arguments) in samples().items():
        guarded.clear()
        operator(*arguments)
        assert guarded, name


def test_a_first_launch_that_fails_is_told_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    trial.preflight.cache_clear()
    monkeypatch.setattr(attention_launch, "launch", broken)
    assert preflight(DEVICE) == "the first launch failed (RuntimeError: Failed to find C compiler.)"
    trial.preflight.cache_clear()
    monkeypatch.undo()
    assert preflight(DEVICE) is None
    monkeypatch.setattr(trial, "obstacle", lambda device: "CPU tensors")
    trial.preflight.cache_clear()
    assert preflight(DEVICE) == "CPU tensors"
    trial.preflight.cache_clear()


def test_the_self_test_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [Shape(17, 2, 16, torch.bfloat16), Shape(70, 1, 24, torch.float32)]
    assert self_test(DEVICE, shapes) is None
    right = attention_launch.launch

    def inexact(q: Any, k: Any, v: Any, out: Any, scale: float) -> None:
        right(q, k, v, out, scale * 1.02)

    def unwritten(q: Any, k: Any, v: Any, out: Any, scale: float) -> None:
        right(q[:-1], k[:-1], v[:-1], out[:-1], scale)

    for wrong, told in ((inexact, "relative error"), (unwritten, "two runs differ, or elements were not written")):
        monkeypatch.setattr(attention_launch, "launch", wrong)
        assert told in str(self_test(DEVICE, shapes))

    def too_large(*_: Any) -> None:
        raise RuntimeError("out of resource: shared memory, Required: 262144\nReducing block sizes may help.")

    monkeypatch.setattr(attention_launch, "launch", too_large)
    told = "70 tokens, 1 heads of 24, float32: its launch failed (RuntimeError: out of resource: shared memory, "
    assert self_test(DEVICE, shapes[1:]) == f"{told}Required: 262144)"
    assert len(source_digest()) == 64
