"""Tile sizes of the attention kernels for each shape: plain arithmetic, needs neither Triton nor a GPU."""

from __future__ import annotations

from dataclasses import dataclass

#: The kernels index within a (batch, head) pair, and count programs, with 32 bits.
LARGEST_INDEX = 2**31 - 1
#: Up to this many tokens, one tile holds all logits of a sequence.
SHORT = 64


@dataclass(frozen=True, slots=True)
class Tiles:
    """Sizes that a kernel is compiled for."""

    rows: int  #: queries of a tile
    columns: int  #: keys of a tile
    tail: int = 16  #: size of the smaller tiles that take what is left over
    windows: int = 1  #: batch elements of one head that share a tile, for short sequences
    warps: int = 4  #: of a program
    stages: int = 2  #: of the software pipeline


def head_parts(head: int) -> tuple[int, int]:
    """Split a head size into two powers of two that cover it, the second 0 if the first does: 88 to (64, 32)."""
    first = max(16, 1 << (head.bit_length() - 1))
    rest = head - first
    return first, 0 if rest <= 0 else max(16, power_of_two(rest))


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is not smaller."""
    return 1 << max(0, number - 1).bit_length()


def is_short(tokens: int, head: int, element_size: int) -> bool:
    """Whether one tile holds a sequence; only half the size fits in registers for the largest heads, and for fp32."""
    return tokens <= (SHORT if element_size == 2 and head <= 96 else SHORT // 2)


def window_tiles(tokens: int, head: int, element_size: int) -> Tiles:
    """Tiles that hold as many whole windows of ``tokens`` rows as fit."""
    widest = SHORT if is_short(SHORT, head, element_size) else SHORT // 2
    windows = max(1, widest // tokens)
    rows = max(16, power_of_two(windows * tokens))
    warps = 4 if rows == SHORT or (element_size == 4 and head <= 64) else 8 if element_size == 4 else 2
    return Tiles(rows, rows, windows=windows, warps=warps, stages=1)


def long_tiles(queries: int, keys: int, head: int, element_size: int) -> Tiles:
    """Tiles for longer sequences."""
    if element_size == 4:
        rows, columns, warps, stages = 16 if head > 96 else 32, 32, 8 if head > 64 else 4, 1
    elif queries <= 32:
        rows, columns, warps, stages = max(16, power_of_two(queries)), 64, 2 if queries > 16 else 1, 2
    elif queries <= 384:
        rows, columns, warps, stages = 64, 64, 4, 3
    else:
        rows, columns, warps, stages = 128, 64, 8, 3
    tail = min(columns, max(16, power_of_two(keys % columns)))
    return Tiles(rows, columns, tail, warps=warps, stages=stages)
