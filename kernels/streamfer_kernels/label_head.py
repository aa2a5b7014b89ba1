"""From the ring of frame features to class probabilities: DFER-CLIP's label head, in seven launches a block.

gather with class token and positions | the blocks | cosines with the class features, softmax. The last block
computes the class token's output alone. With :meth:`LabelHead.capture` all launches become one CUDA graph.

Shape suffixes: R rows of the ring, B windows, T frames, N = T + 1 tokens, D feature size, C classes.
"""
# The fake implementation takes all of the operator's arguments.
# ruff: noqa: ARG001

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch.nn import functional as F

from streamfer_kernels import checks
from streamfer_kernels.attention import LONGEST
from streamfer_kernels.backend import choice
from streamfer_kernels.temporal import BlockWeights, check_block, torch_block

MOST_CLASSES = 1024
_INDEX_DTYPES = (torch.int64, torch.int32)


class LabelHead:
    """Weights of a label head, ready to run."""

    def __init__(
        self,
        blocks: Sequence[BlockWeights],
        class_token: torch.Tensor,
        positions: torch.Tensor,
        class_features: torch.Tensor,
        *,
        heads: int,
        temperature: float,
        eps: float = 1e-5,
    ) -> None:
        """Take over weights, all of one dtype on one device.

        Args:
            blocks: one or more.
            class_token: (D,).
            positions: (N, D), the class token's first.
            class_features: (C, D) of any length; normalised here, and kept in fp32.
            heads: of the blocks' attention.
            temperature: cosines are divided by it (a calibration temperature is one more factor).
            eps: of the norms, above zero.

        Raises:
            TypeError: an argument of another type or dtype.
            ValueError: a shape, device or number that does not fit; gradients asked for.
        """
        checks.tensor("class_token", class_token, (None,))
        depth, dtype, device = class_token.shape[0], class_token.dtype, class_token.device
        checks.tensor("positions", positions, (None, depth), (dtype,), device)
        checks.whole_number("the number of positions", positions.shape[0], 2, LONGEST)
        checks.tensor("class_features", class_features, (None, depth), device=device)
        checks.whole_number("the number of classes", class_features.shape[0], 1, MOST_CLASSES)
        if not isinstance(blocks, Sequence):
            raise TypeError(f"blocks is a {type(blocks).__name__}; expected a sequence of BlockWeights")
        if not blocks:
            raise ValueError("blocks is empty; expected one or more BlockWeights")
        for block in blocks:
            check_block(block, depth, heads, dtype, device)
        self._temperature, self._eps = checks.positive("temperature", temperature), checks.positive("eps", eps)
        checks.no_gradients("LabelHead", class_token=class_token, positions=positions, class_features=class_features)
        for block in blocks:
            named = {f"blocks.{entry.name}": getattr(block, entry.name) for entry in fields(block)}
            checks.no_gradients("LabelHead", **named)
        # Detached: weights taken over under no_grad must not ask for gradients later.
        self._blocks = tuple(block.to(device, dtype) for block in blocks)
        self._class_token_D = class_token.detach().contiguous()
        self._positions_ND = positions.detach().contiguous()
        self._classes_CD = F.normalize(class_features.detach().float(), dim=-1).contiguous()
        self._heads = heads

    @property
    def frames(self) -> int:
        """Frames of a window."""
        return self._positions_ND.shape[0] - 1

    def __call__(self, ring: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Classify windows of the ring.

        Args:
            ring: (R, D) frame features, rows contiguous, fp32, bf16 or fp16.
            indices: int64 or int32 (B, T), contiguous: the rows of each window, oldest first; a row may appear
                more than once. A row that does not exist makes its window NaN.

        Returns:
            fp32 probabilities (B, C).

        Raises:
            TypeError: an argument of another type or dtype.
            ValueError: a shape, stride or device that does not fit.
        """
        depth, device = self._class_token_D.shape[0], self._class_token_D.device
        checks.tensor("ring", ring, (None, depth), device=device)
        checks.rows_contiguous("ring", ring)
        checks.tensor("indices", indices, (None, self.frames), _INDEX_DTYPES, device)
        checks.contiguous("indices", indices)
        checks.no_gradients("LabelHead", ring=ring)
        chosen = choice(
            "label_head", device, self._class_token_D.dtype,
            windows=indices.shape[0], depth=depth, tokens=self.frames + 1, blocks=len(self._blocks),
        )  # fmt: skip
        return self._fast(ring, indices) if chosen.backend == "triton" else self._plain(ring, indices)

    def _fast(self, ring_RD: torch.Tensor, indices_BT: torch.Tensor) -> torch.Tensor:
        weights = [tensor for block in self._blocks for tensor in block.tensors()]
        probabilities: torch.Tensor = _probabilities(
            ring_RD, indices_BT, self._class_token_D, self._positions_ND, self._classes_CD, weights, self._heads,
            self._temperature, self._eps,
        )  # fmt: skip
        return probabilities

    def _plain(self, ring_RD: torch.Tensor, indices_BT: torch.Tensor) -> torch.Tensor:
        known_BT = (indices_BT >= 0) & (indices_BT < len(ring_RD))
        gathered_BTD = ring_RD[indices_BT.clamp(0, len(ring_RD) - 1).long()].to(self._class_token_D.dtype)
        gathered_BTD = gathered_BTD.masked_fill(~known_BT[..., None], float("nan"))
        first_B1D = self._class_token_D.expand(len(indices_BT), 1, -1)
        x = torch.cat([first_B1D, gathered_BTD], dim=1) + self._positions_ND
        for position, block in enumerate(self._blocks, start=1):
            x = torch_block(x, block, self._heads, self._eps, position == len(self._blocks))
        cosines_BC = F.normalize(x.float(), dim=-1, eps=1e-12) @ self._classes_CD.T
        return (cosines_BC / self._temperature).softmax(-1)

    def capture(self, ring: torch.Tensor, windows: int) -> CapturedLabelHead:
        """Capture the head as one CUDA graph for a fixed number of windows over this very ring.

        Raises:
            TypeError: ``ring`` or ``windows`` is of another type.
            ValueError: the tensors are not on a CUDA device, or ``windows`` is not positive.
        """
        checks.tensor("ring", ring, (None, self._class_token_D.shape[0]))
        if ring.device.type != "cuda":
            raise ValueError(f"ring is on {ring.device}; expected a CUDA device, where graphs can be captured")
        checks.whole_number("windows", windows, 1, 2**20)
        # Everything on the ring's device, whichever is current: a capture sees its own stream alone, and left to
        # itself torch.cuda.graph keeps one stream, on the device that was current at the first capture.
        with torch.cuda.device(ring.device):
            indices = torch.zeros(windows, self.frames, dtype=torch.int64, device=ring.device)
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream), torch.inference_mode():
                # Compilation and cuBLAS's own set-up must be over before a capture begins.
                for _ in range(2):
                    self(ring, indices)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream), torch.inference_mode():
                probabilities = self(ring, indices)
        return CapturedLabelHead(graph, self, ring, indices, probabilities)


@torch.library.custom_op(
    "streamfer_kernels::label_head",
    mutates_args=(),
    schema="(Tensor ring, Tensor indices, Tensor class_token, Tensor positions, Tensor classes, Tensor[] weights, "
    "int heads, float temperature, float eps) -> Tensor",
)
def _probabilities(
    ring: torch.Tensor,
    indices: torch.Tensor,
    class_token: torch.Tensor,
    positions: torch.Tensor,
    classes: torch.Tensor,
    weights: Sequence[torch.Tensor],
    heads: int,
    temperature: float,
    eps: float,
) -> torch.Tensor:
    """The head by Triton; ``weights`` are those of all blocks, one after the other."""
    from streamfer_kernels.temporal_launch import launch_block, launch_cosine_softmax, launch_gather

    x = launch_gather(ring, indices, class_token, positions)
    each = len(fields(BlockWeights))
    for start in range(0, len(weights), each):
        block = BlockWeights(*weights[start : start + each])
        x = launch_block(x, block, heads, eps, first_token_only=start + each == len(weights))
    return launch_cosine_softmax(x, classes, temperature)


@_probabilities.register_fake
def _(
    ring: torch.Tensor, indices: torch.Tensor, class_token: torch.Tensor, positions: torch.Tensor,
    classes: torch.Tensor, weights: Sequence[torch.Tensor], heads: int, temperature: float, eps: float,
) -> torch.Tensor:  # fmt: skip
    return classes.new_empty(indices.shape[0], classes.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class CapturedLabelHead:
    """A label head as a CUDA graph.

    Attributes:
        graph: all launches.
        head: holds the weights, whose addresses are in the graph.
        ring: (R, D), read at each call; the graph holds its address.
        indices: int64 (B, T), read at each call.
        probabilities: fp32 (B, C), written at each call.
    """

    graph: torch.cuda.CUDAGraph
    head: LabelHead
    ring: torch.Tensor
    indices: torch.Tensor
    probabilities: torch.Tensor

    def __call__(self, indices: torch.Tensor) -> torch.Tensor:
        """Classify windows; the result (B, C) is overwritten by the next call.

        Raises:
            TypeError: ``indices`` is of another type or dtype.
            ValueError: ``indices`` has another shape than was captured.
        """
        checks.tensor("indices", indices, tuple(self.indices.shape), _INDEX_DTYPES)
        self.indices.copy_(indices)
        self.graph.replay()
        return self.probabilities
