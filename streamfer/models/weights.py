"""streamfer's weights files: safetensors whose metadata carries the model's card.

Tensors ``image_encoder.*``, ``temporal_net.*``, ``text_features`` (C, D) and, where the card names action
units, ``action_head.*``; fp16 on disk is welcome, in memory everything is fp32 until a precision is chosen.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

from streamfer.errors import CheckpointError
from streamfer.files import replacing
from streamfer.models.card import METADATA_KEY, ModelCard, read_card
from streamfer.models.dfer_clip import DferClip

#: Under this name the card in a file has the checksum of the file's numbers; files written before have none.
CHECKSUM_KEY = "crc32"


class _Unfilled(TorchFunctionMode):
    """Leaves the numbers of new weights alone: torch draws them even where there is no memory to hold them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Build modules without memory and without drawing their first weights, for those that will be read from a file.

    Drawing them on the meta device would import torch's compiler and sympy, which takes longer than everything else.
    """
    with torch.device("meta"), _Unfilled():
        yield


def check_tensors(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], where: str) -> None:
    """Compare names, shapes and kinds; a CheckpointError names the first that is missing, different or too many."""
    for name, tensor in expected.items():
        if name not in found:
            missing = len(expected.keys() - found.keys())
            raise CheckpointError(f"{where}: tensor {name!r} is missing ({missing} missing in all)")
        if found[name].shape != tensor.shape:
            raise CheckpointError(
                f"{where}: tensor {name!r} has shape {tuple(found[name].shape)}; expected {tuple(tensor.shape)}"
            )
        if found[name].is_floating_point() != tensor.is_floating_point():
            raise CheckpointError(f"{where}: tensor {name!r} is {found[name].dtype}; expected {tensor.dtype}")
    if extra := sorted(found.keys() - expected.keys()):
        raise CheckpointError(f"{where}: tensor {extra[0]!r} is not part of the model ({len(extra)} in all)")


def check_finite(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse numbers that are none: a CheckpointError names the first tensor that holds one."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{where}: tensor {name!r} holds values that are not finite; get it again")


def checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the CRC-32 of all numbers in the order of their tensors' names: safetensors keeps none."""
    found = 0
    for _, tensor in sorted(tensors.items()):
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def write_weights(path: Path, model: DferClip, card: ModelCard, *, half: bool = False) -> None:
    """Write a weights file, whole or not at all; the model's prompts, if any, are baked into ``text_features``.

    With ``half`` fp16 is stored (half the bytes; weights then agree to about 5e-4 relative).

    Raises:
        CheckpointError: the card describes another model.
        OutputError: the file cannot be written.
    """
    if model.config != card.config:
        raise CheckpointError(f"{path}: the card describes another model than the one to be written")
    baked = model if model.text_features is not None else model.bake()
    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in baked.state_dict().items()
    }
    with replacing(path) as temporary:
        # One entry: safetensors writes several in an order of chance.
        document = json.loads(card.to_json()) | {CHECKSUM_KEY: checksum(tensors)}
        text = json.dumps(document, ensure_ascii=False, sort_keys=True)
        save_file(tensors, temporary, metadata={METADATA_KEY: text})


def read_weights(path: Path) -> tuple[DferClip, ModelCard]:
    """Read a weights file into a model on the CPU, fp32, in evaluation mode.

    Raises:
        CheckpointError: not a weights file of streamfer, damaged, or tensors that do not fit the card.
    """
    card = read_card(path)
    with unfilled():
        model = DferClip(card.config)
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - no dictionary
            stated = json.loads(stream.metadata()[METADATA_KEY]).get(CHECKSUM_KEY)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged safetensors file ({error}); get it again") from error
    check_tensors(model.state_dict(), tensors, str(path))
    check_finite(tensors, str(path))
    if stated is not None and stated != checksum(tensors):
        raise CheckpointError(f"{path}: its numbers are not those that were written; copy, export or import it again")
    model.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()},
        assign=True,
    )
    return model.requires_grad_(False).eval(), card
