"""The losses as modules: they hold the options and call the functional form."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from . import inputs, losses, metrics
from .backends import REQUESTS
from .confusion import ConfusionMatrix
from .diagnosis import Watch
from .distributed import Parts
from .heaviside import DEFAULT, Heaviside
from .inputs import Threshold
from .losses import CommonOptions
from .metrics import Costs, LinearFractional
from .values import check_threshold

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Unpack


class ModuleOptions(CommonOptions, total=False):
    """The options that modules share; :func:`softcm.f1_loss` says what they mean."""

    threshold: Threshold


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
    # Whether a batch without positives is a loss of information rather than one of many samples.
    needs_positives: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        # help() shows no docstring of a base class; Python's option -OO leaves none.
        if cls.__doc__ and Loss.__doc__:
            cls.__doc__ += "\n\n" + Loss.__doc__.partition("\n\n")[2]

    def __init__(
        self,
        *,
        threshold: Threshold = 0.5,
        heaviside: Heaviside = DEFAULT,
        membership: str = "soft",
        pos_weight: float | Tensor | None = None,
        ignore_index: int | None = None,
        average: str = "macro",
        zero_division: float = 0.0,
        bce_weight: float = 0.0,
        from_logits: bool = False,
        backend: str = "auto",
        process_group: "ProcessGroup | None" = None,
    ) -> None:
        super().__init__()
        # A mistake is told where it was made. The call looks again, as options may change, and at
        # what depends on the batch.
        losses.check_options(
            heaviside, membership, average, zero_division, bce_weight, from_logits, process_group
        )
        inputs.check_choice("backend", backend, REQUESTS)
        if ignore_index is not None:
            inputs.check_ignore_index(ignore_index)
        if not isinstance(threshold, Tensor):
            inputs.threshold_tensor(threshold, torch.device("cpu"))
        if pos_weight is not None and not isinstance(pos_weight, Tensor):
            inputs.check_pos_weight(pos_weight)
        self._set("threshold", threshold)
        self._set("pos_weight", pos_weight)
        self.options: dict[str, Any] = {
            "heaviside": heaviside,
            "membership": membership,
            "ignore_index": ignore_index,
            "average": average,
            "zero_division": zero_division,
            "bce_weight": bce_weight,
            "from_logits": from_logits,
            "backend": backend,
            "process_group": process_group,
        }
        self._watch = Watch()

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
        options = {**self.options, "process_group": parts}
        return type(self).function(
            input,
            target,
            threshold=self.threshold,
            pos_weight=self.pos_weight,
            weight=weight,
            **options,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "Loss":
        # A process group cannot be copied, and a copy of the loss belongs to the same one.
        process_group = self.options["process_group"]
        memo[id(process_group)] = process_group
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def extra_repr(self) -> str:
        shown = {"threshold": self.threshold, "pos_weight": self.pos_weight, **self.options}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items() if value is not None)


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


class AUROCLoss(Loss):
    """:func:`softcm.auroc_loss` as a module."""

    function = staticmethod(losses.auroc_loss)

    def __init__(
        self,
        *,
        threshold: Threshold = losses.RANKING_THRESHOLDS,
        **options: "Unpack[CommonOptions]",
    ) -> None:
        super().__init__(threshold=threshold, **options)


class AUPRCLoss(Loss):
    """:func:`softcm.auprc_loss` as a module."""

    function = staticmethod(losses.auprc_loss)

    def __init__(
        self,
        *,
        threshold: Threshold = losses.RANKING_THRESHOLDS,
        **options: "Unpack[CommonOptions]",
    ) -> None:
        super().__init__(threshold=threshold, **options)


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
