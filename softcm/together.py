"""A loss and its gradient by one call of the kernels, for loops that need no autograd graph."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import inputs
from .autograd import together


def value_and_grad(loss: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """A function that returns what ``loss`` returns, and its gradient in ``input``.

    The same as ``loss`` followed by ``backward``, as in::

        step = softcm.value_and_grad(softcm.F1Loss(from_logits=True))
        value, grad = step(logits, target)
        logits.backward(grad)  # on into the model, if there is one

    For every loss but ``confusion_loss`` with a callable, one call of the kernels writes both, and
    nothing is multiplied by an upstream gradient; on a GPU it is a single launch for up to 4,096
    samples at few thresholds. Other losses take autograd's way. :func:`torch.func.grad_and_value`
    gives the same by the reference.

    Args:
        loss: any loss of softcm, functional or module, or a function made of them, that takes
            ``input`` as its first argument.

    Returns:
        A function with the arguments of ``loss`` that returns the loss, without a graph, and the
        gradient, in the shape and dtype of ``input``; with ``average="none"`` that of the sum.
        Every class has its own loss and its own input, so that it is each class's gradient.
        Thresholds receive no gradient. Compiled code calls it uncompiled.

    Raises:
        TypeError: ``loss`` is no callable, or a class; or as it does itself.
        ValueError: ``loss`` returns something that does not depend on ``input``; or as it does
            itself.
        RuntimeError: as ``loss`` does. With a ``process_group`` the gradient is the process's share
            times their number, as there.
    """
    if not callable(loss) or isinstance(loss, type):
        raise TypeError(
            "loss must be a callable such as softcm.f1_loss or softcm.F1Loss(), "
            f"got {inputs.describe(loss)}"
        )

    def value_and_grad_of_loss(input: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        inputs.check_input(input, args[0] if args else options.get("target"))
        leaf = input.detach().requires_grad_()
        together.asked = True
        try:
            with torch.enable_grad():
                value = loss(leaf, *args, **options)
            of_input, of_loss, grad = together.input, together.loss, together.grad
        finally:
            together.__dict__.clear()
        if not isinstance(value, Tensor) or not value.requires_grad:
            grad = None
        elif grad is None or of_input is None or of_loss is not value:
            (grad,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
        elif of_input is not leaf:  # logits of a softmax, or a function of the caller's
            (grad,) = torch.autograd.grad(of_input, leaf, grad, allow_unused=True)
        if grad is None:
            raise ValueError(
                "loss must return a tensor that depends on its first argument, "
                f"got {inputs.describe(value)}"
            )
        return value.detach(), grad

    return value_and_grad_of_loss
