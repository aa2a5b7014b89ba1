"""Triton kernels for the many short sequences of a video pipeline; depends on torch and triton alone.

Attention on short sequences, the label head of DFER-CLIP, face crops from decoded frames, and the steps between
matrix products. Each function falls back to PyTorch's own where Triton cannot run or is not known to be faster;
see :func:`choice` and :func:`use`.
"""

from streamfer_kernels.attention import attention, attention_packed, supports_head
from streamfer_kernels.backend import Backend, Choice, Measurement, Mode, backend_report, choice, mode, use
from streamfer_kernels.crops import crop_faces
from streamfer_kernels.label_head import CapturedLabelHead, LabelHead
from streamfer_kernels.pointwise import gelu_tanh, quick_gelu, residual_layer_norm
from streamfer_kernels.temporal import BlockWeights, temporal_block

__all__ = [
    "Backend",
    "BlockWeights",
    "CapturedLabelHead",
    "Choice",
    "LabelHead",
    "Measurement",
    "Mode",
    "attention",
    "attention_packed",
    "backend_report",
    "choice",
    "crop_faces",
    "gelu_tanh",
    "mode",
    "quick_gelu",
    "residual_layer_norm",
    "supports_head",
    "temporal_block",
    "use",
]
