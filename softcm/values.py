"""Rules about the values of tensors, where Python looks at them: in the reference backend.

The kernels look at the same where they read them, and say the same.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .inputs import (
    LOGITS_HINT,
    SWAPPED_HINT,
    Batch,
    accumulation_dtype,
    class_indices,
    is_transformed,
    number_of_classes,
)


def check_threshold(threshold: Tensor, hint: str = "") -> None:
    raise_unless(
        (threshold > 0) & (threshold < 1),
        lambda: f"threshold must lie in (0, 1), got {_range(threshold)}{hint}",
    )


def check_probabilities(x: Tensor) -> None:
    """They may be NaN, which then reaches the loss."""
    good = ~((x < 0) | (x > 1))
    raise_unless(good, lambda: f"input must lie in [0, 1], got {_range(x)}{LOGITS_HINT}")


def check_labels(x: Tensor, hint: Callable[[], str]) -> None:
    if x.dtype == torch.bool:
        return
    good = (x >= 0) & (x <= 1)
    raise_unless(good, lambda: f"target must lie in [0, 1], got {_range(x)}{hint()}")


def check_weight(name: str, x: Tensor) -> None:
    good = (x >= 0) & (x < math.inf)
    raise_unless(good, lambda: f"{name} must be finite and >= 0, got {_range(x)}")


def raise_unless(good: Tensor, message: Callable[[], str]) -> None:
    """ValueError where values can be looked at without waiting, elsewhere an assert there."""
    compiling = torch.compiler.is_compiling()
    if is_transformed() and not compiling:
        good = plain(good)
    if good.device.type != "cpu" or compiling:
        torch._assert_async(good.all(), "a value is out of range: run on the CPU to see which")
    elif not good.all():
        raise ValueError(message())


def plain(x: Tensor) -> Tensor:
    """The tensor beneath the wrappers of torch.func, with the values of every sample of a vmap."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def target_hint(batch: Batch) -> str:
    """Where labels out of range most often come from, for the end of a message."""
    input, target = plain(batch.input), plain(batch.target)
    ignore_index = batch.ignore_index
    if bool(target.isnan().any()) and not batch.ignore_nan:
        return '; pass ignore_index=float("nan") if NaN marks labels that are missing'
    whole = bool((target == target.round()).all()) if target.is_floating_point() else True
    if not whole:
        return SWAPPED_HINT if bool(((input == 0) | (input == 1)).all()) else ""
    found = target.unique().tolist()
    found = [int(value) for value in found if value != ignore_index and abs(value) < math.inf]
    indices = class_indices(input, target)
    classes = number_of_classes(input) if indices else 2
    wrong = [value for value in found if not 0 <= value < classes]
    if indices and (min(found), max(found)) == (1, classes):
        return "; class indices count from 0: pass target - 1"
    if not indices and len(found) == 2 and wrong:
        low, high = found
        if low == 0 or (low, high) in ((-1, 1), (1, 2)):
            return f"; for labels {low} and {high} pass target == {high}"
    if len(wrong) == 1 and (wrong[0] < 0 or wrong[0] == 255):
        return f"; pass ignore_index={wrong[0]} if it marks samples to leave out"
    if not indices and wrong:
        return "; class indices need an input (N, C) or (N, C, *) with a score for each class"
    return ""


def class_index_message(index: Any, classes: int) -> str:
    return f"target must hold class indices in 0 ... {classes - 1} or ignore_index, got {index}"


def _range(x: Tensor) -> str:
    x = plain(x)
    numbers = x[~x.isnan()]
    if numbers.numel() == 0:
        return "NaN"
    if numbers.numel() == x.numel() and bool((numbers == numbers[0]).all()):
        return _shortest(numbers[0])
    more = " and NaN" if numbers.numel() < x.numel() else ""
    return f"values in [{_shortest(numbers.min())}, {_shortest(numbers.max())}]{more}"


def _shortest(x: Tensor) -> str:
    """The shortest text that tells a number from its neighbours in its own dtype."""
    is_float32 = accumulation_dtype(x.dtype) == torch.float32 and x.is_floating_point()
    return str(np.float32(x.item()) if is_float32 else x.item())
