"""The approximations of the Heaviside step that a user can choose, and the elementwise function."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor

from . import inputs, reference
from .values import check_probabilities, check_threshold, raise_unless

# What a table's entries may be, and what stands for h = 1 in each dtype.
STEPS = {torch.uint8: 255, torch.float16: 1, torch.float32: 1}


@dataclass(frozen=True)
class Linear:
    """The piecewise-linear approximation of eq. (5).

    Three segments through (0, 0), (tau - tm/2, delta), (tau, 0.5), (tau + tm/2, 1 - delta) and
    (1, 1), with tm = min(tau, 1 - tau). It reaches 0 and 1 at every threshold. Both breakpoints
    belong to the middle segment. A threshold below 2^-60 is taken as 2^-60, and one above 1 - eps
    as 1 - eps, where eps is 2^-23 in float32 and the half types, and 2^-52 in float64: nearer to 0
    and 1 there is no room for the breakpoints.

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


@dataclass(frozen=True)
class Table:
    """A quantised approximation, the look-up table of Section 4, "Computational efficiency".

    ``p`` is truncated to ``decimals`` decimals (p = 1 goes into the last level), and the
    approximation is tabulated at these levels for each of the table's thresholds; the backward
    pass looks up a table of derivatives. By default 100 levels times 10 thresholds are 1,000
    entries of 8 bits: 1 kB. A loss may use the thresholds of the table that lie in (0, 1), and no
    others. Make it once, outside of the training loop and of compiled code.

    At a threshold the table's h is off by no more than its entry e of ``errors``, so each of the
    four counts by no more than e times the sum of the weights, and F1 by no more than that times
    2 / (2 TP + FN + FP), with the table's counts.

    Args:
        approximation: what is tabulated, :class:`Linear` or :class:`Sigmoid`.
        decimals: of p, 1 ... 4; there are Q = 10^decimals levels.
        thresholds: those of the table, distinct numbers in [0, 1).
        threshold_step: 1 / n for the thresholds 0, 1/n, ..., (n - 1)/n; 0.1 unless ``thresholds``
            are given.
        dtype: of the entries: torch.uint8 (in steps of 1/255), torch.float16 or torch.float32.

    Attributes:
        values: h, shape (Q, T), in ``dtype``.
        derivatives: dh/dp of the approximation at the levels, shape (Q, T), float32.
        errors: the largest difference from the approximation, shape (T,), float64.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: decimals or thresholds out of range, a step that is not 1 / n, thresholds and
            threshold_step at the same time, another dtype.
    """

    approximation: Linear | Sigmoid = Linear()
    decimals: int = 2
    thresholds: Sequence[float] | None = None
    threshold_step: float | None = None
    dtype: torch.dtype = torch.uint8
    values: Tensor = field(init=False, repr=False, compare=False)
    derivatives: Tensor = field(init=False, repr=False, compare=False)
    errors: Tensor = field(init=False, repr=False, compare=False)
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        if not isinstance(self.approximation, (Linear, Sigmoid)):
            raise TypeError(
                "approximation must be softcm.Linear(...) or softcm.Sigmoid(...), "
                f"got {inputs.describe(self.approximation)}"
            )
        if not isinstance(self.decimals, int) or isinstance(self.decimals, bool):
            raise TypeError(f"decimals must be an int, got {inputs.describe(self.decimals)}")
        if not 1 <= self.decimals <= 4:
            raise ValueError(f"decimals must lie in 1 ... 4, got {self.decimals}")
        if self.dtype not in STEPS:
            raise ValueError(f"dtype must be one of {', '.join(map(str, STEPS))}, got {self.dtype}")
        object.__setattr__(self, "thresholds", self._grid())
        h, slope = self._tabulate()
        values = (h[:-1] * STEPS[self.dtype]).round() if self.dtype == torch.uint8 else h[:-1]
        object.__setattr__(self, "values", values.to(self.dtype))
        object.__setattr__(self, "derivatives", slope[:-1].float())
        # As h rises, it is farthest from the entry at one of the two ends of a level.
        away = torch.maximum((self._h() - h[:-1]).abs(), (self._h() - h[1:]).abs())
        object.__setattr__(self, "errors", away.amax(dim=0))

    def _grid(self) -> tuple[float, ...]:
        if self.thresholds is None:
            step = 0.1 if self.threshold_step is None else self.threshold_step
            step = inputs.check_number("threshold_step", step)
            count = round(1 / step) if 1e-4 <= step <= 0.5 else 0
            if count == 0 or abs(count * step - 1) > 1e-9:
                raise ValueError(
                    "threshold_step must be 1 / n for a whole number n in 2 ... 10000, "
                    f"got {self.threshold_step}"
                )
            return tuple(i / count for i in range(count))
        if self.threshold_step is not None:
            raise ValueError(
                "thresholds and threshold_step cannot both be given, "
                f"got threshold_step={self.threshold_step}"
            )
        if not isinstance(self.thresholds, Sequence) or isinstance(self.thresholds, str):
            hint = "; pass thresholds.tolist()" if hasattr(self.thresholds, "tolist") else ""
            raise TypeError(
                "thresholds must be a sequence of numbers, "
                f"got {inputs.describe(self.thresholds)}{hint}"
            )
        grid = tuple(
            inputs.check_number(f"thresholds[{i}]", value)
            for i, value in enumerate(self.thresholds)
        )
        if not all(0.0 <= value < 1.0 for value in grid) or not grid:
            raise ValueError(f"thresholds must be numbers in [0, 1), got {grid}")
        if len(set(grid)) < len(grid):
            raise ValueError(f"thresholds must be distinct, got {grid}")
        return grid

    def _tabulate(self) -> tuple[Tensor, Tensor]:
        """h and dh/dp at the levels, and at 1, for each threshold: both (Q + 1, T) float64."""
        kind, parameter = self.approximation.kind, self.approximation.parameter
        columns = []
        for tau in self.thresholds or ():
            with torch.inference_mode(False), torch.enable_grad():
                p = torch.arange(self.levels + 1, dtype=torch.float64) / self.levels
                p.requires_grad_()
                if tau == 0 and kind == "linear":
                    # The limit of eq. (5), where all segments but the last have no length.
                    h = torch.where(p > 0, 1 - parameter * (1 - p), 0.5)
                else:
                    h = reference.heaviside(p, p.new_tensor(tau), kind, parameter)
                slope = torch.autograd.grad(h.sum(), p)[0]
            columns.append(torch.stack((h.detach(), slope)))
        h, slope = torch.stack(columns, dim=-1)
        return h, slope

    def _h(self) -> Tensor:
        """The entries as numbers in [0, 1], (Q, T) float32."""
        return self.values.float() / STEPS[self.dtype]

    @property
    def levels(self) -> int:
        return 10**self.decimals

    @property
    def parameter(self) -> float:
        return float(self.levels)

    @property
    def numel(self) -> int:
        """The number of entries."""
        return self.values.numel()

    @property
    def nbytes(self) -> int:
        """The memory that the entries take."""
        return self.values.nbytes

    def look_up(self, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """The table's own thresholds (T,) closest to those given, and h and dh/dp there.

        The former are float64 where the device has it, the latter float32 of shape (2, T, Q).

        Raises:
            ValueError: a threshold that the table does not have, or that requires grad.
        """
        if threshold.requires_grad:
            raise ValueError(
                "threshold requires grad, but a Table has no gradient in it; use its approximation"
            )
        if threshold.device.type == "cpu" and inputs.may_cache():
            return _cached_look_up(self, tuple(threshold.tolist()), threshold.dtype)
        return self._look_up(threshold)

    def _look_up(self, threshold: Tensor) -> tuple[Tensor, Tensor]:
        wide = inputs.sum_dtype(threshold.device)
        grid = torch.tensor(self.thresholds, dtype=wide, device=threshold.device)
        away, index = (threshold.to(wide).unsqueeze(-1) - grid).abs().min(dim=-1)
        tolerance = max(1e-6, torch.finfo(threshold.dtype).eps)
        raise_unless(
            away <= tolerance,
            lambda: (
                f"threshold must be one of the table's, {self.thresholds}, "
                f"got {threshold[away > tolerance][0].item()}"
            ),
        )
        table = torch.stack((self._h(), self.derivatives))  # (2, Q, T)
        table = table.to(threshold.device)
        return grid[index], table.transpose(1, 2)[:, index].contiguous()


@lru_cache(maxsize=8)
def _cached_look_up(
    table: Table, thresholds: tuple[float, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        return table._look_up(torch.tensor(thresholds, dtype=dtype))


Heaviside = Linear | Sigmoid | Table
DEFAULT = Linear()


def heaviside(
    input: Tensor, threshold: float | Tensor = 0.5, heaviside: Heaviside = DEFAULT
) -> Tensor:
    """Approximate the Heaviside step elementwise (Section 4), differentiable in both tensors.

    Args:
        input: probabilities in [0, 1], any shape; float16, bfloat16, float32 or float64.
        threshold: a number or a tensor broadcastable against ``input``, in (0, 1).
        heaviside: :class:`Linear`, :class:`Sigmoid` or :class:`Table`.

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
        if not isinstance(threshold, Real):
            raise TypeError(
                "threshold must be a number or a tensor that broadcasts against input, "
                f"got {inputs.describe(threshold)}"
            )
        value = inputs.check_number("threshold", threshold)
        tau = inputs.constant((value,), input.device).reshape(())
    check_threshold(tau)
    check_probabilities(input)
    p = input.to(inputs.accumulation_dtype(input.dtype))
    if isinstance(heaviside, Table):
        _, table = heaviside.look_up(tau.reshape(-1))
        index = torch.arange(tau.numel(), device=tau.device).reshape(tau.shape)
        p, level = reference.truncate(p, heaviside.levels)
        index, level, p = torch.broadcast_tensors(index, level, p)
        return reference.look_up(p, level, table, index).to(input.dtype)
    tau = reference.inside(tau, heaviside.kind, p.dtype)
    return reference.heaviside(p, tau, heaviside.kind, heaviside.parameter).to(input.dtype)


def check_heaviside(heaviside: Heaviside) -> None:
    if not isinstance(heaviside, (Linear, Sigmoid, Table)):
        raise TypeError(
            "heaviside must be softcm.Linear(...), softcm.Sigmoid(...) or softcm.Table(...), "
            f"got {inputs.describe(heaviside)}"
        )


__all__ = [
    "DEFAULT",
    "Heaviside",
    "Linear",
    "Sigmoid",
    "Step",
    "Table",
    "check_heaviside",
    "heaviside",
]
