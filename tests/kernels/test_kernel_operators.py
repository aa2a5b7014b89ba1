"""The operators as PyTorch sees them: schemas, gradients, torch.compile, autocast; and who decides what runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from references import DEVICE, error

import streamfer_kernels
from streamfer_kernels import (
    LabelHead,
    attention,
    attention_packed,
    backend,
    choice,
    crop_faces,
    quick_gelu,
    residual_layer_norm,
    use,
)
from streamfer_kernels.temporal import BlockWeights

OPERATORS = torch.ops.streamfer_kernels


def random(*shape: int, gradient: bool = True, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype).requires_grad_(gradient)


def samples() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Each operator with arguments."""
    q, k = random(1, 2, 5, 16), random(1, 2, 40, 16)
    lengths = torch.tensor([30], device=DEVICE)
    options = (lengths, False, 0.25, False)
    plain = [value.detach() for value in (q, k)]
    lse, packed = random(1, 2, 5, gradient=False), random(2, 5, 96)
    row, frames = random(8), torch.zeros(1, 6, 6, dtype=torch.uint8, device=DEVICE)
    matrix = torch.eye(2, 3, device=DEVICE)[None].contiguous()
    weights = [random(*shape, gradient=False) for shape in
               ((8,), (8,), (24, 8), (8, 8), (8,), (8,), (8,), (12, 8), (12,), (8, 12), (8,))]  # fmt: skip
    return {
        "attention": (OPERATORS.attention.default, (q, k, k, *options, True)),
        "attention short": (OPERATORS.attention.default, (q, q, q, None, True, 0.25, False, True)),
        "attention backward": (
            OPERATORS.attention_backward.default, (plain[0], plain[1], plain[1], plain[0], lse, plain[0], *options)
        ),
        "packed": (OPERATORS.attention_packed.default, (packed, 2, None, False, 0.25, False, True)),
        "packed backward": (
            OPERATORS.attention_packed_backward.default,
            (packed.detach(), packed[..., :32].detach(), lse, packed[..., :32].detach(), 2, None, False, 0.25, False),
        ),
        "activate": (OPERATORS.activate.default, (row, True)),
        "residual_layer_norm": (
            OPERATORS.residual_layer_norm.default, (random(3, 8), random(3, 8), row, random(8), 1e-5)
        ),
        "crop_faces": (
            OPERATORS.crop_faces.default,
            (frames[:, :4], frames[:, 4:], matrix, None, 3, [0.5] * 8, [0.1] * 3, [0.0] * 3, torch.bfloat16, True),
        ),
        "temporal_block": (OPERATORS.temporal_block.default, (random(2, 3, 8, gradient=False), weights, 1, 1e-5, True)),
        "label_head": (
            OPERATORS.label_head.default,
            (plain[0][0, 0, :, :8], lengths.new_zeros(2, 2), row.detach(), random(3, 8, gradient=False),
             random(4, 8, gradient=False), weights + weights, 1, 0.1, 1e-5),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", samples())
def test_opcheck(name: str) -> None:
    operator, arguments = samples()[name]
    # Dynamic shapes are traced with numbers of their own: not with poisoned memory, which would be filled at tracing.
    torch.use_deterministic_algorithms(False)
    results = torch.library.opcheck(operator, arguments)
    assert set(results.values()) == {"SUCCESS"}


def small_head() -> LabelHead:
    """Two blocks on windows of two frames."""
    weights = BlockWeights(*samples()["label_head"][1][5][:11])
    parts = (random(8, gradient=False), random(3, 8, gradient=False), random(4, 8, gradient=False))
    return LabelHead([weights, weights], *parts, heads=1, temperature=0.1)


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]] = {
    "attention": (attention, lambda: (random(1, 2, 5, 16), random(1, 2, 9, 16), random(1, 2, 9, 16))),
    "attention_packed": (lambda x: attention_packed(x, 2), lambda: (random(2, 40, 96),)),
    "quick_gelu": (quick_gelu, lambda: (random(3, 8),)),
    "residual_layer_norm": (
        lambda *t: residual_layer_norm(*t)[1], lambda: (random(3, 8), random(3, 8), random(8), random(8))
    ),
    "label_head": (
        small_head(), lambda: (random(6, 8, gradient=False), torch.tensor([[0, 5], [3, 9]], device=DEVICE))
    ),
    "crop_faces": (
        lambda f, m: crop_faces(f, m, 4),
        lambda: (torch.zeros(1, 5, 5, 3, dtype=torch.uint8, device=DEVICE), torch.eye(2, 3, device=DEVICE)[None]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["triton", "torch"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_as_one_graph(name: str, mode: str) -> None:
    torch.use_deterministic_algorithms(False)
    torch._dynamo.reset()
    function, make = FUNCTIONS[name]
    arguments = make()
    whole = torch.compile(function, fullgraph=True, backend="aot_eager")
    with use(mode):  # type: ignore[arg-type]
        expected, found = function(*arguments), whole(*arguments)
        torch.testing.assert_close(found, expected, equal_nan=True)
        if expected.requires_grad:
            asked = [value for value in arguments if value.requires_grad]
            for one, other in zip(
                torch.autograd.grad(found.sum(), asked), torch.autograd.grad(expected.sum(), asked), strict=True
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
        with use(mode):  # type: ignore[arg-type]
            whole(q)
    assert ["streamfer_kernels.attention" in graph for graph in graphs] == [True, False]


@pytest.mark.parametrize("mode", ["triton", "torch"])
def test_autocast(mode: str) -> None:
    q = random(1, 2, 5, 16)
    with use(mode), torch.autocast(DEVICE.type, torch.bfloat16):  # type: ignore[arg-type]
        out = attention(q, q, q)
        packed = attention_packed(q.reshape(1, 5, 32).repeat(1, 1, 3), 2)
        mixed = attention(q, q.bfloat16(), q.half())
    assert out.dtype == packed.dtype == torch.bfloat16
    assert error(mixed, out) < 1e-2
    out.float().sum().backward()
    assert q.grad is not None
    assert q.grad.dtype == torch.float32


def test_gradients_need_what_the_forward_pass_keeps() -> None:
    q = random(1, 1, 40, 16)
    out, lse = OPERATORS.attention(q, q, q, None, False, 0.25, False, False)
    assert lse.numel() == 0
    with pytest.raises(ValueError, match="keep_lse is False; expected True"):
        out.sum().backward()


BAD = [
    ({"q": [1]}, TypeError, "q is a list; expected a tensor"),
    ({"q": torch.zeros(2, 4, 16)}, ValueError, "q has shape .* expected 4 dimensions"),
    ({"q": torch.zeros(1, 2, 4, 16).double()}, TypeError, "q is float64; expected float32, bfloat16 or float16"),
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
    ({"key_lengths": torch.tensor([1.0])}, TypeError, "key_lengths is float32; expected int32 or int64"),
    ({"key_lengths": torch.tensor([1, 2])}, ValueError, "key_lengths has shape"),
    ({"scale": "large"}, TypeError, "scale is a str"),
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


ROWS, ROW = torch.zeros(2, 3), torch.ones(3)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: quick_gelu(3), TypeError, "x is a int"),
        (lambda: quick_gelu(torch.zeros(3, 4).T), ValueError, "x has strides"),
        (lambda: residual_layer_norm(ROWS, torch.zeros(2, 4), ROW, ROW), ValueError, "residual has shape"),
        (lambda: residual_layer_norm(ROWS, ROWS, torch.ones(4), ROW), ValueError, "weight has shape"),
        (lambda: residual_layer_norm(ROWS, ROWS, ROW, ROW.half()), TypeError, "bias is float16"),
        (lambda: residual_layer_norm(ROWS, ROWS, ROW, ROW, eps="1e-5"), TypeError, "eps is a str; expected a number"),
        (lambda: residual_layer_norm(ROWS, ROWS, ROW, ROW, eps=0), ValueError, "eps is 0; expected a positive number"),
    ],
)  # fmt: skip
def test_bad_pointwise_input_is_named(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_without_measurements_pytorch_runs() -> None:
    found = choice("attention", DEVICE, torch.bfloat16, pairs=8, queries=17, keys=17, head=64)
    assert found.backend == ("torch" if not backend.MEASURED else found.backend)
    assert "measure" in found.reason
    with use("triton"):
        assert choice("attention", DEVICE, torch.bfloat16) == backend.Choice("triton", "forced")
        assert streamfer_kernels.mode() == "triton"
        with use("torch"):
            assert choice("attention", DEVICE, torch.bfloat16) == backend.Choice("torch", "forced")
    assert streamfer_kernels.mode() == "auto"
    with pytest.raises(ValueError, match="mode is 'fast'; expected auto, torch or triton"), use("fast"):  # type: ignore[arg-type]
        pass
    with pytest.raises(ValueError, match="operation is 'convolution'"):
        choice("convolution", DEVICE, torch.bfloat16)


def test_the_table_decides_by_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    name = torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else "cpu"
    entry = {"operation": "attention", "device": name, "dtype": "bfloat16", "training": False}
    table = [
        {**entry, "ratio": 2.5, "sizes": {"queries": [2, 50], "pairs": [4096, None]}},
        {**entry, "ratio": 0.8, "sizes": {"queries": [1024, 1024]}},
    ]
    monkeypatch.setattr(backend, "MEASURED", backend.read_measurements(json.dumps(table)))

    def chosen(**sizes: int) -> str:
        return choice("attention", DEVICE, torch.bfloat16, **sizes).backend

    assert chosen(queries=17, pairs=4096) == "triton"
    assert chosen(queries=17, pairs=100) == "torch"
    assert chosen(queries=51, pairs=4096) == "torch"
    assert chosen(queries=1024, pairs=4096) == "torch"
    assert choice("attention", DEVICE, torch.bfloat16, training=True, queries=17, pairs=5000).backend == "torch"
    assert choice("attention", DEVICE, torch.float32, queries=17, pairs=5000).backend == "torch"
    report = streamfer_kernels.backend_report(DEVICE)
    assert report["measurements"] == 2
    assert "1 measured case" in report["summary"]
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize(
    ("text", "message"),
    [('[{"operation": "attention"}]', "measurement 0"), ('[{"a": 1}]', "measurement 0"),
     ('[{"operation": "x", "device": "d", "dtype": "f", "training": false, "ratio": 1}]', "operation is 'x'")],
)  # fmt: skip
def test_a_wrong_table_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backend.read_measurements(text)


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
        "sk.quick_gelu(torch.ones(3)); sk.attention_packed(torch.zeros(1, 5, 96), 2)\n"
        "sk.crop_faces(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), torch.eye(2, 3)[None].contiguous(), 2)\n"
        "print(sk.mode(), '|', sk.backend_report()['obstacle'], '|', sk.backend_report()['summary'])",
        STREAMFER_KERNELS="triton",
        CUDA_VISIBLE_DEVICES="",
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.startswith(
        "triton | Triton is not installed | PyTorch (Triton kernels off: Triton is not installed)"
    )


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "cuda")
    with pytest.raises(ValueError, match="STREAMFER_KERNELS is 'cuda'; expected auto, torch or triton"):
        backend._mode_from_environment()


def test_one_call_can_be_forced() -> None:
    q = random(1, 1, 4, 16)
    for wanted, name in (("triton", "streamfer_kernels"), ("torch", "Transpose"), (None, "Transpose")):
        # The operators that ran stand in autograd's graph.
        joined = attention(q, q, q, backend=wanted).transpose(1, 2)  # type: ignore[arg-type]
        ran = str(joined.grad_fn.next_functions[0][0])  # type: ignore[union-attr]
        assert ("streamfer_kernels" in ran) == (name == "streamfer_kernels"), ran
    with pytest.raises(ValueError, match="backend is 'cuda'; expected torch, triton or None"):
        attention(q, q, q, backend="cuda")  # type: ignore[arg-type]


def test_weights_keep_their_order() -> None:
    names = list(BlockWeights.__dataclass_fields__)
    weights = BlockWeights(*(torch.full((1,), float(place)) for place in range(len(names))))
    assert [float(value) for value in weights.tensors()] == list(range(11))
    assert error(weights.to("cpu", torch.float64).fc2_bias, torch.full((1,), 10.0)) == 0


def test_launches_go_to_the_device_of_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    guarded: list[torch.Tensor] = []
    original = torch.cuda.device_of

    def record(value: torch.Tensor) -> Any:
        guarded.append(value)
        return original(value)

    monkeypatch.setattr(torch.cuda, "device_of", record)
    for name, (operator, arguments) in samples().items():
        guarded.clear()
        operator(*arguments)
        assert guarded, name
