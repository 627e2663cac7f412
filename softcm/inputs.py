"""Every rule about what a caller may pass, each once: shapes, dtypes and devices.

They are checked for every backend by :func:`canonical`. The values of tensors are checked where
they are read: by the kernels in native code, by :mod:`softcm.values` in the reference backend.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.masked import MaskedTensor

if TYPE_CHECKING:
    from .options import Options, TensorOptions

Threshold = float | Sequence[float] | Tensor
FLOAT_DTYPES = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
INDEX_DTYPES = frozenset((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))
_FLOATS = "float16, bfloat16, float32 or float64"
LABEL_DTYPES = FLOAT_DTYPES | INDEX_DTYPES | {torch.bool}
LOGITS_HINT = "; pass from_logits=True if these are logits"
SWAPPED_HINT = "; are input and target swapped? predictions come first, labels second"
THRESHOLD_OF_LOGITS = (
    "; thresholds are on the scale of probabilities, also with from_logits=True: "
    "a logit of 0 is a threshold of 0.5"
)
LONGEST_SHOWN = 100  # characters of a value in a message


class Batch(NamedTuple):
    """One batch in the form that every backend takes.

    These are the arguments with which every operator begins; csrc/arguments.h has the same list.
    """

    input: Tensor  # (N,) or (N, C, *)
    target: Tensor  # labels (N,) or (N, C, *), or class indices (N, *)
    threshold: Tensor  # (T,), or (C, T)
    weight: Tensor | None  # the shape of target
    pos_weight: Tensor | None  # (C,)
    table: Tensor | None  # (2, T, Q), or (2, C * T, Q), float32: h and dh/dp at Q levels of p
    ignore_index: int | None
    ignore_nan: bool  # of labels
    heaviside: str
    parameter: float
    membership: str
    per_sample: bool  # whether each sample of (N, C, *) has counts of its own
    from_logits: bool


def canonical(
    input: Tensor,
    target: Tensor,
    options: "Options",
    tensors: "TensorOptions",
    heaviside: Any = None,
) -> Batch:
    """Check the tensors of a call against each other and bring them to the form of a Batch.

    heaviside: in the place of that of the options. What is part of a batch may be empty.
    """
    empty_allowed = options.process_group is not None
    check_input(input, target)
    check_tensor("target", target)
    if input.dim() == 0 or (
        input.numel() == 0 and not (empty_allowed and number_of_classes(input) > 0)
    ):
        raise ValueError(
            f"input must have at least one dimension and one sample, got shape {_shape(input)}"
        )
    if target.dtype not in LABEL_DTYPES:
        raise TypeError(f"target must be bool, integer or floating point, got {target.dtype}")
    if target.requires_grad:
        raise ValueError(
            "target requires grad, but no gradient is defined for labels; detach it"
            + ("" if input.requires_grad else SWAPPED_HINT)
        )
    check_same_device("target", target, input)
    classes = number_of_classes(input)
    if options.per_sample and input.dim() < 3 and classes == 1:
        raise ValueError(
            "per_sample needs an input (N, C, *) of which a sample has more than one element, got "
            f"shape {_shape(input)}"
        )
    if class_indices(input, target):
        expected = input.shape[:1] + input.shape[2:]
        if target.shape != expected or target.dtype not in INDEX_DTYPES:
            raise ValueError(
                f"target of one dimension less than input {_shape(input)} must hold integer class "
                f"indices of shape {tuple(expected)}, got {target.dtype} of shape {_shape(target)}"
                + ("; pass target.long()" if target.shape == expected else "")
            )
    elif target.shape != input.shape:
        if classes != 1 or target.shape != _other_form(input):
            raise ValueError(
                f"target must have the shape of input, {_shape(input)}, or hold class indices "
                f"without its class dimension, got shape {_shape(target)}"
                + _shape_hint(input, target)
            )
        target = target.reshape(input.shape)
    weight, pos_weight, ignored = tensors.weight, tensors.pos_weight, options.ignore_index
    ignore_nan = ignored is not None and ignored != ignored
    heaviside = options.heaviside if heaviside is None else heaviside
    return Batch(
        input,
        target,
        threshold_tensor(tensors.threshold, input, options.from_logits),
        _weight(weight, target, input) if weight is not None else None,
        _pos_weight(pos_weight, classes, input) if pos_weight is not None else None,
        None,
        None if ignored is None or ignore_nan else int(ignored),
        ignore_nan,
        heaviside.kind,
        # A number of this call's own: torch.compile fails where two losses share a symbol.
        float(heaviside.parameter),
        options.membership,
        options.per_sample,
        options.from_logits,
    )


def check_input(input: Any, target: Any = None) -> None:
    """The type and dtype of input; where labels of target's dtype would do, it says so."""
    check_tensor("input", input)
    if input.dtype not in FLOAT_DTYPES:
        swapped = isinstance(target, Tensor) and target.dtype in FLOAT_DTYPES
        hint = SWAPPED_HINT if swapped and input.dtype in LABEL_DTYPES else ""
        raise TypeError(f"input must be {_FLOATS}, got {input.dtype}{hint}")


