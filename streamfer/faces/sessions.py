"""ONNX Runtime sessions for the faces room: the provider that was asked for, or an error, and few threads."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from streamfer.errors import CheckpointError, DeviceError

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
#: Short names people type, and what "auto" tries before the CPU.
SHORT_NAMES = {"cpu": CPU, "cuda": "CUDAExecutionProvider", "coreml": "CoreMLExecutionProvider"}
PREFERRED = ("CUDAExecutionProvider",)


#: Pictures of so many pixels are worth the waking of several threads, layer by layer.
LARGE = 256 * 256


class Session(onnxruntime.InferenceSession):
    """A network that reads large pictures, for which everything waits, on more threads than small ones.

    Attributes:
        wide: the same network on those threads; None where all pictures are read on the same.
    """

    wide: onnxruntime.InferenceSession | None = None

    def run(self, names: Sequence[str] | None, feeds: dict[str, Any], options: Any = None) -> list[Any]:
        """Return the outputs ``names``, all if None, for the inputs ``feeds``."""
        if self.wide is not None and max(math.prod(value.shape[2:]) for value in feeds.values()) >= LARGE:
            return list(self.wide.run(names, feeds, options))
        return list(super().run(names, feeds, options))


def choose_providers(provider: str) -> list[str]:
    """Return the providers to ask ONNX Runtime for, best first: of ``auto``, ``cpu``, ``cuda``, or a full name.

    Raises:
        DeviceError: a provider asked for by name is absent from this ONNX Runtime.
    """
    available = onnxruntime.get_available_providers()
    if provider == "auto":
        return [name for name in PREFERRED if name in available] + [CPU]
    wanted = SHORT_NAMES.get(provider.lower(), provider)
    if wanted not in available:
        raise DeviceError(
            f"provider {wanted}: not in this ONNX Runtime (it has {', '.join(available)}); "
            "install onnxruntime-gpu for CUDA, or use provider 'auto' or 'cpu'"
        )
    return [wanted]


def open_session(
    path: Path, *, provider: str, threads: int, network: bytes | None = None, wide: int = 0
) -> tuple[Session, str]:
    """Open a network and return its session with the provider that runs it.

    With ``network``, the bytes made from the file at ``path``, those are opened instead. On a CPU large pictures are
    read on ``wide`` threads where those are more than ``threads``.

    Raises:
        DeviceError: a provider asked for by name is absent, or does not start.
        CheckpointError: the file is not a network that ONNX Runtime can load.
    """
    asked = choose_providers(provider)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; name an .onnx network, or a registered detector")
    session = _open(path, network, threads, asked)
    if session.get_overridable_initializers():
        network = bytes(load_network(path).SerializeToString())
        session = _open(path, network, threads, asked)
    # ONNX Runtime itself falls back to the CPU without an error.
    active = str(session.get_providers()[0])
    if active != asked[0] and provider != "auto":
        raise DeviceError(
            f"provider {asked[0]}: ONNX Runtime has it but could not start it for {path.name} and would run "
            f"on {active}; mend the driver (streamfer doctor), or use provider 'auto' or 'cpu'"
        )
    if active != asked[0]:
        log.warning("detector.provider_fell_back", extra={"asked": asked[0], "active": active, "model": path.name})
    if active == CPU and wide > threads:
        session.wide = _open(path, network, wide, asked, sharing=True)
    return session, active


def _open(path: Path, network: bytes | None, threads: int, asked: list[str], *, sharing: bool = False) -> Session:
    """Open a network within ``threads``, its memory kept from growing with frames of odd sizes.

    With ``sharing``, threads that wait leave their core to others, and take work from one that is held up.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, threads)
    options.inter_op_num_threads = 1
    if sharing:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.dynamic_block_base", "4")
    # Patterns and arenas would hold the largest of each size for ever.
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    # By default a GPU's arena doubles with every new frame size.
    growth = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
    providers = [(name, growth) if name == "CUDAExecutionProvider" else name for name in asked]
    with readable(path):
        return Session(network or str(path), sess_options=options, providers=providers)


def load_network(path: Path) -> onnx.ModelProto:
    """Read an ONNX file whose weights are constants, as today's exporters write them.

    Old exporters list the weights among the inputs too, so that ONNX Runtime takes them for something that may change,
    packs none of them and fuses little: CenterFace takes 2.6 times as long.

    Raises:
        CheckpointError: the file is no ONNX network.
    """
    import onnx

    with readable(path):
        model = onnx.load(str(path))
    weights = {weight.name for weight in model.graph.initializer}
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.ndim and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise CheckpointError(f"{path}: weight {weight.name!r} holds values that are not finite; export it again")
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever ONNX, ONNX Runtime or NumPy raise about a network into a CheckpointError of one line."""
    try:
        yield
    except Exception as error:  # their own classes share no base but Exception
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{path}: not an ONNX network that can be loaded ({reason}); the file is damaged or no network: "
            "delete it and pull it again"
        ) from error
