"""The one list of cases on which every backend is compared with the float64 reference.

A case is a description: no tensor, device or dtype. :meth:`Case.build` makes its tensors from a
seed that depends on its id alone, so that a case is the same problem on every device and, but for
the rounding of its values, in every dtype.
"""

import itertools
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

import softcm
from softcm import Linear, Sigmoid, Table

# float32 holds these thresholds and their breakpoints tau -+ min(tau, 1 - tau) / 2 exactly, and so
# do the half types: only at them can a test say on which segment a breakpoint lies.
EXACT_THRESHOLDS = (0.25, 0.5, 0.75)
AVERAGES = ("macro", "micro", "weighted", "none", "present")
DEFAULT = Linear()
TENTHS = tuple(i / 10 for i in range(1, 10))
# Losses that choose their threshold; tests/test_operating_point_losses.py is about them.
OPERATING_POINTS = {
    "recall_at_fixed_precision_loss": "min_precision",
    "precision_at_fixed_recall_loss": "min_recall",
    "sensitivity_at_specificity_loss": "min_specificity",
    "specificity_at_sensitivity_loss": "min_sensitivity",
}

# Every loss, with the arguments that it needs of its own.
LOSSES = {
    "f1": (softcm.f1_loss, {}),
    "fbeta": (softcm.fbeta_loss, {"beta": 0.5}),
    "accuracy": (softcm.accuracy_loss, {}),
    "balanced_accuracy": (softcm.balanced_accuracy_loss, {}),
    "precision": (softcm.precision_loss, {}),
    "recall": (softcm.recall_loss, {}),
    "specificity": (softcm.specificity_loss, {}),
    "jaccard": (softcm.jaccard_loss, {}),
    "tversky": (softcm.tversky_loss, {"alpha": 0.3, "beta": 0.7}),
    "mcc": (softcm.mcc_loss, {}),
    "gmean": (softcm.gmean_loss, {}),
    "informedness": (softcm.informedness_loss, {}),
    "kappa": (softcm.kappa_loss, {}),
    "cost": (softcm.cost_loss, {"costs": (0.0, 5.0, 1.0, -0.5)}),
    "dice": (softcm.dice_loss, {"smooth": 1.5}),
    "focal_tversky": (softcm.focal_tversky_loss, {"gamma": 1.5}),
    "auroc": (softcm.auroc_loss, {}),
    "partial_auroc": (softcm.auroc_loss, {"max_fpr": 0.4}),
    "auprc": (softcm.auprc_loss, {}),
    "linear_fractional": (
        softcm.confusion_loss,
        {"metric": softcm.LinearFractional((2, 0.5, -1, 0), (2, 1, 1, 0.25), 0.5, 1.5)},
    ),
    "callable": (softcm.confusion_loss, {"metric": lambda cm: cm.tp * cm.tn / (cm.tp + cm.fp + 1)}),
}


class Example(NamedTuple):
    """The tensors and keyword arguments of one call."""

    input: Tensor
    target: Tensor
    options: dict[str, Any]  # of soft_confusion_matrix
    loss_options: dict[str, Any]  # average, ce_weight and class_weight

    def in_float64(self) -> "Example":
        """The problem that the same values, as they have been rounded, pose in float64."""
        return self._replace(input=self.input.double())


