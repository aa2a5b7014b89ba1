"""Writes checkpoints in the authors' layout and computes their logits in plain torch, without streamfer."""

from __future__ import annotations

import math
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SOT, EOT, PLACEHOLDER, VOCABULARY = 49406, 49407, 343, 49408

# Our own sentences, made of the cues that the descriptions of the authors are known to use.
DESCRIPTIONS = (
    "a smiling mouth, raised cheeks, wrinkled eyes, arched eyebrows.",
    "tears, a down-turned mouth, drooping upper eyelids, a wrinkled forehead.",
    "relaxed facial muscles, a straight mouth, a smooth forehead, unremarkable eyebrows.",
    "furrowed eyebrows, narrow eyes, tight lips, flared nostrils.",
    "widened eyes, an open mouth, raised eyebrows, a frozen look.",
    "a wrinkled nose, lowered eyebrows, a tight mouth, narrow eyes.",
    "raised eyebrows, parted lips, a furrowed brow, a retracted chin.",
    "one side of the mouth raised, asymmetric brows, narrowed eyes, raised chin.",
    "a tense forehead, pressed lips, pupil dilation, tense face.",
    "drooping brows, downward gaze, a down-turned mouth, no expression.",
    "a down-turned mouth, lowered brows, narrowed eyes, a sighing face.",
)


@dataclass(frozen=True)
class Sizes:
    classes: int = 7
    contexts: int = 8
    class_specific: bool = True
    position: str = "end"
    embed: int = 24
    vision_width: int = 48
    vision_layers: int = 2
    vision_heads: int = 1
    patch: int = 8
    image: int = 32
    text_width: int = 32
    text_layers: int = 2
    text_heads: int = 1
    context_length: int = 77
    temporal_layers: int = 1
    temporal_heads: int = 2
    dim_head: int = 64
    mlp: int = 40
    frames: int = 5


FULL = Sizes(
    embed=512,
    vision_width=768,
    vision_layers=12,
    vision_heads=12,
    patch=32,
    image=224,
    text_width=512,
    text_layers=12,
    text_heads=8,
    temporal_heads=8,
    mlp=1024,
    frames=16,
)


