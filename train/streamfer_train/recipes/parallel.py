"""One model in several processes: replicated (DDP) or sharded block by block (FSDP), and its state as plain tensors.

State is gathered under the names that the model has alone, so a checkpoint continues in any number of processes,
sharded or not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict as states

from streamfer.errors import CheckpointError
from streamfer.models.weights import check_tensors
from streamfer_train.recipes.checkpoint import Checkpoint
from streamfer_train.recipes.processes import ProcessGroup

Parallel = Literal["ddp", "fsdp"]

_TRAINED = states.StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
_LOADING = states.StateDictOptions(full_state_dict=True, strict=False)


def spread(learner: nn.Module, world: ProcessGroup, kind: Parallel, *, idle: bool) -> nn.Module:
    """Return what the training calls: the learner itself, a replica, or the learner with its blocks sharded.

    Sharded parameters replace the learner's own, so build the optimiser afterwards.
    """
    if world.size == 1:
        return learner
    if kind == "ddp":
        devices = [world.device] if world.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(learner, device_ids=devices, find_unused_parameters=idle)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    # Autocast computes in bf16; gathered weights and reduced gradients may stay as they are.
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    for block in _blocks(learner):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(learner, mesh=mesh, mp_policy=policy)
    return learner


def _blocks(learner: nn.Module) -> list[nn.Module]:
    """Return the layers of encoder, Q-Former and language model: each a unit of sharding."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in learner.modules() if isinstance(module, GradientCheckpointingLayer)]


def no_sync(parallel: nn.Module, wanted: bool) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which a replica keeps its gradients to itself (all but the last micro-batch)."""
    if wanted and isinstance(parallel, nn.parallel.DistributedDataParallel):
        return parallel.no_sync()
    return contextlib.nullcontext()


def model_state(learner: nn.Module, *, whole: bool) -> dict[str, torch.Tensor]:
    """Return all weights and buffers, or what learns, on the CPU; every process has to call it."""
    if whole:
        return learner.state_dict()
    learned = {name for name, weight in learner.named_parameters() if weight.requires_grad}
    found = cast(dict[str, torch.Tensor], states.get_model_state_dict(learner, options=_TRAINED))
    # Of matrices that a frozen model uses twice, the gatherer keeps the second name.
    return {name: tensor for name, tensor in found.items() if name in learned}


def optimiser_state(learner: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimiser's state by the names of weights; every process has to call it."""
    found: dict[str, Any] = states.get_optimizer_state_dict(learner, optimiser, options=_TRAINED)
    return found


def restore(
    learner: nn.Module, optimiser: torch.optim.Optimizer, found: Checkpoint, where: str, *, whole: bool
) -> None:
    """Load what :func:`model_state` and :func:`optimiser_state` returned, checked by :func:`check_tensors`."""
    if found.optimiser is None or found.scaler is None:
        raise CheckpointError(f"{where}: holds weights only, and training needs its optimiser's state too")
    trained = {name: weight for name, weight in learner.named_parameters() if weight.requires_grad}
    wanted: Mapping[str, torch.Tensor] = learner.state_dict() if whole else trained
    check_tensors(wanted, found.model, where)
    states.set_model_state_dict(learner, cast(dict[str, Any], found.model), options=_LOADING)
    states.set_optimizer_state_dict(learner, optimiser, found.optimiser, options=_LOADING)
