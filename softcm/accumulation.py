"""Gradient accumulation in which the loss is that of the whole batch."""

import torch
from torch import Tensor

from . import distributed, inputs
from .modules import Loss


class GradientAccumulation:
    """A batch in micro-batches, with the loss and the gradient of the batch as a whole.

    The loss of a batch is not the mean of those of its parts, but it depends on them through their
    counts alone. So a step takes two passes: the first, without gradients, adds up the counts; the
    second has the gradients of the micro-batches, one after the other, at the counts of the batch::

        accumulation = softcm.GradientAccumulation(loss)
        with torch.no_grad():
            for x, y in micro_batches:
                accumulation.count(model(x), y)
        for x, y in micro_batches:
            accumulation.loss(model(x), y).backward()
        optimizer.step()

    That is exact if the model returns the same in both passes. A model with dropout does so under
    :func:`torch.random.fork_rng` around the first pass and the same order in the second. Batch
    normalisation sees micro-batches, not the batch, and updates its running means in both passes.

    If ``loss`` has a ``process_group``, the batch is that of all its processes. Each may have a
    number of micro-batches of its own, but at least one, which may be empty. The first call of
    :meth:`loss` sums the counts over the processes. Under DistributedDataParallel every backward
    pass but the last belongs into ``no_sync()``.

    An object serves one batch: make a new one for each step. It keeps 4 C T + 4 C numbers.

    Args:
        loss: a loss module of softcm, with any options.

    Raises:
        TypeError: ``loss`` is something else.
    """

    def __init__(self, loss: Loss) -> None:
        if not isinstance(loss, Loss):
            raise TypeError(
                "loss must be a loss module of softcm, such as softcm.F1Loss(), "
                f"got {inputs.describe(loss)}"
            )
        self._loss = loss
        self._counting = _Counting()
        self._sharing: _Sharing | None = None

    @torch.no_grad()
    def count(self, input: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Add a micro-batch to the counts; the first pass, arguments as those of the module.

        Raises:
            TypeError, ValueError, RuntimeError: as the loss does. A micro-batch may be empty.
            RuntimeError: after the first call of :meth:`loss`.
        """
        if self._sharing is not None:
            raise RuntimeError(
                "count was called after loss; make a GradientAccumulation for each batch"
            )
        self._loss.evaluate(input, target, weight, self._counting)

    def loss(self, input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss of the whole batch, with the micro-batch's share of its gradient.

        The second pass: every micro-batch of the first once, in any order.

        Raises:
            TypeError, ValueError, RuntimeError: as the loss does.
            RuntimeError: before the first call of :meth:`count`.
        """
        if self._sharing is None:
            if self._counting.sums is None:
                raise RuntimeError("loss was called before count, which takes the first pass")
            self._sharing = _Sharing(self._counting.sums, self._loss.options["process_group"])
        return self._loss.evaluate(input, target, weight, self._sharing)


class _Counting(distributed.Collector):
    """Adds up parts; each is given the sums so far."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def whole(self, part: Tensor) -> Tensor:
        if self.sums is not None:
            _check_part(part, self.sums)
        self.sums = part if self.sums is None else self.sums + part
        return self.sums


class _Sharing(distributed.Collector):
    """Gives to each part the sums of all."""

    def __init__(self, sums: Tensor, process_group: distributed.Group) -> None:
        self.sums = distributed.all_sums(sums, process_group)
        self.factor = distributed.gradient_factor(process_group)

    def whole(self, part: Tensor) -> Tensor:
        _check_part(part, self.sums)
        return distributed.in_place_of_part(part, self.sums, self.factor)


def _check_part(part: Tensor, sums: Tensor) -> None:
    if part.shape != sums.shape or part.device != sums.device:
        raise ValueError(
            "input and threshold must have the classes, thresholds and device of the first "
            f"micro-batch: its sums have shape {tuple(sums.shape)} on {sums.device}, those of this "
            f"one {tuple(part.shape)} on {part.device}"
        )