def token_ids(sizes: Sizes) -> torch.Tensor:
    """Tokenised prompts, by open_clip's tokenizer: the one thing the reference does not rebuild."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    ids = torch.zeros(sizes.classes, sizes.context_length, dtype=torch.int64)
    for row, text in enumerate(DESCRIPTIONS[: sizes.classes]):
        full = [SOT, *[PLACEHOLDER] * sizes.contexts, *tokenizer.encode(text), EOT]
        ids[row, : len(full)] = torch.tensor(full)
    return ids


def _blocks(prefix: str, layers: int, width: int) -> dict[str, torch.Tensor]:
    shapes = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
        "mlp.c_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
    }
    return {
        f"{prefix}transformer.resblocks.{layer}.{name}": _random(name, shape)
        for layer in range(layers)
        for name, shape in shapes.items()
    }


def _random(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if "ln_" in name or "norm" in name:
        return 0.1 * torch.randn(shape) + (1.0 if name.endswith("weight") else 0.0)
    return torch.randn(shape) / math.sqrt(shape[-1]) if len(shape) > 1 else 0.1 * torch.randn(shape)


def make_state(sizes: Sizes, seed: int = 0) -> dict[str, torch.Tensor]:
    """The state dictionary, its second copy of CLIP sharing storages as in the authors' files."""
    torch.manual_seed(seed)
    wide, narrow, dim = sizes.vision_width, sizes.text_width, sizes.embed
    visual = {
        "class_embedding": torch.randn(wide),
        "positional_embedding": torch.randn((sizes.image // sizes.patch) ** 2 + 1, wide),
        "proj": torch.randn(wide, dim) / math.sqrt(wide),
        "conv1.weight": torch.randn(wide, 3, sizes.patch, sizes.patch) / sizes.patch,
        "ln_pre.weight": _random("ln_pre.weight", (wide,)),
        "ln_pre.bias": _random("ln_pre.bias", (wide,)),
        **_blocks("", sizes.vision_layers, wide),
        "ln_post.weight": _random("ln_post.weight", (wide,)),
        "ln_post.bias": _random("ln_post.bias", (wide,)),
    }
    text = {
        "positional_embedding": torch.randn(sizes.context_length, narrow),
        "text_projection": torch.randn(narrow, dim) / math.sqrt(narrow),
        **_blocks("", sizes.text_layers, narrow),
        "ln_final.weight": _random("ln_final.weight", (narrow,)),
        "ln_final.bias": _random("ln_final.bias", (narrow,)),
    }
    table = 0.5 * torch.randn(VOCABULARY, narrow)
    embedded = table[token_ids(sizes)]
    context = (sizes.classes,) if sizes.class_specific else ()
    return {
        "prompt_learner.ctx": 0.5 * torch.randn(*context, sizes.contexts, narrow),
        "prompt_learner.token_prefix": embedded[:, :1].clone(),
        "prompt_learner.token_suffix": embedded[:, 1 + sizes.contexts :].clone(),
        **{f"text_encoder.{name}": tensor for name, tensor in text.items()},
        **{f"image_encoder.{name}": tensor for name, tensor in visual.items()},
        **_temporal(sizes),
        **{f"clip_model_.{name}": tensor for name, tensor in text.items()},
        **{f"clip_model_.visual.{name}": tensor for name, tensor in visual.items()},
        "clip_model_.token_embedding.weight": table,
        "clip_model_.logit_scale": torch.tensor(4.6052),
    }


def _temporal(sizes: Sizes) -> dict[str, torch.Tensor]:
    dim, inner = sizes.embed, sizes.temporal_heads * sizes.dim_head
    state = {
        "temporal_net.cls_token": torch.randn(1, 1, dim),
        "temporal_net.pos_embedding": torch.randn(1, sizes.frames + 1, dim),
    }
    shapes = {
        "0.fn.norm.weight": (dim,),
        "0.fn.norm.bias": (dim,),
        "0.fn.fn.to_qkv.weight": (3 * inner, dim),
        "0.fn.fn.to_out.0.weight": (dim, inner),
        "0.fn.fn.to_out.0.bias": (dim,),
        "1.fn.norm.weight": (dim,),
        "1.fn.norm.bias": (dim,),
        "1.fn.fn.net.0.weight": (sizes.mlp, dim),
        "1.fn.fn.net.0.bias": (sizes.mlp,),
        "1.fn.fn.net.3.weight": (dim, sizes.mlp),
        "1.fn.fn.net.3.bias": (dim,),
    }
    for layer in range(sizes.temporal_layers):
        for name, shape in shapes.items():
            state[f"temporal_net.temporal_transformer.layers.{layer}.{name}"] = _random(name, shape)
    return state


def write_checkpoint(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Save as the authors' training loop does, with an instance of ``__main__.RecorderMeter``."""
    import numpy as np

    class RecorderMeter:
        def __init__(self) -> None:
            self.total_epoch = 50
            self.epoch_losses = np.zeros((50, 2), dtype=np.float32)
            self.best = np.float64(71.0)

    RecorderMeter.__module__, RecorderMeter.__qualname__ = "__main__", "RecorderMeter"
    main = sys.modules["__main__"]
    assert isinstance(main, types.ModuleType)
    vars(main)["RecorderMeter"] = RecorderMeter
    parameter = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones(3)
    optimizer.step()
    wrapped: dict[str, Any] = {
        "epoch": 50,
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "best_acc": torch.tensor(71.25),
        "optimizer": optimizer.state_dict(),
        "recorder": RecorderMeter(),
    }
    try:
        torch.save(wrapped, path)
    finally:
        del vars(main)["RecorderMeter"]


# -- the published computation, in plain torch ----------------------------------------------------------------


def _norm(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]


def _attend(qkv: torch.Tensor, heads: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    items, tokens, triple = qkv.shape
    inner = triple // 3
    q, k, v = (part.reshape(items, tokens, heads, -1).permute(0, 2, 1, 3) for part in qkv.split(inner, dim=-1))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * (inner // heads) ** -0.5
    if mask is not None:
        scores = scores + mask
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("bhij,bhjd->bhid", weights, v).permute(0, 2, 1, 3).reshape(items, tokens, inner)


def _clip_blocks(
    x: torch.Tensor, state: dict[str, torch.Tensor], prefix: str, layers: int, heads: int, mask: torch.Tensor | None
) -> torch.Tensor:
    for layer in range(layers):
        at = f"{prefix}transformer.resblocks.{layer}."
        y = _norm(x, state, f"{at}ln_1") @ state[f"{at}attn.in_proj_weight"].T + state[f"{at}attn.in_proj_bias"]
        x = x + _attend(y, heads, mask) @ state[f"{at}attn.out_proj.weight"].T + state[f"{at}attn.out_proj.bias"]
        y = _norm(x, state, f"{at}ln_2") @ state[f"{at}mlp.c_fc.weight"].T + state[f"{at}mlp.c_fc.bias"]
        y = y / (1 + torch.exp(-1.702 * y))
        x = x + y @ state[f"{at}mlp.c_proj.weight"].T + state[f"{at}mlp.c_proj.bias"]
    return x


def reference_features(state: dict[str, torch.Tensor], sizes: Sizes, pixels: torch.Tensor) -> torch.Tensor:
    """Frame features (F, D) of pixels (F, 3, S, S)."""
    frames, grid, patch = len(pixels), sizes.image // sizes.patch, sizes.patch
    patches = pixels.reshape(frames, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
    x = patches.reshape(frames, grid * grid, -1) @ state["image_encoder.conv1.weight"].flatten(1).T
    x = torch.cat([state["image_encoder.class_embedding"].expand(frames, 1, -1), x], dim=1)
    x = _norm(x + state["image_encoder.positional_embedding"], state, "image_encoder.ln_pre")
    x = _clip_blocks(x, state, "image_encoder.", sizes.vision_layers, sizes.vision_heads, None)
    return _norm(x[:, 0], state, "image_encoder.ln_post") @ state["image_encoder.proj"]


def reference_text(state: dict[str, torch.Tensor], sizes: Sizes) -> torch.Tensor:
    """Class features (C, D), not normalised."""
    ids = token_ids(sizes)
    ends = (ids == EOT).int().argmax(dim=1)
    prompts = []
    for row in range(sizes.classes):
        context = state["prompt_learner.ctx"]
        context = context[row] if sizes.class_specific else context
        prefix, suffix = state["prompt_learner.token_prefix"][row], state["prompt_learner.token_suffix"][row]
        length = int(ends[row]) - 1 - sizes.contexts
        split = {"end": sizes.contexts, "middle": sizes.contexts // 2, "front": 0}[sizes.position]
        words, rest = suffix[:length], suffix[length:]
        prompts.append(torch.cat([prefix, context[:split], words, context[split:], rest]))
    x = torch.stack(prompts) + state["text_encoder.positional_embedding"]
    length = sizes.context_length
    mask = torch.zeros(length, length).masked_fill(torch.ones(length, length).triu(1).bool(), -1e30)
    x = _clip_blocks(x, state, "text_encoder.", sizes.text_layers, sizes.text_heads, mask)
    x = _norm(x, state, "text_encoder.ln_final")
    return x[torch.arange(sizes.classes), ends] @ state["text_encoder.text_projection"]


def reference_logits(state: dict[str, torch.Tensor], sizes: Sizes, pixels: torch.Tensor) -> torch.Tensor:
    """Logits (B, C) of clips (B, T, 3, S, S)."""
    clips, frames = pixels.shape[:2]
    x = reference_features(state, sizes, pixels.flatten(0, 1)).reshape(clips, frames, -1)
    x = torch.cat([state["temporal_net.cls_token"].expand(clips, 1, -1), x], 1) + state["temporal_net.pos_embedding"]
    for layer in range(sizes.temporal_layers):
        at = f"temporal_net.temporal_transformer.layers.{layer}."
        y = _attend(_norm(x, state, f"{at}0.fn.norm") @ state[f"{at}0.fn.fn.to_qkv.weight"].T, sizes.temporal_heads)
        x = x + y @ state[f"{at}0.fn.fn.to_out.0.weight"].T + state[f"{at}0.fn.fn.to_out.0.bias"]
        y = _norm(x, state, f"{at}1.fn.norm") @ state[f"{at}1.fn.fn.net.0.weight"].T
        y = y + state[f"{at}1.fn.fn.net.0.bias"]
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + y @ state[f"{at}1.fn.fn.net.3.weight"].T + state[f"{at}1.fn.fn.net.3.bias"]
    video, text = x[:, 0], reference_text(state, sizes)
    video = video / video.norm(dim=-1, keepdim=True)
    text = text / text.norm(dim=-1, keepdim=True)
    logits: torch.Tensor = video @ text.T / 0.01
    return logits
