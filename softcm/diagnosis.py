"""Signs that training goes wrong although no call is wrong, and what to do about each."""

import warnings
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from . import inputs
from .confusion import count, prepare
from .heaviside import Step
from .options import Options, TensorOptions

if TYPE_CHECKING:
    from .modules import Loss

# "Just below" a threshold: within this share of its distance from the nearer one of 0 and 1.
BAND = 0.2
# Predictions are piled up there if so large a share of the positives, and of the negatives, is.
PILE = 0.75
# From so many classes on it says that most of them have no positive.
MANY_CLASSES = 8
# Of one label so many samples must be there before it says anything that none is predicted.
MISSED = 10
# A loss module looks at one in so many batches, and warns of a sign seen at so many of ten looks:
# a look costs half a step, a chance batch is no sign, and an untrained network is none either.
EVERY = 50
LOOKS, ENOUGH = 10, 8


class SoftcmWarning(UserWarning):
    """Training seems to go wrong: the text says what was seen, why it matters and what to do."""


class Sign(NamedTuple):
    """What a batch shows, in words, and what that means."""

    seen: str
    advice: str

    def __str__(self) -> str:
        return f"{self.seen}. {self.advice}"


def diagnose(
    input: Tensor,
    target: Tensor,
    *,
    threshold: float | Tensor = 0.5,
    membership: str = "soft",
    weight: Tensor | None = None,
    ignore_index: float | None = None,
    from_logits: bool = False,
) -> tuple[str, ...]:
    """Signs that training goes wrong, in sentences with numbers; empty if there are none.

    A loss module looks by itself (:class:`softcm.F1Loss` and its like say when). This is for those
    who call the functional forms, train on a GPU, where looking waits for the device, or want to
    know at once, say after each epoch, of the validation data. It looks for

    - predictions of both labels piled up just below the threshold, in
      [threshold - 0.2 m, threshold) with m = min(threshold, 1 - threshold), where memberships of
      eq. (3) have a spurious optimum. That is also how an untrained network may look;
    - the same prediction for all samples, though there are ten or more of the other label;
    - no positive sample;
    - most classes without a positive, as where a mask (N, H, W) is taken for H classes;
    - logits that all lie in [0, 1], as if a sigmoid had been applied already.

    Args: those of the loss, as of :func:`softcm.f1_loss`. Classes are taken together, and with
        several thresholds nothing is said of a pile or of the same prediction.

    Raises:
        TypeError, ValueError: as :func:`softcm.confusion_matrix`.
    """
    options = Options(membership=membership, ignore_index=ignore_index, from_logits=from_logits)
    tensors = TensorOptions(threshold=threshold, weight=weight)
    return tuple(map(str, _signs(input, target, options, tensors).values()))