def _shape_hint(input: Tensor, target: Tensor) -> str:
    """What makes a target of a frequent wrong shape fit, for the end of a message."""
    n, c, *rest = (*input.shape, 1)[: max(2, input.dim())]
    shape = _shape(target)
    if c > 1 and shape == (n, 1, *rest):
        return "; pass target.squeeze(1) if it holds class indices"
    if c == 1 and shape == (n, *rest):
        return "; pass target.unsqueeze(1)"
    if c > 1 and rest and shape == (n, *rest, c):
        return "; pass target.movedim(-1, 1) if its last dimension holds the classes"
    return ""


def number_of_classes(input: Tensor) -> int:
    return input.shape[1] if input.dim() > 1 else 1


def class_indices(input: Tensor, target: Tensor) -> bool:
    """Whether target leaves out the class dimension of an input with two classes or more."""
    return input.dim() > 1 and target.dim() == input.dim() - 1 and input.shape[1] > 1


def by_class(x: Tensor) -> Tensor:
    """(N,) -> (N, 1); (N, C, *) -> (S, C) with the S = N * prod(*) samples of each class."""
    return x.unsqueeze(1) if x.dim() == 1 else x.movedim(1, -1).reshape(-1, x.shape[1])


def by_group(x: Tensor, classes: int, per_sample: bool, has_classes: bool = True) -> Tensor:
    """Elements (samples of a group, groups) of a tensor (N, C, *), or (N, *) without classes.

    A group has counts of its own: each class, or with ``per_sample`` each class of each sample.
    Without classes, and without ``per_sample``, all classes share one column.
    """
    if not per_sample:
        return by_class(x) if has_classes else x.reshape(-1, 1)
    n = x.shape[0]
    # Not -1: a process's part of a batch may be empty.
    length = math.prod(x.shape[2:] if has_classes else x.shape[1:])
    of_sample = x.reshape(n, classes if has_classes else 1, length).expand(n, classes, length)
    return of_sample.reshape(n * classes, length).T


def _other_form(input: Tensor) -> tuple[int, ...]:
    """The other of the two shapes (N,) and (N, 1) of a single class."""
    return (input.shape[0],) if input.dim() > 1 else (input.shape[0], 1)


def _check_weights(name: str, weights: Any, input: Tensor) -> None:
    """What weights of samples, positives and classes have in common."""
    check_tensor(name, weights)
    if weights.dtype not in LABEL_DTYPES:
        raise TypeError(f"{name} must be bool, integer or floating point, got {weights.dtype}")
    if weights.requires_grad:
        raise ValueError(f"{name} requires grad, but receives no gradient; detach it")
    check_same_device(name, weights, input)


def _weight(weight: Tensor, target: Tensor, input: Tensor) -> Tensor:
    _check_weights("weight", weight, input)
    _check_not_of_classes(weight, target, input)
    if weight.shape == target.shape:
        return weight
    if weight.numel() == target.numel() and _squeezed(weight) == _squeezed(target):
        return weight.reshape(target.shape)
    try:
        return weight.expand(target.shape)
    except RuntimeError:
        of_samples = (*target.shape[:1], *(1,) * (target.dim() - 1))
        hint = f"; pass weight.reshape({of_samples})" if weight.shape == target.shape[:1] else ""
        raise ValueError(
            f"weight must be broadcastable to target, {_shape(target)}, "
            f"got shape {_shape(weight)}{hint}"
        ) from None


def _check_not_of_classes(weight: Tensor, target: Tensor, input: Tensor) -> None:
    """A weight that is constant along the samples of a class changes no ratio of its counts."""
    classes = number_of_classes(input)
    if classes == 1 or weight.shape != (classes,):
        return
    n = input.shape[0]
    of_samples = (n, *(1,) * (max(2, target.dim()) - 1))
    raise ValueError(
        f"weight holds the weights of samples, got shape ({classes},), one number for each class; "
        "for weights of classes pass class_weight"
        + (f", for weights of samples weight.reshape({of_samples})" if n == classes else "")
    )


