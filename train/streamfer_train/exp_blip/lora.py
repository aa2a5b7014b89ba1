"""Low-rank updates by peft, put into encoder and language model, and merged into their weights at the end."""

from __future__ import annotations

from typing import Any

from torch import nn

from streamfer.errors import ConfigError
from streamfer.extras import needs
from streamfer_train.exp_blip.config import LoraConfig

#: Layers by the end of their names: of the image encoder, and of OPT and LLaMA.
VISION = ("self_attn.qkv", "self_attn.projection", "mlp.fc1", "mlp.fc2")
LANGUAGE = ("self_attn.q_proj", "self_attn.v_proj")


def attach(model: Any, config: LoraConfig, *, language: bool) -> None:
    """Put updates into a model's image encoder and (``language``) language model, in place; rank 0 does nothing.

    Raises:
        ConfigError: peft is not installed, or a part has none of the layers.
    """
    if not config.rank:
        return
    if config.vision:
        _attach(model.vision_model, config, VISION)
    if config.language and language:
        _attach(model.language_model, config, LANGUAGE)


def _attach(part: nn.Module, config: LoraConfig, ends: tuple[str, ...]) -> None:
    with needs("train", "model.lora"):
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
    asked = PeftConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(ends))
    try:
        inject_adapter_in_model(asked, part)
    except ValueError as error:
        raise ConfigError(f"model.lora: {type(part).__name__} has none of the layers {', '.join(ends)}") from error


def merge(model: nn.Module) -> None:
    """Add the updates to the weights that they sit on, and put the plain layers back, in place."""
    for name, module in list(model.named_modules()):
        # peft's layers keep the plain one inside.
        if hasattr(module, "lora_A") and hasattr(module, "get_base_layer"):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
