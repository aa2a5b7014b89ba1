"""Triton attention for the many short sequences of a video pipeline; depends on torch and triton alone.

Each function falls back to PyTorch's own where Triton cannot run or was not asked for; see :func:`use` and
:func:`backend_report`. Triton itself is imported at the first launch.
"""

from streamfer_kernels.attention import attention, attention_packed, supports_head
from streamfer_kernels.backend import Backend, Mode, backend_report, use
from streamfer_kernels.trial import Shape, preflight, self_test, source_digest

__all__ = [
    "Backend",
    "Mode",
    "Shape",
    "attention",
    "attention_packed",
    "backend_report",
    "preflight",
    "self_test",
    "source_digest",
    "supports_head",
    "use",
]