@torch.no_grad()
def _signs(
    input: Tensor, target: Tensor, options: Options, tensors: TensorOptions
) -> dict[str, Sign]:
    inputs.check_input(input, target)
    membership, from_logits = options.membership, options.from_logits
    threshold = inputs.threshold_tensor(tensors.threshold, input, from_logits)
    taus = threshold.reshape(-1).tolist()
    tau, one = taus[0], len(taus) == 1
    low = tau - BAND * min(tau, 1 - tau)
    grid = (low, tau) if one and 0 < tau < 1 else threshold
    tensors = TensorOptions(threshold=grid, weight=tensors.weight)
    batch, served_by = prepare(input, target, options, tensors, Step())
    # Hard counts (C, T, 4), and of all classes together (T, 4).
    of_classes = count(batch, served_by).counts
    counts = of_classes.sum(0).tolist()
    (tp, fn, fp, tn), (tp_above, fn_below, fp_above, tn_below) = counts[0], counts[-1]
    positives, negatives = tp + fn, fp + tn
    signs: dict[str, Sign] = {}
    if positives == 0 and negatives > 0:
        signs["no positives"] = Sign(
            f"none of the {negatives:.6g} samples is positive",
            "A batch without positives teaches nothing about recall. Take larger batches, or a "
            "sampler that puts positives into each, such as "
            "torch.utils.data.WeightedRandomSampler.",
        )
    if positives > 0 and not inputs.class_indices(input, target):
        signs |= _sign_of_classes(input, of_classes[:, 0, :2].sum(-1))
    # What membership="soft", eq. (3), has a part in.
    gate_costs = gate_beta = ""
    if membership == "soft":
        gate_costs = ' For unequal costs pass membership="gated": they do little in eq. (3).'
        gate_beta = (
            ' Pass membership="gated", without which it is an optimum of F-beta wherever more than '
            "1 / beta^2 of the samples are positive."
        )
    if one and positives > 0 and negatives > 0:
        shares = (tp - tp_above) / positives, (fp - fp_above) / negatives
        if membership == "soft" and min(shares) >= PILE:
            signs["pile"] = Sign(
                f"{100 * shares[0]:.0f} % of the positives and {100 * shares[1]:.0f} % of the "
                f"negatives are predicted just below the threshold, in [{low:.3g}, {tau:.3g})",
                'With membership="soft", eq. (3), this is a spurious optimum: it gives a soft F1 '
                "of 0.5 whatever the labels, and training stays there if the task allows little "
                'more. Pass membership="gated", or add cross-entropy by ce_weight=0.3 or more.',
            )
        elif tp_above + fp_above == 0 and positives >= MISSED:
            signs["all negative"] = Sign(
                f"none of the {positives + negatives:.6g} samples is predicted positive, of which "
                f"{positives:.6g} are",
                "Where positives are few, accuracy is as high without them: take a metric that "
                "looks for them, such as F1." + gate_costs,
            )
        elif fn_below + tn_below == 0 and negatives >= MISSED:
            signs["all positive"] = Sign(
                f"all of the {positives + negatives:.6g} samples are predicted positive, of which "
                f"{negatives:.6g} are not",
                "It is the best for recall, and may be for F-beta with a large beta: take a lower "
                "one, or add cross-entropy by ce_weight=0.3 or more." + gate_beta,
            )
    if from_logits:
        lowest, highest = (x.item() for x in input.aminmax())
        if lowest >= 0 and highest <= 1:
            signs["probabilities"] = Sign(
                f"all logits lie in [{lowest:.3g}, {highest:.3g}], as probabilities do",
                "from_logits=True applies a sigmoid or softmax. If the model ends in one itself, "
                "leave from_logits out, or better the last layer of the model.",
            )
    return signs


def _sign_of_classes(input: Tensor, positives: Tensor) -> dict[str, Sign]:
    """Whether dimension 1 of a mask (N, H, W), or of a sequence (N, T), may hold no classes."""
    classes, without = positives.numel(), int((positives == 0).sum())
    if classes < MANY_CLASSES or 2 * without <= classes:
        return {}
    return {
        "classes": Sign(
            f"{without} of {classes} classes have no positive, where dimension 1 of an input of "
            f"shape {tuple(input.shape)} is taken for the classes",
            "If these are masks (N, H, W) or sequences (N, T) of one class, pass "
            "input.unsqueeze(1) and target.unsqueeze(1): each row is a class of its own otherwise. "
            'If they are classes, take larger batches, or average="present" or "micro".',
        )
    }


class Watch:
    """What a loss module remembers of the batches on which it is trained."""

    def __init__(self) -> None:
        self.batches = 0
        self.looks: deque[dict[str, Sign]] = deque(maxlen=LOOKS)
        self.told: set[str] = set()

    def step(self, loss: "Loss", input: Tensor, target: Tensor, weight: Tensor | None) -> None:
        """Count a batch; look at every 50th, on the CPU, and warn once of what is seen often."""
        self.batches += 1
        if self.batches % EVERY or input.device.type != "cpu" or inputs.is_transformed():
            return
        if input.numel() == 0:  # a process's part of a batch
            return
        options = loss.options
        names = ("membership", "ignore_index", "from_logits")
        signs = _signs(
            input,
            target,
            Options(**{name: options[name] for name in names}),
            TensorOptions(threshold=loss.threshold, weight=weight),
        )
        # Of a part of a batch it means nothing, and neither to a metric that is a mean of samples.
        if options["process_group"] is not None or not loss.needs_positives:
            signs.pop("no positives", None)
        self.looks.append(signs)
        for kind, sign in signs.items():
            often = sum(kind in look for look in self.looks)
            if often < ENOUGH or kind in self.told:
                continue
            self.told.add(kind)
            warnings.warn(
                f"{sign.seen}. So it was at {often} of the last {len(self.looks)} looks of this "
                f"{type(loss).__name__}, one at every {EVERY}th batch. {sign.advice}",
                SoftcmWarning,
                stacklevel=5,  # the caller of the module
            )
