"""The approximations of the Heaviside step that a user can choose, and the elementwise function."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from . import inputs, reference


@dataclass(frozen=True)
class Linear:
    """The piecewise-linear approximation of eq. (5).

    Three segments through (0, 0), (tau - tm/2, delta), (tau, 0.5), (tau + tm/2, 1 - delta) and
    (1, 1), with tm = min(tau, 1 - tau). It reaches 0 and 1 at every threshold. Both breakpoints
    belong to the middle segment.

    Args:
        delta: value at the lower breakpoint, in (0, 0.5).

    Raises:
        TypeError: delta is not a number.
        ValueError: delta is outside (0, 0.5).
    """

    delta: float = 0.1
    kind: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        delta = inputs.check_number("delta", self.delta)
        if not 0.0 < delta < 0.5:
            raise ValueError(f"delta must lie in (0, 0.5), got {self.delta}")
        object.__setattr__(self, "delta", delta)

    @property
    def parameter(self) -> float:
        return self.delta


@dataclass(frozen=True)
class Sigmoid:
    """The sigmoid approximation of Section 4, ``1 / (1 + exp(-k (p - tau)))``.

    Args:
        k: steepness, finite and > 0.

    Raises:
        TypeError: k is not a number.
        ValueError: k is not finite or not positive.
    """

    k: float = 10.0
    kind: ClassVar[str] = "sigmoid"

    def __post_init__(self) -> None:
        k = inputs.check_number("k", self.k)
        if not 0.0 < k < float("inf"):
            raise ValueError(f"k must be finite and > 0, got {self.k}")
        object.__setattr__(self, "k", k)

    @property
    def parameter(self) -> float:
        return self.k


@dataclass(frozen=True)
class Step:
    """The Heaviside step itself, eq. (1): 1 where p >= tau. It has no useful gradient; internal."""

    kind: ClassVar[str] = "step"
    parameter: ClassVar[float] = 0.0


Heaviside = Linear | Sigmoid
DEFAULT = Linear()


def heaviside(
    input: Tensor, threshold: float | Tensor = 0.5, heaviside: Heaviside = DEFAULT
) -> Tensor:
    """Approximate the Heaviside step elementwise (Section 4), differentiable in both tensors.

    Args:
        input: probabilities in [0, 1], any shape; float16, bfloat16, float32 or float64.
        threshold: a number or a tensor broadcastable against ``input``, in (0, 1).
        heaviside: :class:`Linear` or :class:`Sigmoid`.

    Returns:
        h(input, threshold) in [0, 1], in the broadcast shape and the dtype of ``input``. NaN stays
        NaN; an empty input gives an empty result.

    Raises:
        TypeError: a wrong type of any argument.
        ValueError: a probability outside [0, 1], or a threshold outside (0, 1).
    """
    inputs.check_float_tensor("input", input)
    check_heaviside(heaviside)
    if isinstance(threshold, Tensor):
        inputs.check_float_tensor("threshold", threshold)
        inputs.check_same_device("threshold", threshold, input)
        tau = threshold
        try:
            torch.broadcast_shapes(input.shape, tau.shape)
        except RuntimeError:
            raise ValueError(
                f"threshold must be broadcastable against input, {tuple(input.shape)}, "
                f"got shape {tuple(tau.shape)}"
            ) from None
    else:
        value = inputs.check_number("threshold", threshold)
        tau = inputs.constant((value,), input.device).reshape(())
    inputs.check_threshold(tau)
    inputs.check_unit_interval("input", input, inputs.LOGITS_HINT)
    p = input.to(inputs.accumulation_dtype(input.dtype))
    return reference.heaviside(p, tau, heaviside.kind, heaviside.parameter).to(input.dtype)


def check_heaviside(heaviside: Heaviside) -> None:
    if not isinstance(heaviside, (Linear, Sigmoid)):
        raise TypeError(
            "heaviside must be softcm.Linear(...) or softcm.Sigmoid(...), "
            f"got {inputs.describe(heaviside)}"
        )


__all__ = ["DEFAULT", "Heaviside", "Linear", "Sigmoid", "Step", "check_heaviside", "heaviside"]
