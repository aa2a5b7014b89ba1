"""Stand-ins on a machine with torch alone: for what a step of training does not use, and for open_clip's ViT."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

#: What a step of training imports and does not use.
UNUSED = (
    "PIL",
    "av",
    "cv2",
    "rich",
    "safetensors",
    "yaml",
    "huggingface_hub",
    "skimage",
    "httpx2",
    "typer",
    "platformdirs",
    "jsonschema",
)


class _Anything(type):
    """A class that has every attribute, for modules that are not installed."""

    def __getattr__(cls, name: str) -> Any:
        return _Anything(name, (Exception,), {})


def _anything(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything(name, (Exception,), {})


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets modules be imported that are not installed; using them fails."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Take over what is named in UNUSED and is absent."""
        del path, target
        return (
            importlib.machinery.ModuleSpec(name, self, is_package=True)
            if name.split(".", maxsplit=1)[0] in UNUSED
            else None
        )

    def exec_module(self, module: types.ModuleType) -> None:
        """Give the module every attribute."""
        module.__dict__["__version__"] = "99.0"
        module.__dict__["__getattr__"] = _anything


class _LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(x.dtype)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.ln_1, self.attn = _LayerNorm(width), nn.MultiheadAttention(width, heads, batch_first=True)
        layers = [("c_fc", nn.Linear(width, hidden)), ("gelu", act()), ("c_proj", nn.Linear(hidden, width))]
        self.ln_2, self.mlp = _LayerNorm(width), nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        y = self.ln_1(x)
        x = (
            x
            + self.attn(y, y, y, need_weights=False, attn_mask=None if attn_mask is None else attn_mask.to(y.dtype))[0]
        )
        return cast(Tensor, x + self.mlp(self.ln_2(x)))


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, mlp_ratio: float, act_layer: Any, norm_layer: Any) -> None:
        del norm_layer
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.resblocks = nn.ModuleList(_Block(width, heads, hidden, act_layer) for _ in range(layers))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, attn_mask)
        return x


class PlainVisionTransformer(nn.Module):
    def __init__(self, image_size: int, patch_size: int, width: int, layers: int, heads: int, mlp_ratio: float,
                 output_dim: int, act_layer: Any, norm_layer: Any) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        scale, places = width**-0.5, (image_size // patch_size) ** 2 + 1
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(places, width))
        self.ln_pre, self.ln_post = _LayerNorm(width), _LayerNorm(width)
        self.transformer = _Transformer(width, layers, heads, mlp_ratio, act_layer, norm_layer)
        self.proj = nn.Parameter(scale * torch.randn(width, output_dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        own = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([own, x], dim=1) + self.positional_embedding.to(x.dtype))
        return cast(Tensor, self.ln_post(self.transformer(x)[:, 0]) @ self.proj)


class _Words:
    sot_token_id, eot_token_id = 49406, 49407

    def encode(self, text: str) -> list[int]:
        """Return a number for each word."""
        return [1000 + sum(map(ord, word)) % 40_000 for word in text.split()]


def stand_in() -> None:
    """Put the modules above where open_clip's would be."""
    sys.meta_path.append(_Absent())
    found = {"lazy_loader": {"attach_stub": lambda *_, **__: (None, list, [])},
        "open_clip": {}, "open_clip.tokenizer": {"SimpleTokenizer": _Words}, "open_clip.transformer": {
        "LayerNorm": _LayerNorm, "QuickGELU": QuickGELU, "Transformer": _Transformer,
        "VisionTransformer": PlainVisionTransformer}}  # fmt: skip
    for name, contents in found.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(contents)
