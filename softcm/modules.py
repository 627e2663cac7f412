"""The losses as modules: they hold the options and call the functional form."""

import copy
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from . import inputs, losses, metrics, operating_points
from .confusion import ConfusionMatrix
from .diagnosis import Watch
from .distributed import Parts
from .inputs import Threshold
from .metrics import Costs, LinearFractional
from .options import OF_TENSORS, OTHERS, split
from .values import check_threshold

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import ModuleOptions


# The options that may be tensors and belong to the module, not to the call.
HELD = tuple(name for name in OF_TENSORS if name != "weight")


class UnitInterval(torch.nn.Module):
    """A parametrisation that keeps a threshold inside (0, 1), whatever step an optimizer takes.

    What is trained is the logit of the threshold::

        loss = softcm.F1Loss(threshold=torch.nn.Parameter(torch.tensor(0.4)))
        torch.nn.utils.parametrize.register_parametrization(
            loss, "threshold", softcm.UnitInterval()
        )

    ``loss.threshold`` remains the threshold, and can be assigned to. It is at least the rounding
    unit of its dtype away from 0 and 1, beyond which it has no gradient.

    Raises:
        TypeError: the threshold is no floating-point tensor.
        ValueError: a threshold outside (0, 1) is assigned.
    """

    def forward(self, logit: Tensor) -> Tensor:
        inputs.check_float_tensor("threshold", logit)
        margin = torch.finfo(logit.dtype).eps
        return torch.sigmoid(logit).clamp(margin, 1 - margin)

    def right_inverse(self, threshold: Tensor) -> Tensor:
        inputs.check_float_tensor("threshold", threshold)
        check_threshold(threshold)
        return torch.logit(threshold)


