"""The options of a loss: one list of them, with their defaults, types, checks and meaning.

A new option of all losses is a field of :class:`Options` (or of :class:`TensorOptions`, if it may
be a tensor) and a line of :class:`ModuleOptions`, which tells type checkers. Signatures and help
texts of functions and modules are made from the fields.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor

from . import backends, distributed, inputs
from .heaviside import DEFAULT, Heaviside, check_heaviside
from .inputs import Threshold

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MEMBERSHIPS = ("soft", "gated")
AVERAGES = ("macro", "micro", "weighted", "none", "present")
PLACE = "        OPTIONS\n"  # of the options in a docstring
HINT = "\n\n    The other arguments and errors: :func:`softcm.f1_loss`."
RENAMED = {"bce_weight": "ce_weight"}
F = TypeVar("F", bound=Callable[..., Any])


class TensorOptions(NamedTuple):
    """Those that may be tensors.

    threshold: a number, a sequence of numbers, or a tensor () or (T,), in (0, 1), on the scale of
        probabilities, also for logits; or a tensor (C, T), for each class its own. Of several the
        mean loss is taken. A tensor that requires grad receives its gradient. From about 15 on,
        those of ``Linear`` cost nearly the same however many they are, but for the backward pass
        of ones that require grad.
    weight: weight of each sample, >= 0, broadcastable to ``target``; a weight of a sample of
        (N, C) has shape (N, 1). Weights of classes are ``class_weight``.
    pos_weight: weight >= 0 of the positives, a number or one for each class (C,).
    class_weight: weight >= 0 of each class (C,) in the mean over classes, for ``average="macro"``
        and ``"present"``; 0 leaves a class out, such as the background. It multiplies losses of
        classes, never samples.
    """

    threshold: Threshold = 0.5
    weight: Tensor | None = None
    pos_weight: float | Tensor | None = None
    class_weight: Tensor | None = None


@dataclass(frozen=True)
class Options:
    """All others; checked when it is made, and hashable.

    heaviside: :class:`softcm.Linear`, :class:`softcm.Sigmoid` or :class:`softcm.Table`.
    membership: "soft" is eq. (3); "gated" counts a sample only in the two counts of its label.
    ignore_index: samples with this target count nowhere; ``float("nan")`` means labels that are
        NaN. With class indices, a class that it names has no counted sample.
    average: over classes: "macro" (mean), "micro" (counts are summed first), "weighted" (by the
        weighted positives of each class), "present" (mean over the classes that have a positive)
        or "none" (one loss for each class). :func:`softcm.mcc_loss`, :func:`softcm.kappa_loss` and
        :func:`softcm.accuracy_loss` know "multiclass", too: the metric of the C x C table of class
        indices.
    per_sample: every sample of (N, C, *) has counts of its own; the loss is the mean over samples
        of the average over classes. A sample in which no class has a metric is left out.
    zero_division: what the metric is where its denominator is exactly 0.
    ce_weight: adds this multiple of the weighted mean cross-entropy of the counted samples: for
        class indices that of the softmax (:func:`torch.nn.functional.cross_entropy`, whose weight
        is ``pos_weight``), otherwise the binary one of each class; of probabilities with the bounds
        of :func:`torch.nn.functional.binary_cross_entropy`, of logits in the stable form.
    from_logits: take ``input`` as logits.
    backend: "auto", "native" (compiled kernels), "triton" or "reference" (plain PyTorch).
    process_group: a :class:`torch.distributed.ProcessGroup` such as
        ``torch.distributed.group.WORLD``: the loss is that of the batches of all its processes
        taken together, by one all_reduce of 4 C T + 4 C float64 numbers. Each of them has to make
        the call, with the same options; its own batch may be empty. Of the gradient each gets its
        own share times the number of processes, so that their mean, as DistributedDataParallel and
        FSDP take it, is the gradient of the loss; who adds up gradients has to divide by that
        number. No second derivatives. None, which also is what ``group.WORLD`` is before
        ``init_process_group``: the local batch alone.
    """

    heaviside: Heaviside = DEFAULT
    membership: str = "soft"
    ignore_index: float | None = None
    average: str = "macro"
    per_sample: bool = False
    zero_division: float = 0.0
    ce_weight: float = 0.0
    from_logits: bool = False
    backend: str = "auto"
    process_group: "ProcessGroup | None" = None

    def __post_init__(self) -> None:
        check_heaviside(self.heaviside)
        check_membership(self.membership)
        self._set("ignore_index", checked_ignore_index(self.ignore_index))
        inputs.check_choice("average", self.average, (*AVERAGES, "multiclass"))
        inputs.check_bool("per_sample", self.per_sample)
        self._set("zero_division", inputs.check_number("zero_division", self.zero_division))
        self._set("ce_weight", inputs.check_finite("ce_weight", self.ce_weight, lowest=0.0))
        inputs.check_bool("from_logits", self.from_logits)
        inputs.check_choice("backend", self.backend, backends.REQUESTS)
        distributed.check_process_group(self.process_group)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


class ModuleOptions(TypedDict, total=False):
    """The types of the options of a module, for type checkers."""

    threshold: Threshold
    pos_weight: float | Tensor | None
    class_weight: Tensor | None
    heaviside: Heaviside
    membership: str
    ignore_index: float | None
    average: str
    per_sample: bool
    zero_division: float
    ce_weight: float
    from_logits: bool
    backend: str
    process_group: "ProcessGroup | None"


class LossOptions(ModuleOptions, total=False):
    """Those of a function."""

    weight: Tensor | None


OF_TENSORS = TensorOptions._fields
OTHERS = tuple(field.name for field in dataclasses.fields(Options))
ALL = (*OF_TENSORS, *OTHERS)
DEFAULTS: dict[str, Any] = {
    **TensorOptions._field_defaults,
    **{field.name: field.default for field in dataclasses.fields(Options)},
}
TYPES: dict[str, Any] = {**TensorOptions.__annotations__, **Options.__annotations__}
# What matters to counts; the rest is about what is made of them.
OF_LOSSES = ("class_weight", "average", "zero_division", "ce_weight")
OF_COUNTS = tuple(name for name in ALL if name not in OF_LOSSES)


def split(given: Any, names: Iterable[str] = ALL) -> tuple[Options, TensorOptions]:
    """The checked options of a call from its keyword arguments, of which ``names`` are allowed.

    Raises:
        TypeError: an option that there is not, or one of a wrong type.
        ValueError: a value that is not allowed.
    """
    if not given.keys() <= DEFAULTS.keys() or (names is not ALL and not given.keys() <= {*names}):
        _raise_unknown(given, names)
    # All of them, as torch.compile cannot follow the defaults of a dataclass.
    given = {**DEFAULTS, **given}
    tensors = TensorOptions(*[given[name] for name in OF_TENSORS])
    values = [given[name] for name in OTHERS]
    # Whether a process group serves depends on more than its value.
    if torch.compiler.is_compiling() or given["process_group"] is not None:
        return Options(*values), tensors
    try:
        return _known_options(*values), tensors
    except TypeError:  # of a wrong type, or one that has no hash
        return Options(*values), tensors


_known_options = lru_cache(maxsize=1024, typed=True)(Options)


def _raise_unknown(given: Any, names: Iterable[str]) -> None:
    allowed = sorted(names)
    name = next(name for name in given if name not in allowed)
    if name in RENAMED:
        raise TypeError(f"{name} is now called {RENAMED[name]}, got {name}={given[name]!r}")
    raise TypeError(f"unexpected keyword argument {name!r}; the options are {', '.join(allowed)}")


def with_options(names: Iterable[str] = ALL, **defaults: Any) -> Callable[[F], F]:
    """Show the options, which a function takes as ``**options``, in its signature and help.

    ``defaults`` are those that differ from the usual ones.
    """
    wanted = tuple(names)

    def decorate(function: F) -> F:
        own = inspect.signature(function)
        parameters = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        taken = {p.name for p in parameters}
        parameters += [p for p in _parameters(defaults) if p.name in wanted and p.name not in taken]
        function.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        if function.__doc__:  # Python's option -OO leaves none
            function.__doc__ = _with_help(function.__doc__)
        return function

    return decorate


def _with_help(doc: str) -> str:
    """Put the meaning of the options where a docstring wants it, or point to where it stands."""
    if PLACE in doc:
        return doc.replace(PLACE, help_text(PLACE[: -len("OPTIONS\n")]) + "\n")
    return doc if ":func:`softcm.f1_loss`" in doc else doc.rstrip() + HINT


def _parameters(defaults: dict[str, Any]) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(name, DEFAULTS[name]),
            annotation=TYPES[name],
        )
        for name in ALL
    ]


def help_text(indent: str) -> str:
    """What the options mean, one paragraph each, for the ``Args`` of a docstring."""
    texts = [cls.__doc__ or "" for cls in (TensorOptions, Options)]
    paragraphs = "\n".join(inspect.cleandoc(text.partition("\n\n")[2]) for text in texts if text)
    return "\n".join(indent + line if line else "" for line in paragraphs.splitlines())


def checked_ignore_index(ignore_index: Any) -> float | None:
    """As an int, or NaN, or None."""
    if ignore_index is None:
        return None
    if isinstance(ignore_index, Real) and not isinstance(ignore_index, Integral):
        if math.isnan(ignore_index):
            return math.nan
        raise TypeError(
            'ignore_index must be an int, float("nan") for labels that are NaN, or None, '
            f"got {inputs.describe(ignore_index)}"
        )
    if not isinstance(ignore_index, Integral) or isinstance(ignore_index, bool):
        raise TypeError(
            'ignore_index must be an int, float("nan") or None, '
            f"got {inputs.describe(ignore_index)}"
        )
    number = int(ignore_index)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"ignore_index must fit in 64 bits, got {number}")
    return number


def check_membership(membership: Any) -> None:
    inputs.check_choice("membership", membership, MEMBERSHIPS)
