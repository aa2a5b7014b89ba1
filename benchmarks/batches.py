"""Whether pictures of several sources are found faces in more cheaply together than one by one; prints a table.

    python benchmarks/batches.py

The built-in network and, where it is installed, CenterFace read 1, 2, 4 and 8 pictures of 640 x 384 (and of 128 x 128,
as where a face is followed) at once, in turn; milliseconds a picture are medians, the ratio is that of one by one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import streamfer
from streamfer.faces.registry import centerface_file
from streamfer.faces.sessions import load_network

SIZES = ((384, 640), (128, 128))
BATCHES = (1, 2, 4, 8)


def batched(path: Path) -> bytes:
    """Return a network with an open batch, up to the maps of its last convolutions."""
    model = load_network(path)
    for value in model.graph.input:
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    maps = [node.input[0] for node in model.graph.node if node.op_type == "Transpose"] or [
        value.name for value in model.graph.output
    ]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in maps)
    return bytes(model.SerializeToString())


def milliseconds(session: onnxruntime.InferenceSession, size: tuple[int, int], rounds: int) -> list[float]:
    """Return the time of one picture in each of :data:`BATCHES`, measured in turn."""
    rng, name = np.random.default_rng(0), session.get_inputs()[0].name
    pictures = {count: rng.standard_normal((count, 3, *size)).astype(np.float32) for count in BATCHES}
    taken: dict[int, list[float]] = {count: [] for count in BATCHES}
    for _ in range(rounds + 2):
        for count, several in pictures.items():
            began = time.perf_counter()
            for _ in range(max(BATCHES) // count):
                session.run(None, {name: several})
            taken[count].append((time.perf_counter() - began) / max(BATCHES) * 1e3)
    return [float(np.median(times[2:])) for times in taken.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    networks = {"built-in": Path(streamfer.__file__).parent / "weights" / "faces.onnx"}
    if (centerface := centerface_file()) is not None:
        networks["CenterFace"] = centerface
    print("| network | picture | threads | " + " | ".join(f"{count} at once" for count in BATCHES) + " |")
    print("|---" * (3 + len(BATCHES)) + "|")
    for title, path in networks.items():
        for threads in (1, 2):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = threads, 3
            session = onnxruntime.InferenceSession(batched(path), options, providers=["CPUExecutionProvider"])
            for size in SIZES:
                times = milliseconds(session, size, rounds)
                cells = [f"{each:.2f} ms ({times[0] / each:.2f})" for each in times]
                print(f"| {title} | {size[1]}x{size[0]} | {threads} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
