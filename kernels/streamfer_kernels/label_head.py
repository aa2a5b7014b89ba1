"""From the ring of frame features to class probabilities: DFER-CLIP's label head, in seven launches a block.

gather with class token and positions | the blocks | cosines with the class features, softmax. The last block
computes the class token's output alone. With :meth:`LabelHead.capture` all launches become one CUDA graph.

Shape suffixes: R rows of the ring, B windows, T frames, N = T + 1 tokens, D feature size, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
            eps: of the norms.

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
        if not blocks:
            raise ValueError("blocks is empty; expected one or more BlockWeights")
        for block in blocks:
            check_block(block, depth, heads, dtype, device)
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature is {temperature}; expected a positive number")
        checks.no_gradients("LabelHead", class_token=class_token, positions=positions, class_features=class_features)
        for block in blocks:
            checks.no_gradients("LabelHead", qkv_weight=block.qkv_weight, fc1_weight=block.fc1_weight)
        self._blocks = tuple(blocks)
        self._class_token_D = class_token.contiguous()
        self._positions_ND = positions.contiguous()
        self._classes_CD = F.normalize(class_features.float(), dim=-1).contiguous()
        self._heads, self._temperature, self._eps = heads, temperature, eps

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
        chosen = choice("label_head", device, self._class_token_D.dtype, windows=indices.shape[0], depth=depth)
        return self._fast(ring, indices) if chosen.backend == "triton" else self._plain(ring, indices)

    def _fast(self, ring_RD: torch.Tensor, indices_BT: torch.Tensor) -> torch.Tensor:
        from streamfer_kernels.temporal_launch import launch_block, launch_cosine_softmax, launch_gather

        x = launch_gather(ring_RD, indices_BT, self._class_token_D, self._positions_ND)
        for position, block in enumerate(self._blocks, start=1):
            x = launch_block(x, block, self._heads, self._eps, first_token_only=position == len(self._blocks))
        return launch_cosine_softmax(x, self._classes_CD, self._temperature)

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
            ValueError: the tensors are not on a CUDA device, or ``windows`` is not positive.
        """
        if ring.device.type != "cuda":
            raise ValueError(f"ring is on {ring.device}; expected a CUDA device, where graphs can be captured")
        checks.whole_number("windows", windows, 1, 2**20)
        indices = torch.zeros(windows, self.frames, dtype=torch.int64, device=ring.device)
        stream = torch.cuda.Stream(ring.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(ring.device))
        with torch.cuda.stream(stream), torch.inference_mode():
            # Compilation and cuBLAS's own set-up must be over before a capture begins.
            for _ in range(2):
                self(ring, indices)
        torch.cuda.current_stream(ring.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), torch.inference_mode():
            probabilities = self(ring, indices)
        return CapturedLabelHead(graph, ring, indices, probabilities)


@dataclass(frozen=True, slots=True, eq=False)
class CapturedLabelHead:
    """A label head as a CUDA graph.

    Attributes:
        graph: all launches.
        ring: (R, D), read at each call; the graph holds its address.
        indices: int64 (B, T), read at each call.
        probabilities: fp32 (B, C), written at each call.
    """

    graph: torch.cuda.CUDAGraph
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
