"""What a user might pick instead: losses of PyTorch and of other packages, where installed.

Each comes with the formula it must agree with, in float64, before it is timed.
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import softcm

LossFunction = Callable[[Tensor, Tensor], Tensor]


class NotRun(Exception):
    """A contender that cannot be timed here, and why."""


class Peer(NamedTuple):
    """How to make a loss of (input, target), and the same in float64 and in plain terms."""

    make: Callable[[], LossFunction]
    exact: LossFunction
    from_logits: bool = False
    losses: tuple[str, ...] | None = None  # those that it may stand in for; None: all
    several_classes: bool = False


def module(name: str) -> Any:
    """An installed module; what keeps it from being imported becomes the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(name)
    except ModuleNotFoundError as error:
        raise NotRun(f"{name} is not installed ({error})") from None
    except Exception as error:
        first = str(error).split("\n")[0]
        raise NotRun(f"{name} cannot be imported ({type(error).__name__}: {first})") from None


def _column(loss: Any) -> LossFunction:
    """For losses that insist on shape (N, 1)."""
    return lambda input, target: loss(input.unsqueeze(1), target.unsqueeze(1))


def _focal() -> LossFunction:
    focal = module("torchvision.ops").sigmoid_focal_loss
    return lambda input, target: focal(input, target, reduction="mean")


def _exact_focal(z: Tensor, y: Tensor) -> Tensor:
    p = torch.where(y == 1, z.sigmoid(), 1 - z.sigmoid())
    alpha = torch.where(y == 1, 0.25, 0.75)
    return -(alpha * (1 - p) ** 2 * p.log()).mean()


def _smp(name: str, **options: float) -> Callable[[], LossFunction]:
    def make() -> LossFunction:
        losses = module("segmentation_models_pytorch.losses")
        return _column(getattr(losses, name)("binary", from_logits=False, **options))

    return make


def _monai(name: str, **options: float) -> Callable[[], LossFunction]:
    def make() -> LossFunction:
        loss = getattr(module("monai.losses"), name)
        # Over the batch, as a metric of it is meant here; MONAI's default is the mean over samples.
        return _column(loss(batch=True, smooth_nr=0.0, smooth_dr=0.0, **options))

    return make


def _exact_dice(p: Tensor, y: Tensor) -> Tensor:
    return 1 - 2 * (p * y).sum() / (p.sum() + y.sum())


def _exact_tversky(p: Tensor, y: Tensor) -> Tensor:
    tp, fp, fn = (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum()
    return 1 - tp / (tp + 0.3 * fp + 0.7 * fn)


def _aucm() -> LossFunction:
    return _column(module("libauc.losses").AUCMLoss(device="cpu"))


def _exact_aucm(p: Tensor, y: Tensor) -> Tensor:
    """Of parameters a, b and alpha that are 0, as they begin."""
    share = y.mean()
    return ((1 - share) * p**2 * y + share * p**2 * (1 - y)).mean()


def _btg() -> LossFunction:
    if not torch.cuda.is_available():
        raise NotRun("torch-btg 0.0.1 calls .cuda(), and there is no GPU here")
    half = torch.tensor([0.5], device="cuda")
    loss = module("torch_btg.loss").accuracy_loss(device="cuda", thresholds=half)
    return lambda input, target: loss(input, target)[0]


def _exact_btg(p: Tensor, y: Tensor) -> Tensor:
    linear = softcm.Linear(delta=0.2)
    return softcm.accuracy_loss(p, y, heaviside=linear, membership="gated", backend="reference")


DICE, TVERSKY = ("f1",), ("tversky",)
PEERS = {
    "cross-entropy": Peer(
        lambda: F.binary_cross_entropy,
        lambda p, y: -(y * p.log() + (1 - y) * (1 - p).log()).mean(),
        several_classes=True,
    ),
    "cross-entropy of logits": Peer(
        lambda: F.binary_cross_entropy_with_logits,
        lambda z, y: (F.softplus(z, threshold=50) - y * z).mean(),
        from_logits=True,
        several_classes=True,
    ),
    "torchvision focal": Peer(_focal, _exact_focal, from_logits=True, losses=("f1", "mcc")),
    "smp Dice": Peer(_smp("DiceLoss"), _exact_dice, losses=DICE),
    "smp Tversky": Peer(_smp("TverskyLoss", alpha=0.3, beta=0.7), _exact_tversky, losses=TVERSKY),
    "MONAI Dice": Peer(_monai("DiceLoss"), _exact_dice, losses=DICE),
    "MONAI Tversky": Peer(
        _monai("TverskyLoss", alpha=0.3, beta=0.7), _exact_tversky, losses=TVERSKY
    ),
    "LibAUC AUCM": Peer(_aucm, _exact_aucm, losses=("auroc",)),
    "torch-btg": Peer(_btg, _exact_btg, losses=("accuracy",)),
}