def _squeezed(x: Tensor) -> tuple[int, ...]:
    """The shape without a class dimension of size 1: (N,) and (N, 1) are the same to a weight."""
    return tuple(x.shape[:1]) if x.dim() == 2 and x.shape[1] == 1 else tuple(x.shape)


def _pos_weight(pos_weight: float | Tensor, classes: int, input: Tensor) -> Tensor:
    if not isinstance(pos_weight, Tensor):
        value = check_pos_weight(pos_weight)
        return constant((value,), input.device).expand(classes)
    _check_weights("pos_weight", pos_weight, input)
    numel = pos_weight.numel()
    if pos_weight.dim() > 1 or (numel != 1 and numel != classes):
        hint = "; pass pos_weight.flatten()" if numel == classes else ""
        raise ValueError(
            f"pos_weight must be a number or a tensor of shape ({classes},), one for each class, "
            f"got shape {_shape(pos_weight)}{hint}"
        )
    # The kernels read floating point only.
    floating = pos_weight if pos_weight.is_floating_point() else pos_weight.double()
    return floating.expand(classes)


def check_pos_weight(pos_weight: Any) -> float:
    if not isinstance(pos_weight, Real):
        raise TypeError(
            "pos_weight must be a number or a tensor (C,), one for each class, "
            f"got {describe(pos_weight)}"
        )
    return check_finite("pos_weight", pos_weight, lowest=0.0)


def class_weight_tensor(class_weight: Tensor, average: str, input: Tensor) -> Tensor:
    """The weights of the classes as a tensor (C,), float64 where the device has it."""
    _check_weights("class_weight", class_weight, input)
    classes = number_of_classes(input)
    if class_weight.shape != (classes,):
        hint = "; pass class_weight.flatten()" if class_weight.numel() == classes else ""
        raise ValueError(
            f"class_weight must have shape ({classes},), one number for each class, "
            f"got shape {_shape(class_weight)}{hint}"
        )
    if average not in ("macro", "present"):
        raise ValueError(
            "class_weight weighs the classes in the means 'macro' and 'present', "
            f"got average={average!r}"
        )
    return class_weight.to(sum_dtype(input.device)).contiguous()


def threshold_tensor(threshold: Threshold, input: Tensor, from_logits: bool = False) -> Tensor:
    """The thresholds as a tensor (T,), or (C, T) where each class has its own.

    A tensor stays itself, so that it can receive a gradient.
    """
    device = input.device
    if isinstance(threshold, Tensor):
        check_tensor("threshold", threshold)
        if threshold.dtype not in FLOAT_DTYPES:
            raise TypeError(f"threshold must be floating point, got {threshold.dtype}")
        classes = number_of_classes(input)
        if (
            threshold.dim() > 2
            or threshold.numel() == 0
            or (threshold.dim() == 2 and threshold.shape[0] != classes)
        ):
            raise ValueError(
                f"threshold must have shape () or (T,), or ({classes}, T) for thresholds of each "
                f"class, got {_shape(threshold)}"
            )
        if threshold.device != device:
            raise ValueError(f"threshold is on {threshold.device}, but input is on {device}")
        return threshold.unsqueeze(0) if threshold.dim() == 0 else threshold
    values: tuple[Any, ...] = (threshold,)
    if (
        type(threshold) is not float  # the most frequent case, and a look at an ABC takes its time
        and isinstance(threshold, Sequence)
        and not isinstance(threshold, str)
    ):
        if len(threshold) == 0:
            raise ValueError("threshold must hold at least one value, got an empty sequence")
        values = tuple(threshold)
    # Plain floats, which are looked at once: a thousand of them cost more than the kernels.
    if set(map(type, values)) == {float} and may_cache():
        return _kept(_known_thresholds(values, device, from_logits))
    return _threshold_constant(values, device, from_logits)


def check_threshold_numbers(threshold: Threshold, from_logits: bool) -> None:
    """The thresholds that are numbers, before there is an input."""
    if not isinstance(threshold, Tensor):
        threshold_tensor(threshold, torch.empty(0), from_logits)


def _threshold_constant(values: tuple[Any, ...], device: torch.device, from_logits: bool) -> Tensor:
    if len(values) == 1 and not isinstance(values[0], Real):
        hint = _as_tensor_hint("threshold", values[0])
        raise TypeError(
            "threshold must be a number, a sequence of numbers or a tensor (), (T,) or (C, T), "
            f"got {describe(values[0])}{hint}"
        )
    numbers = tuple(check_number("threshold", value) for value in values)
    for number in numbers:
        if not 0.0 < number < 1.0:
            hint = THRESHOLD_OF_LOGITS if from_logits else ""
            raise ValueError(f"threshold must lie in (0, 1), got {number}{hint}")
    return constant(numbers, device)


