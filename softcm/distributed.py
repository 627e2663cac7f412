"""Sums of a whole batch of which a process, or a pass of gradient accumulation, holds a part."""

from typing import TYPE_CHECKING, Any, Union

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import inputs
from .reference import Counts

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Group = Union["ProcessGroup", None]
Parts = Union["ProcessGroup", "Collector", None]


class Collector:
    """Stands for a process group where the parts of a batch come one after the other."""

    def whole(self, part: Tensor) -> Tensor:
        """The sums of the whole batch from those of a part."""
        raise NotImplementedError


def check_process_group(process_group: Any) -> None:
    if process_group is None:
        return
    if inputs.is_transformed():
        raise RuntimeError(
            "process_group and GradientAccumulation cannot serve under a transform of torch.func "
            "(grad, vmap, ...)"
        )
    if isinstance(process_group, Collector):
        return
    if not dist.is_available():
        raise RuntimeError(
            "process_group was given, but this build of PyTorch has no torch.distributed; "
            "pass None for the local batch alone"
        )
    if process_group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("process_group must be a group to which this process belongs")
    if not isinstance(process_group, dist.ProcessGroup):
        raise TypeError(
            "process_group must be None or a torch.distributed.ProcessGroup, such as "
            f"torch.distributed.group.WORLD, got {inputs.describe(process_group)}"
        )
    if not dist.is_initialized():
        raise RuntimeError(
            "process_group was given, but torch.distributed is not initialized; call "
            "torch.distributed.init_process_group first"
        )


def whole_batch(counts: Counts, parts: Parts) -> Counts:
    """The counts of the batch of which these are a part, by one sum of 4 C T + 4 C numbers."""
    if parts is None:
        return counts
    sums = torch.cat(
        (counts.counts.flatten(1), counts.totals, counts.cross_entropy.unsqueeze(1)), dim=1
    )
    of_thresholds, totals, cross_entropy = whole(sums, parts).split(
        (sums.shape[1] - 4, 3, 1), dim=1
    )
    return Counts(
        of_thresholds.reshape(counts.counts.shape), totals.detach(), cross_entropy.squeeze(1)
    )


def whole(sums: Tensor, parts: Parts) -> Tensor:
    """The sums over the batch of which these are the sums over a part."""
    if parts is None:
        return sums
    if isinstance(parts, Collector):
        return parts.whole(sums)
    return in_place_of_part(sums, all_sums(sums, parts), gradient_factor(parts))


def all_sums(sums: Tensor, process_group: Group) -> Tensor:
    """The sums of all processes, without gradients."""
    whole = sums.detach().clone()
    if process_group is not None:
        dist.all_reduce(whole, group=process_group)
    return whole


def gradient_factor(process_group: Group) -> int:
    """The number of processes, by which a local gradient is multiplied.

    Each process has the loss of the whole batch and, by the partials that all of them share, its
    own share of that loss's gradient. DistributedDataParallel and FSDP take the mean over the
    processes where the shares would have to be added.
    """
    return 1 if process_group is None else dist.get_world_size(process_group)


def in_place_of_part(part: Tensor, whole: Tensor, factor: int) -> Tensor:
    """``whole``, with ``factor`` times its gradient going to ``part``."""
    return _InPlaceOfPart.apply(part, whole, factor)


class _InPlaceOfPart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, whole: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return whole.clone()

    # A second derivative would need those of the other parts.
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.factor * grad, None, None
