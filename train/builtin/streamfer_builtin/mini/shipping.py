"""The network that is shipped: both stages joined, grey folded into colour, prompts baked, rounded to float16."""

from __future__ import annotations

import torch
from torch import Tensor

from streamfer.models.dfer_clip import DferClip
from streamfer_builtin.mini.clips import ClipModel
from streamfer_builtin.mini.networks import FIRST_CONVOLUTION, JointModel, shipped_config
from streamfer_builtin.mini.recipe import Sizes

# ITU-R BT.601 luma, which turned the training pictures grey.
LUMA = (0.299, 0.587, 0.114)


def fold_luma(kernel_O1KK: Tensor) -> Tensor:
    """Turn a first convolution (O, 1, k, k) over grey pictures into one (O, 3, k, k) that reads luma from colour.

    A grey picture in three equal channels gives the same output as before, and colour has no effect beyond its
    brightness.
    """
    return kernel_O1KK * torch.tensor(LUMA).view(1, 3, 1, 1)


@torch.no_grad()
def shipped_model(joint: JointModel, clips: ClipModel, sizes: Sizes) -> DferClip:
    """Return the model as its file holds it: float32 tensors with float16 values, in evaluation mode."""
    shipped = DferClip(shipped_config(sizes, clips.temperature))
    weights = {k: v for k, v in joint.state_dict().items() if not k.startswith("expression.")}
    weights[FIRST_CONVOLUTION] = fold_luma(weights[FIRST_CONVOLUTION])
    weights |= {k.removeprefix("dfer."): v for k, v in clips.state_dict().items() if k.startswith("dfer.temporal_net.")}
    weights["text_features"] = clips.dfer.class_features()
    shipped.load_state_dict({k: v.half().float() if v.is_floating_point() else v for k, v in weights.items()})
    shipped.image_encoder.to(memory_format=torch.channels_last)
    return shipped.requires_grad_(False).eval()