_known_thresholds = lru_cache(maxsize=1024)(_threshold_constant)


def has_threshold_dimension(threshold: Threshold) -> bool:
    """A single number gives results without a dimension for thresholds."""
    return threshold.dim() > 0 if isinstance(threshold, Tensor) else isinstance(threshold, Sequence)


def sum_dtype(device: torch.device) -> torch.dtype:
    """The dtype of sums and thresholds: float64, or float32 on a device that has nothing wider."""
    if torch.compiler.is_compiling():
        return torch.float32 if device.type == "mps" else torch.float64
    # A mode can stand for a device, whatever that of the tensors is called.
    if torch._C._len_torch_dispatch_stack():
        return _probe_sum_dtype(device)
    return torch.float64 if device.type in ("cpu", "cuda") else _known_sum_dtype(device)


def _probe_sum_dtype(device: torch.device) -> torch.dtype:
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except Exception:  # each device refuses in its own way
        return torch.float32
    return torch.float64


_known_sum_dtype = lru_cache(maxsize=64)(_probe_sum_dtype)


def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A small tensor of numbers known to Python; made once for each (values, device)."""
    if may_cache():
        return _kept(_cached_constant(values, device))
    dtype = sum_dtype(device)
    # A constant of a graph may have become a symbol, which torch.tensor would fix.
    if torch.compiler.is_compiling() and len(values) == 1:
        return torch.ones(1, dtype=dtype, device=device) * values[0]
    return torch.tensor(values, dtype=dtype, device=device)


@lru_cache(maxsize=1024)
def _cached_constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it may serve a later call that records gradients
        return torch.tensor(values, dtype=sum_dtype(device), device=device)


_captured: dict[int, Tensor] = {}  # by address


def _kept(x: Tensor) -> Tensor:
    """A captured CUDA graph reads a constant at each replay: no cache may let go of that one."""
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        _captured[x.data_ptr()] = x
    return x


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for float32 and the half types."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {describe(value)}{_as_tensor_hint(name, value)}"
        )
    # Memory with strides is what every backend reads.
    if value.layout is not torch.strided or value.is_nested:
        kind = "a nested tensor" if value.is_nested else f"layout {value.layout}"
        raise TypeError(f"{name} must be a dense tensor (layout torch.strided), got {kind}")
    if type(value) is not Tensor and isinstance(value, MaskedTensor):
        raise TypeError(
            f"{name} must be a dense tensor, got a MaskedTensor; its mask can be the weight"
        )


def _as_tensor_hint(name: str, value: Any) -> str:
    is_data = isinstance(value, (list, tuple)) or hasattr(value, "__array__")
    return f"; pass torch.as_tensor({name})" if is_data else ""


def check_float_tensor(name: str, value: Any) -> None:
    check_tensor(name, value)
    if value.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be {_FLOATS}, got {value.dtype}")


def check_same_device(name: str, value: Tensor, input: Tensor) -> None:
    if value.device != input.device:
        raise ValueError(f"{name} is on {value.device}, but input is on {input.device}")


def check_number(name: str, value: Any) -> float:
    if type(value) is float:  # a look at an ABC takes a hundredth of a small step
        return value
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {describe(value)}")
    return float(value)


def check_finite(name: str, value: Any, lowest: float = -math.inf) -> float:
    number = check_number(name, value)
    # Comparisons, not math.isfinite: torch.compile may have made a symbol of the number.
    if not (-math.inf < number < math.inf and number >= lowest):
        bound = f" and >= {lowest:g}" if lowest > -math.inf else ""
        raise ValueError(f"{name} must be finite{bound}, got {value}")
    return number


def check_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {describe(value)}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        allowed = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")


def may_cache() -> bool:
    """Whether a tensor made now may serve later calls: it may not where it belongs to a graph, to a
    transform of torch.func, or to a mode that makes tensors of its own, such as FakeTensorMode."""
    return not (
        torch.compiler.is_compiling() or is_transformed() or torch._C._len_torch_dispatch_stack()
    )


def is_transformed() -> bool:
    """Whether a transform of torch.func is active: what torch.autograd.Function itself asks."""
    return torch._C._are_functorch_transforms_active()


def describe(value: Any) -> str:
    text = repr(value)
    if len(text) > LONGEST_SHOWN:
        text = text[:LONGEST_SHOWN] + " ..."
    return f"{text} of type {type(value).__name__}"


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
