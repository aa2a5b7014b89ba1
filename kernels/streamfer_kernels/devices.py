"""Launches go to the device of their tensors, not to whichever is current: Triton itself asks only the latter."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import torch

Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def on_device_of_first(
    launch: Callable[Concatenate[torch.Tensor, Rest], Result],
) -> Callable[Concatenate[torch.Tensor, Rest], Result]:
    """Make the first argument's CUDA device current during a call; nothing changes for CPU tensors."""

    @functools.wraps(launch)
    def guarded(first: torch.Tensor, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        with torch.cuda.device_of(first):
            return launch(first, *args, **kwargs)

    return guarded
