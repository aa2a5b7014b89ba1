"""Compile the kernels for GPUs that are absent, and print what they take: registers, local memory, shared memory.

    python tests/kernels/compile_report.py --capability 90 [--all] [--json]

The package's own launchers run on meta tensors; where Triton would launch, the arguments are recorded and compiled
ahead of time, specialised as Triton specialises them. Not to be run with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
OPTIONS = ("num_warps", "num_stages")
Launch = tuple[JITFunction, dict[str, str], dict[Any, Any], dict[Any, Any], dict[str, int]]


class Recorder:
    """Stands in for JITFunction.run: keeps what would be compiled."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []

    def run(self, kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        """Specialise the arguments as Triton does: types, constants, divisibility by 16."""
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        bound = inspect.signature(kernel.fn).bind(*args, **kwargs).arguments
        signature, constants, attributes = {}, {}, {}
        for position, parameter in enumerate(kernel.params):
            value = bound[parameter.name]
            fixed = parameter.do_not_specialize
            if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1 and not fixed):
                signature[parameter.name], constants[(position,)] = "constexpr", value
                continue
            if isinstance(value, torch.Tensor):
                signature[parameter.name], divisible = f"*{DTYPES[value.dtype]}", True
            elif isinstance(value, float):
                signature[parameter.name], divisible = "fp32", False
            else:
                signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
                divisible = value % 16 == 0 and not fixed
            if divisible:
                attributes[(position,)] = [["tt.divisibility", 16]]
        self.launches.append((kernel, signature, constants, attributes, options))


def resources(launch: Launch, capability: int) -> dict[str, Any]:
    """Compile one launch and read its cubin."""
    kernel, signature, constants, attributes, options = launch
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        shown = subprocess.run([tool, "--dump-resource-usage", cubin.name], capture_output=True, text=True, check=True)
    ptx = compiled.asm["ptx"]
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", shown.stdout))
    return {
        "kernel": kernel.fn.__name__,
        "warps": compiled.metadata.num_warps,
        "stages": compiled.metadata.num_stages,
        "registers": int(usage["REG"]),
        "local_bytes": int(usage["STACK"]) + int(usage["LOCAL"]),
        "shared_bytes": int(compiled.metadata.shared),
        "wgmma": ptx.count("wgmma.mma_async"),
        "mma": len(re.findall(r"\bmma\.sync", ptx)),
        "async_16": len(re.findall(r"cp\.async\.cg\.shared\.global", ptx)),
        "loads_16": len(re.findall(r"ld\.global[.\w:]*\.v4\.b32|ld\.global[.\w:]*\.v2\.b64", ptx)),
        "loads_narrow": len(re.findall(r"ld\.global[.\w:]*\.(?:b|u)(?:8|16) ", ptx)),
    }


def record(call: Callable[[], object]) -> list[Launch]:
    """Return the launches that a call would make."""
    recorder, original = Recorder(), JITFunction.run

    def run(kernel: JITFunction, *args: Any, **kwargs: Any) -> None:
        recorder.run(kernel, *args, **kwargs)

    JITFunction.run = run
    try:
        call()
    finally:
        JITFunction.run = original
    return recorder.launches


def main() -> None:
    """Print one line, or one JSON object, a kernel."""
    from compile_cases import cases

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, default=90, help="80 for A100, 90 for H100 and H200")
    parser.add_argument("--all", action="store_true", help="every case, not only those of the default tests")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    for name, call in cases(everything=wanted.all).items():
        if wanted.only not in name:
            continue
        for launch in record(call):
            found = {"case": name, "capability": wanted.capability, **resources(launch, wanted.capability)}
            if wanted.json:
                print(json.dumps(found), flush=True)
                continue
            print(
                f"{name:44} {found['kernel']:22} warps {found['warps']} stages {found['stages']} "
                f"regs {found['registers']:3} local {found['local_bytes']:4} shared {found['shared_bytes']:6} "
                f"wgmma {found['wgmma']:3} mma {found['mma']:3} async16 {found['async_16']:3} "
                f"ld16 {found['loads_16']:3} ld2 {found['loads_narrow']:3}",
                flush=True,
            )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