@dataclass(frozen=True)
class Case:
    id: str
    shape: tuple[int, ...] = (1000,)
    # or "exact", "skewed", "logits", "large logits", "sure logits", "far logits"
    values: str = "uniform"
    positives: float = 0.3  # share of positive labels
    # or "bool", "uint8", "int32", "float", "soft", "smooth", "index", "uint8 index", ...
    target: str = "int64"
    layout: str = "contiguous"
    target_layout: str = "contiguous"
    threshold: float | tuple[float, ...] = 0.5
    of_classes: bool = False  # C times as many thresholds, each class its own
    heaviside: Linear | Sigmoid | Table = DEFAULT
    membership: str = "soft"
    weight: str | None = None  # or "sample", "per row", "per class", "scalar", "zeros"
    pos_weight: str | None = None  # or "scalar", "classes"
    ignore_index: float | None = None
    per_sample: bool = False
    average: str = "macro"
    class_weight: bool = False
    ce_weight: float = 0.0

    @property
    def from_logits(self) -> bool:
        return "logits" in self.values

    @property
    def class_indices(self) -> bool:
        return self.target.endswith("index")

    @property
    def classes(self) -> int:
        return self.shape[1] if len(self.shape) > 1 else 1

    @property
    def thresholds(self) -> tuple[float, ...]:
        return self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)

    def build(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Example:
        generator = torch.Generator().manual_seed(zlib.crc32(self.id.encode()))
        input = lay_out(self._input(generator, dtype).to(device), self.layout)
        target = lay_out(self._target(generator, dtype).to(device), self.target_layout)
        threshold: Any = self.threshold
        if self.of_classes:
            rows = torch.tensor(self.thresholds, dtype=torch.float64)
            threshold = rows.reshape(self.classes, -1).to(device)
        options = {
            "threshold": threshold,
            "heaviside": self.heaviside,
            "membership": self.membership,
            "from_logits": self.from_logits,
            "ignore_index": self.ignore_index,
            "weight": self._weight(generator, target, dtype),
            "pos_weight": self._pos_weight(device),
            "per_sample": self.per_sample,
        }
        loss_options = {"average": self.average, "ce_weight": self.ce_weight}
        if self.class_weight:
            loss_options["class_weight"] = torch.linspace(0, 2, self.classes).to(device)
        return Example(input, target, options, loss_options)

    def _input(self, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        x = self._draw(generator).to(dtype)
        # Closer to a kink than float32 can tell, the two sides are equally right and their
        # gradients far apart; exactly on one that float32 holds, only one side is right.
        while (bad := self._near_kink(x)).any():
            x = torch.where(bad, self._draw(generator).to(dtype), x)
        return x

    def _draw(self, generator: torch.Generator) -> Tensor:
        def rand() -> Tensor:
            return torch.rand(self.shape, generator=generator, dtype=torch.float64)

        if self.values == "logits":
            return 6 * rand() - 3
        if self.values == "large logits":
            return 160 * rand() - 80
        if self.values == "sure logits":  # float32 has few digits of 1 - p
            return (8 + 8 * rand()) * (rand() - 0.5).sign()
        if self.values == "far logits":  # of which p is tiny, but not 0
            return -20 - 20 * rand()
        if self.values == "skewed":  # scores of a classifier that is sure of nearly everything
            return rand() ** 8
        if self.values == "exact":  # 0, 1, thresholds, breakpoints and what lies between them
            return (16 * rand()).round() / 16
        return rand()

    def _near_kink(self, x: Tensor) -> Tensor:
        p = x.double()
        if self.from_logits:
            p = p.softmax(1) if self.class_indices else p.sigmoid()
        bad = torch.zeros_like(p, dtype=torch.bool)
        for tau in self.thresholds:
            half = min(tau, 1 - tau) / 2
            for kink in (tau - half, tau, tau + half):
                bad |= ((p - kink).abs() < 1e-6) & (p != kink)
        if isinstance(self.heaviside, Table):  # between two levels
            kink = (p * self.heaviside.levels).round() / self.heaviside.levels
            bad |= ((p - kink).abs() < 1e-6) & (p != kink)
        return bad

    def _target(self, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        if self.class_indices:
            shape = self.shape[:1] + self.shape[2:]
            target = torch.randint(0, self.classes, shape, generator=generator)
            target = target.to(getattr(torch, self.target.removesuffix("index").strip() or "int64"))
        else:
            u = torch.rand(self.shape, generator=generator, dtype=torch.float64)
            target = u < self.positives
            if self.target == "soft":
                target = u.to(dtype)
            elif self.target == "smooth":
                target = torch.where(target, 0.9, 0.05).to(dtype)
            else:
                target = target.to(dtype if self.target == "float" else getattr(torch, self.target))
        if self.ignore_index is not None:
            ignored = torch.rand(target.shape, generator=generator) < 0.2
            target = target.masked_fill(ignored, self.ignore_index)
        return target

    def _weight(
        self, generator: torch.Generator, target: Tensor, dtype: torch.dtype
    ) -> Tensor | None:
        if self.weight is None:
            return None
        shape = {
            "per row": target.shape[:1] + (1,) * (target.dim() - 1),
            "per class": (1, self.classes) + (1,) * (target.dim() - 2),
            "scalar": (),
        }.get(self.weight, target.shape)
        weight = 0.1 + 2 * torch.rand(shape, generator=generator, dtype=torch.float64)
        if self.weight == "zeros":
            weight = weight * (torch.rand(shape, generator=generator) < 0.5)
        return weight.to(target.device, dtype)

    def _pos_weight(self, device: str) -> float | Tensor | None:
        if self.pos_weight == "classes":
            return torch.linspace(0.5, 4, self.classes, dtype=torch.float64).to(device)
        return 3.7 if self.pos_weight == "scalar" else None


def lay_out(x: Tensor, layout: str) -> Tensor:
    """The same values (for "expanded": those of the first sample) with other strides."""
    if layout == "contiguous":
        return x
    if layout == "step":  # every other element of every dimension
        room = x.new_zeros([2 * size for size in x.shape])
        view = room[(slice(None, None, 2),) * x.dim()]
    elif layout == "offset":  # not aligned to a vector
        view = x.new_zeros(x.numel() + 1)[1:].view(x.shape)
    elif layout == "transposed":
        view = x.new_zeros(x.shape[::-1]).permute(*reversed(range(x.dim())))
    elif layout == "channels last":
        view = x.new_zeros(x.movedim(1, -1).shape).movedim(-1, 1)
    elif layout == "expanded":
        return x[:1].expand(x.shape)
    else:
        raise ValueError(layout)
    return view.copy_(x)


def all_cases() -> list[Case]:
    cases = list(_generate())
    ids = [case.id for case in cases]
    assert len(set(ids)) == len(ids)
    return cases


def _generate() -> Iterator[Case]:
    yield from _sizes_and_shapes()
    yield from _layouts()
    yield from _targets()
    yield from _approximations()
    yield from _options()
    yield from _groups()
    yield from _many_thresholds()
    yield from _tables()
    yield from _combinations()


SIZES = (1, 2, 15, 16, 17, 255, 257, 511, 513, 1000, 16385)
SHAPES = (
    *((300, c) for c in (1, 2, 3, 17, 40)),
    (1, 2),
    (1, 40),
    (33, 3, 7),
    (2, 17, 300),
    (1, 3, 600),
    (5, 2, 11, 13),
    (3, 40, 4, 5),
)


def _name(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _sizes_and_shapes() -> Iterator[Case]:
    for size in SIZES:
        # The two ways through the kernels: memory as it lies, and copied to buffers first.
        yield Case(f"size-{size}-plain", shape=(size,), target="float")
        yield Case(f"size-{size}-staged", shape=(size,), values="logits", heaviside=Sigmoid())
    for shape in SHAPES:
        yield Case(f"shape-{_name(shape)}", shape=shape, target="float")
        yield Case(f"shape-{_name(shape)}-logits", shape=shape, values="logits", ce_weight=0.3)
        if shape[1] > 1:
            yield Case(f"index-{_name(shape)}", shape=shape, target="index", threshold=(0.2, 0.5))
            yield Case(f"index-{_name(shape)}-logits", shape=shape, target="index", values="logits")


def _layouts() -> Iterator[Case]:
    for shape in ((600,), (300, 17), (33, 3, 7), (5, 2, 11, 13)):
        layouts = ["step", "offset", "expanded"]
        layouts += ["transposed"] if len(shape) > 1 else []
        layouts += ["channels last"] if len(shape) > 2 else []
        for layout in layouts:
            base = Case(f"{layout}-{_name(shape)}".replace(" ", "_"), shape=shape, target="float")
            yield replace(base, id=base.id + "-input", layout=layout)
            yield replace(base, id=base.id + "-target", target_layout=layout)
            both = replace(base, layout=layout, target_layout=layout, weight="sample")
            yield replace(both, id=base.id + "-both", target="uint8", threshold=(0.3, 0.6))
    for layout in ("transposed", "channels last"):
        yield Case(
            f"index-{layout}".replace(" ", "_"),
            shape=(3, 5, 8, 9),
            values="logits",
            target="index",
            layout=layout,
            target_layout="transposed",
        )


def _targets() -> Iterator[Case]:
    for target in ("bool", "uint8", "int32", "int64", "float", "soft", "smooth"):
        yield Case(f"target-{target}", target=target)
        yield Case(
            f"target-{target}-classes",
            shape=(300, 3),
            target=target,
            values="logits",
            weight="sample",
            pos_weight="classes",
            ce_weight=0.3,
            threshold=(0.3, 0.7),
        )

    # 256 is no number of uint8, nor 128 one of int8.
    for classes, dtype in ((3, "int32"), (3, "uint8"), (256, "uint8"), (128, "int8")):
        target = f"{dtype} index"
        yield Case(f"target-{dtype}-index-{classes}", shape=(200, classes), target=target)
    yield Case(
        "target-uint8-index-ignored",
        shape=(30, 3, 8),
        target="uint8 index",
        values="logits",
        ignore_index=255,
    )


def _approximations() -> Iterator[Case]:
    approximations = {
        **{f"linear{delta}": Linear(delta) for delta in (0.01, 0.1, 0.25, 0.49)},
        **{f"sigmoid{k:g}": Sigmoid(k) for k in (1.0, 10.0, 200.0)},
    }
    thresholds = {"0.5": 0.5, "0.3": 0.3, "0.002": 0.002, "0.998": 0.998, "tenths": TENTHS}
    for name, heaviside in approximations.items():
        for membership in ("soft", "gated"):
            options = {"heaviside": heaviside, "membership": membership}
            for tau, threshold in thresholds.items():
                yield Case(f"{name}-{membership}-{tau}", threshold=threshold, **options)
            yield Case(f"{name}-{membership}-logits", values="logits", threshold=0.6, **options)
            for tau in EXACT_THRESHOLDS:
                yield Case(
                    f"{name}-{membership}-exact{tau}", values="exact", threshold=tau, **options
                )


def _options() -> Iterator[Case]:
    for weight in ("sample", "per row", "per class", "scalar", "zeros"):
        if weight != "per class":
            yield Case(f"weight-{weight}".replace(" ", "_"), weight=weight)
        yield Case(
            f"weight-{weight}-classes".replace(" ", "_"),
            shape=(300, 17),
            weight=weight,
            ce_weight=1.0,
            membership="gated",
        )
    yield Case("weight-index", shape=(40, 3, 9), target="index", weight="sample", ce_weight=1.0)
    for pos_weight in ("scalar", "classes"):
        options = {"pos_weight": pos_weight, "ce_weight": 0.3}
        yield Case(f"pos_weight-{pos_weight}", shape=(300, 3), **options)
        yield Case(f"pos_weight-{pos_weight}-one", target="soft", values="logits", **options)
    for target, ignored in (("int64", -100), ("uint8", 255), ("float", -1), ("index", -100)):
        shape = (300, 3)
        yield Case(f"ignore-{target}", shape=shape, target=target, ignore_index=ignored)
        options = {"weight": "sample", "pos_weight": "classes", "ce_weight": 0.3}
        yield Case(
            f"ignore-{target}-all",
            shape=shape,
            target=target,
            ignore_index=ignored,
            values="logits",
            **options,
        )
    # An ignored class index, and an ignored label, among those that would be valid.
    yield Case("ignore-index-2", shape=(300, 5), target="index", ignore_index=2, ce_weight=0.3)
    yield Case("ignore-label-0", positives=0.6, ignore_index=0, weight="sample")
    for ce_weight in (0.3, 2.0):
        for values in ("uniform", "exact", "logits", "large logits"):
            yield Case(
                f"bce{ce_weight}-{values}".replace(" ", "_"), values=values, ce_weight=ce_weight
            )
    for average in AVERAGES:
        for target in ("int64", "index"):
            name = f"average-{average}-{target}"
            options = {"target": target, "average": average}
            yield Case(name, shape=(300, 3), threshold=TENTHS, **options)
            yield Case(
                f"{name}-all",
                shape=(30, 4, 10),
                values="logits",
                threshold=(0.3, 0.5),
                weight="zeros",
                pos_weight="classes",
                ce_weight=0.5,
                **options,
            )


def _groups() -> Iterator[Case]:
    """Counts of single samples, thresholds of single classes, and what else is by class."""
    for shape in ((6, 3, 40), (5, 2, 11, 13), (30, 4), (3, 1, 50)):
        base = Case(f"per-sample-{_name(shape)}", shape=shape, target="float", per_sample=True)
        yield base
        yield replace(base, id=base.id + "-logits", values="logits", target="uint8", ce_weight=0.3)
        if shape[1] > 1:
            yield replace(base, id=base.id + "-index", target="index", values="logits")
    samples = Case("per-sample", (6, 3, 40), target="index", values="logits", per_sample=True)
    for average in AVERAGES:
        yield replace(samples, id=f"per-sample-{average}", average=average, weight="sample")
        yield replace(
            samples,
            id=f"per-sample-{average}-labels",
            target="bool",
            average=average,
            positives=0.02,  # some samples have none
            ce_weight=0.3,
            pos_weight="classes",
        )
    yield replace(samples, id="per-sample-layout", layout="channels last", threshold=(0.3, 0.6))
    yield replace(samples, id="per-sample-ignored", ignore_index=1, ce_weight=0.3)
    yield replace(samples, id="per-sample-classes", threshold=(0.2, 0.4, 0.6), of_classes=True)
    yield replace(samples, id="per-sample-class-weight", class_weight=True, heaviside=Sigmoid())
    yield replace(samples, id="per-sample-many", shape=(3, 2, 600), threshold=TENTHS + TENTHS)

    three, six = (0.2, 0.5, 0.7), (0.2, 0.5, 0.7, 0.3, 0.4, 0.9)
    for heaviside in (Linear(), Sigmoid(), Sigmoid(50.0), Table()):
        for thresholds in (three, six):
            yield Case(
                f"thresholds-of-classes-{heaviside.kind}{heaviside.parameter:g}-{len(thresholds)}",
                shape=(300, 3),
                target="float",
                heaviside=heaviside,
                threshold=thresholds,
                of_classes=True,
            )
    for name, options in (
        ("logits", {"values": "logits", "target": "soft", "membership": "gated"}),
        ("index", {"values": "logits", "target": "index", "ce_weight": 0.3}),
        ("weights", {"weight": "sample", "pos_weight": "classes", "average": "micro"}),
    ):
        yield Case(
            f"thresholds-of-classes-{name}", (30, 3, 9), threshold=six, of_classes=True, **options
        )
    # The classes have buckets of different numbers.
    many = (*(i / 40 for i in range(1, 31)), *(i / 60 for i in range(1, 31)), *(15 * TENTHS)[:30])
    for heaviside in (Linear(), Sigmoid()):
        yield Case(
            f"thresholds-of-classes-many-{heaviside.kind}",
            shape=(600, 3),
            heaviside=heaviside,
            threshold=many,
            of_classes=True,
        )

    for shape in ((400,), (300, 3)):
        yield Case(f"missing-{_name(shape)}", shape, target="float", ignore_index=math.nan)
        yield Case(
            f"missing-{_name(shape)}-all",
            shape,
            values="logits",
            target="soft",
            ignore_index=math.nan,
            weight="sample",
            pos_weight="classes",
            ce_weight=0.3,
        )
    for average in ("macro", "present"):
        for target in ("int64", "index"):
            yield Case(
                f"class-weight-{average}-{target}",
                shape=(40, 5),
                values="logits",
                target=target,
                positives=0.02,
                average=average,
                class_weight=True,
                threshold=(0.3, 0.6),
            )
    for target in ("index", "int64"):  # the softmax's cross-entropy, and that of each class
        yield Case(
            f"ce-{target}-weights",
            shape=(300, 4),
            values="logits",
            target=target,
            weight="sample",
            pos_weight="classes",
            ce_weight=2.0,
        )
        yield Case(f"ce-{target}", (300, 4), target=target, ce_weight=2.0)
        yield Case(f"ce-{target}-none", (300, 4), target=target, ce_weight=2.0, average="none")


def _many_thresholds() -> Iterator[Case]:
    """So many that kernels may take another way than a loop over them."""
    hundred = tuple(i / 100 for i in range(1, 100))
    exact = tuple(i / 32 for i in range(1, 32))
    approximations = (Linear(), Linear(0.01), Linear(0.49), Sigmoid(), Sigmoid(200.0))
    for heaviside, membership in itertools.product(approximations, ("soft", "gated")):
        base = Case(
            f"many-{heaviside.kind}{heaviside.parameter:g}-{membership}",
            threshold=hundred,
            heaviside=heaviside,
            membership=membership,
        )
        yield replace(base, target="float")
        # Not the outermost ones: of tails of a steep sigmoid alone, p in float32 tells too little.
        yield replace(
            base,
            id=base.id + "-logits",
            values="logits",
            weight="sample",
            threshold=hundred[9:-9],
        )
        # 0, 1 and elements on a threshold or breakpoint.
        yield replace(base, id=base.id + "-exact", values="exact", threshold=exact)
    for name, target, options in (
        ("soft", "soft", {"weight": "zeros", "ce_weight": 0.3}),
        ("classes", "int64", {"weight": "per row", "pos_weight": "classes", "average": "weighted"}),
        ("ignored", "float", {"ignore_index": -1, "average": "none"}),
        ("index", "index", {"ignore_index": -100, "values": "logits", "average": "micro"}),
    ):
        yield Case(f"many-{name}", shape=(600, 17), target=target, threshold=hundred, **options)
    for name, thresholds in (
        ("clustered", tuple(0.4 + i / 10_000 for i in range(60))),
        ("tiny", tuple((i + 1) / 100_000 for i in range(60))),
        ("large", tuple(1 - (i + 1) / 100_000 for i in range(60))),
        ("unordered", hundred[::-1] + hundred[::7]),
    ):
        yield Case(f"many-{name}", threshold=thresholds, target="float")
        yield Case(f"many-{name}-sure", threshold=thresholds, values="sure logits")
    yield Case("99-thresholds-classes", shape=(600, 3), values="logits", threshold=hundred)
    thousand = tuple(i / 1000 for i in range(1, 1000))
    yield Case("999-thresholds", (5000,), "skewed", 0.02, threshold=thousand, membership="gated")
    yield Case("many-samples", (60_001,), threshold=exact, weight="sample")


def _tables() -> Iterator[Case]:
    fine = Table(Linear(0.2), decimals=3, threshold_step=0.01, dtype=torch.float32)
    hundred = tuple(i / 100 for i in range(1, 100))
    for membership in ("soft", "gated"):
        base = Case("table", heaviside=Table(), membership=membership, threshold=TENTHS)
        yield replace(base, id=f"table-{membership}", target="float")
        yield replace(base, id=f"table-{membership}-exact", values="exact", target="float")
        yield replace(
            base,
            id=f"table-{membership}-logits",
            shape=(300, 3),
            values="logits",
            heaviside=Table(Sigmoid(), dtype=torch.float16),
            weight="sample",
            pos_weight="classes",
            ce_weight=0.3,
        )
        yield replace(base, id=f"table-{membership}-fine", heaviside=fine, threshold=hundred)
    own = Table(Sigmoid(50.0), decimals=1, thresholds=(0.7, 0.25))
    yield Case("table-index", (300, 3), target="index", heaviside=own, threshold=0.25)
    yield Case("table-ignored", target="soft", ignore_index=-1, heaviside=own, threshold=(0.7,))
    yield Case("table-large", (60_001,), "skewed", 0.02, heaviside=Table(), target="float")


def _combinations() -> Iterator[Case]:
    yield Case("unordered-thresholds", threshold=(0.7, 0.2, 0.7, 0.5))
    for membership in ("soft", "gated"):  # and 0 and 1 among the probabilities
        ends = (5e-324, 1e-30, 2.0**-59, 1 - 2.0**-23)
        yield Case(f"ends-{membership}", values="exact", threshold=ends, membership=membership)
    for target in ("int64", "index"):
        yield Case(f"large-logits-{target}", shape=(300, 3), values="large logits", target=target)
    for membership in ("soft", "gated"):
        yield Case(f"sure-logits-{membership}", values="sure logits", membership=membership)
    yield Case("far-logits", values="far logits", ce_weight=0.3)
    yield Case("large-logits-sigmoid", values="large logits", heaviside=Sigmoid(), ce_weight=0.3)
    yield Case("skewed", shape=(5000,), values="skewed", positives=0.01)
    yield Case(
        "skewed-gated",
        shape=(5000,),
        values="skewed",
        positives=0.01,
        heaviside=Sigmoid(),
        membership="gated",
        threshold=(0.1, 0.5),
        ce_weight=0.3,
    )
    yield Case("large", shape=(1_000_001,), target="float", threshold=(0.3, 0.5))


CASES = all_cases()