class Loss(torch.nn.Module):
    """A loss as a module.

    Its options are those of the function but ``weight``, which belongs to the call:
    ``forward(input, target, weight=None)`` returns the loss. Tensors among them follow the module
    to its device: a ``threshold`` that is a :class:`torch.nn.Parameter` is a parameter
    (:class:`softcm.UnitInterval` keeps it inside (0, 1)), other tensors are buffers, which are not
    saved. ``options`` and ``threshold`` may be changed between calls.

    In training, where ``input`` requires grad, it looks at every 50th batch on the CPU for the
    signs that :func:`softcm.diagnose` describes, and issues a :class:`softcm.SoftcmWarning`, once
    for each, when it has seen one at 8 of the last 10 looks. It does so unasked because who trains
    into a spurious optimum sees nothing but a loss near 0.5, and has no reason to ask; a look
    costs about half a step. In compiled code, on other devices and in GradientAccumulation there
    is none.

    Raises:
        TypeError, ValueError, RuntimeError: as the function does, at construction as far as the
            options tell, and at the call.
    """

    function: ClassVar[Callable[..., Tensor]]
    threshold: Threshold
    pos_weight: float | Tensor | None
    class_weight: Tensor | None
    # Whether a batch without positives is a loss of information rather than one of many samples.
    needs_positives: ClassVar[bool] = True
    # Options that the function does not have, with what a look at a batch takes in their place.
    fixed: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        # help() shows no docstring of a base class; Python's option -OO leaves none.
        if cls.__doc__ and Loss.__doc__:
            cls.__doc__ += "\n\n" + Loss.__doc__.partition("\n\n")[2]
        # Those of the function but what belongs to the call.
        of_function = inspect.signature(cls.function).parameters.values()
        of_call = ("input", "target", "weight")
        own = [p for p in of_function if p.name not in of_call]
        cls.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]

    def __init__(self, **options: "Unpack[ModuleOptions]") -> None:
        super().__init__()
        # A mistake is told where it was made. The call looks again, as options may change, and at
        # what depends on the batch.
        names = [name for name in (*HELD, *OTHERS) if name not in self.fixed]
        checked, tensors = split({**self.defaults(), **options}, names)
        inputs.check_threshold_numbers(tensors.threshold, checked.from_logits)
        if tensors.pos_weight is not None and not isinstance(tensors.pos_weight, Tensor):
            inputs.check_pos_weight(tensors.pos_weight)
        for name in HELD:
            self._set(name, self.fixed.get(name, getattr(tensors, name)))
        self.options: dict[str, Any] = {
            name: self.fixed.get(name, getattr(checked, name)) for name in OTHERS
        }
        self._watch = Watch()

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The options of the function that differ from the usual ones."""
        parameters = inspect.signature(cls.function).parameters
        names = (*HELD, *OTHERS)
        return {name: parameters[name].default for name in names if name in parameters}

    def _set(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and not isinstance(value, torch.nn.Parameter):
            self.register_buffer(name, value, persistent=False)
        else:
            setattr(self, name, value)

    def forward(self, input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        loss = self.evaluate(input, target, weight, self.options["process_group"])
        if not torch.compiler.is_compiling() and input.requires_grad:
            self._watch.step(self, input, target, weight)
        return loss

    def evaluate(
        self, input: Tensor, target: Tensor, weight: Tensor | None, parts: Parts
    ) -> Tensor:
        """The loss of the batch of which these tensors are a part; None: they are all of it."""
        options = {**self._of_function(), "process_group": parts, "weight": weight}
        return type(self).function(input, target, **options)

    def _of_function(self) -> dict[str, Any]:
        """The options of the call."""
        given = {**{name: getattr(self, name) for name in HELD}, **self.options}
        return {name: value for name, value in given.items() if name not in self.fixed}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Loss":
        # A process group cannot be copied, and a copy of the loss belongs to the same one.
        process_group = self.options["process_group"]
        memo[id(process_group)] = process_group
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def extra_repr(self) -> str:
        shown = self._of_function().items()
        return ", ".join(f"{name}={value!r}" for name, value in shown if value is not None)


class F1Loss(Loss):
    """:func:`softcm.f1_loss` as a module."""

    function = staticmethod(losses.f1_loss)


class FBetaLoss(Loss):
    """:func:`softcm.fbeta_loss` as a module."""

    function = staticmethod(losses.fbeta_loss)

    def __init__(self, *, beta: float = 2.0, **options: "Unpack[ModuleOptions]") -> None:
        super().__init__(**options)
        metrics.fbeta_metric(beta)
        self.options["beta"] = beta


class AccuracyLoss(Loss):
    """:func:`softcm.accuracy_loss` as a module."""

    function = staticmethod(losses.accuracy_loss)
    needs_positives = False


class BalancedAccuracyLoss(Loss):
    """:func:`softcm.balanced_accuracy_loss` as a module."""

    function = staticmethod(losses.balanced_accuracy_loss)


class PrecisionLoss(Loss):
    """:func:`softcm.precision_loss` as a module."""

    function = staticmethod(losses.precision_loss)


class RecallLoss(Loss):
    """:func:`softcm.recall_loss` as a module."""

    function = staticmethod(losses.recall_loss)


class SpecificityLoss(Loss):
    """:func:`softcm.specificity_loss` as a module."""

    function = staticmethod(losses.specificity_loss)
    needs_positives = False


class JaccardLoss(Loss):
    """:func:`softcm.jaccard_loss` as a module."""

    function = staticmethod(losses.jaccard_loss)


class TverskyLoss(Loss):
    """:func:`softcm.tversky_loss` as a module."""

    function = staticmethod(losses.tversky_loss)

    def __init__(
        self, *, alpha: float = 0.5, beta: float = 0.5, **options: "Unpack[ModuleOptions]"
    ) -> None:
        super().__init__(**options)
        metrics.tversky_metric(alpha, beta)
        self.options |= {"alpha": alpha, "beta": beta}


class MCCLoss(Loss):
    """:func:`softcm.mcc_loss` as a module."""

    function = staticmethod(losses.mcc_loss)


class GMeanLoss(Loss):
    """:func:`softcm.gmean_loss` as a module."""

    function = staticmethod(losses.gmean_loss)


class InformednessLoss(Loss):
    """:func:`softcm.informedness_loss` as a module."""

    function = staticmethod(losses.informedness_loss)


class KappaLoss(Loss):
    """:func:`softcm.kappa_loss` as a module."""

    function = staticmethod(losses.kappa_loss)


class CostLoss(Loss):
    """:func:`softcm.cost_loss` as a module."""

    function = staticmethod(losses.cost_loss)
    needs_positives = False

    def __init__(self, costs: Costs, **options: "Unpack[ModuleOptions]") -> None:
        super().__init__(**options)
        metrics.cost_metric(costs)
        self.options["costs"] = costs


class DiceLoss(Loss):
    """:func:`softcm.dice_loss` as a module."""

    function = staticmethod(losses.dice_loss)

    def __init__(self, *, smooth: float = 0.0, **options: "Unpack[ModuleOptions]") -> None:
        super().__init__(**options)
        self.options["smooth"] = inputs.check_finite("smooth", smooth, lowest=0.0)


class FocalTverskyLoss(Loss):
    """:func:`softcm.focal_tversky_loss` as a module."""

    function = staticmethod(losses.focal_tversky_loss)

    def __init__(
        self,
        *,
        alpha: float = 0.7,
        beta: float = 0.3,
        gamma: float = 0.75,
        **options: "Unpack[ModuleOptions]",
    ) -> None:
        super().__init__(**options)
        losses.focal_tversky_metric(alpha, beta, gamma)
        self.options |= {"alpha": alpha, "beta": beta, "gamma": gamma}


class AUROCLoss(Loss):
    """:func:`softcm.auroc_loss` as a module."""

    function = staticmethod(losses.auroc_loss)

    def __init__(self, *, max_fpr: float | None = None, **options: "Unpack[ModuleOptions]") -> None:
        super().__init__(**options)
        metrics.check_max_fpr(max_fpr)
        self.options["max_fpr"] = max_fpr


class AUPRCLoss(Loss):
    """:func:`softcm.auprc_loss` as a module."""

    function = staticmethod(losses.auprc_loss)


class ConfusionLoss(Loss):
    """:func:`softcm.confusion_loss` as a module."""

    function = staticmethod(losses.confusion_loss)
    needs_positives = False

    def __init__(
        self,
        metric: LinearFractional | Callable[[ConfusionMatrix], Tensor],
        *,
        maximize: bool = True,
        **options: "Unpack[ModuleOptions]",
    ) -> None:
        super().__init__(**options)
        losses.check_metric(metric, maximize)
        self.options |= {"metric": metric, "maximize": maximize}


# Where a threshold is chosen anew for each batch, no look asks for what is on its sides.
CHOSEN: dict[str, Any] = {"threshold": (0.25, 0.75), "membership": "gated"}


class RecallAtFixedPrecisionLoss(Loss):
    """:func:`softcm.recall_at_fixed_precision_loss` as a module."""

    function = staticmethod(operating_points.recall_at_fixed_precision_loss)
    fixed = CHOSEN

    def __init__(self, min_precision: float, **options: "Unpack[ModuleOptions]") -> None:
        super().__init__(**options)
        heaviside = self.options["heaviside"]
        self.options["min_precision"] = operating_points.check_options(
            "min_precision", min_precision, heaviside
        )


class PrecisionAtFixedRecallLoss(Loss):
    """:func:`softcm.precision_at_fixed_recall_loss` as a module."""

    function = staticmethod(operating_points.precision_at_fixed_recall_loss)
    fixed = CHOSEN

    def __init__(self, min_recall: float, **options: "Unpack[ModuleOptions]") -> None:
        super().__init__(**options)
        heaviside = self.options["heaviside"]
        self.options["min_recall"] = operating_points.check_options(
            "min_recall", min_recall, heaviside
        )


class SensitivityAtSpecificityLoss(Loss):
    """:func:`softcm.sensitivity_at_specificity_loss` as a module."""

    function = staticmethod(operating_points.sensitivity_at_specificity_loss)
    fixed = CHOSEN

    def __init__(self, min_specificity: float, **options: "Unpack[ModuleOptions]") -> None:
        super().__init__(**options)
        heaviside = self.options["heaviside"]
        self.options["min_specificity"] = operating_points.check_options(
            "min_specificity", min_specificity, heaviside
        )


class SpecificityAtSensitivityLoss(Loss):
    """:func:`softcm.specificity_at_sensitivity_loss` as a module."""

    function = staticmethod(operating_points.specificity_at_sensitivity_loss)
    fixed = CHOSEN

    def __init__(self, min_sensitivity: float, **options: "Unpack[ModuleOptions]") -> None:
        super().__init__(**options)
        heaviside = self.options["heaviside"]
        self.options["min_sensitivity"] = operating_points.check_options(
            "min_sensitivity", min_sensitivity, heaviside
        )
