"""Calls the compiled operators with random arguments, good and malformed.

    python tests/fuzz_operators.py --seconds 600 --seed 1

A good call has to return what the reference does; a malformed one may raise, or return tensors of
the shapes that it promises. Anything else, a crash included, is a bug. Call 17 of seed 1 alone:
``--seed 1 --first 17 --calls 1 --verbose``.
"""

import argparse
import math
import random
import sys
import time
from collections import Counter

import torch
from cases import lay_out

from softcm import _extension, autograd, reference  # noqa: F401  (autograd: the fake kernels)
from softcm.inputs import Batch, class_indices, number_of_classes

OPERATORS = (
    *("soft_counts", "soft_counts_backward", "fractional_loss", "composite_loss"),
    *("one_vs_rest_logits", "one_vs_rest_logits_backward"),
)
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LABELS = (*FLOATS, torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64)
FOREIGN = (torch.complex64, torch.float8_e4m3fn, torch.uint16, torch.uint64, torch.bool, torch.int8)
COMPOSITE = ("balanced_accuracy", "gmean", "informedness", "mcc", "kappa", "auroc", "auprc")
NUMBERS = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-45, 1e30, 1.8e308, math.inf, -math.inf, math.nan)
INTEGERS = (None, 0, 1, -1, 255, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
WORDS = (
    "",
    "soft",
    "gated",
    "linear",
    "step",
    "table",
    "none",
    "macro",
    "auprc",
    "x" * 5000,
    "é\0",
)
ALLOWED = (RuntimeError, TypeError, ValueError)
# What a fake kernel, which is Python, may say of arguments that no kernel would take.
OF_FAKES = (*ALLOWED, AttributeError, IndexError)


class Draw:
    """The arguments of one call."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(60))

    def rand(self, *shape):
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def layout(self, x):
        names = ["contiguous", "contiguous", "step", "offset", "transposed", "expanded"]
        if x.dim() > 2:
            names.append("channels last")
        return lay_out(x, self.random.choice(names))

    def shape(self):
        sizes = (1, 2, 3, 7, 16, 17, 33)
        first = self.random.choice((*sizes, 255, 513, 1025))
        shape = [first, *self.random.choices(sizes, k=self.random.choice((0, 0, 1, 1, 2, 3)))]
        while math.prod(shape) > 20_000:
            shape.pop()
        return tuple(shape)

    def batch_and_rule(self):
        pick = self.random.choice
        shape, dtype, from_logits = self.shape(), pick(FLOATS), pick((True, False))
        input = self.rand(*shape)
        input = self.layout((8 * input - 4 if from_logits else input).to(dtype))
        classes = number_of_classes(input)
        if classes > 1 and pick((True, False)):
            target = (classes * self.rand(*shape[:1], *shape[2:])).floor()
            target = target.to(pick((torch.uint8, torch.int16, torch.int64)))
        else:
            target = self.rand(*shape)
            target = (target if pick((True, False)) else target < 0.3).to(pick(LABELS))
        target = self.layout(target)
        thresholds = pick((1, 1, 2, 9, 40))
        per_sample = input.numel() > shape[0] and pick((True, False, False))
        rows = (classes,) if pick((True, False, False)) else ()
        threshold = 0.01 + 0.98 * self.rand(*rows, thresholds)
        threshold = threshold.to(pick(FLOATS[:2])).sort().values
        kind = pick(("linear", "sigmoid", "step", "table"))
        parameter, table = {"linear": 0.1, "sigmoid": 10.0, "step": 0.0, "table": 100.0}[kind], None
        if kind == "table":
            table = self.layout(self.rand(2, threshold.numel(), 100).float())
        weight = self.layout((2 * self.rand(*target.shape)).to(pick(LABELS)))
        pos_weight = self.rand(classes).to(pick(FLOATS))
        return {
            "input": input,
            "target": target,
            "threshold": threshold,
            "weight": pick((None, weight)),
            "pos_weight": pick((None, pos_weight)),
            "table": table,
            "ignore_index": pick((None, None, 0, 255)),
            "ignore_nan": pick((True, False)),
            "heaviside": kind,
            "parameter": parameter,
            "membership": pick(("soft", "gated")),
            "per_sample": per_sample,
            "from_logits": from_logits,
        }

    def arguments(self, operator):
        pick = self.random.choice
        if operator.startswith("one_vs_rest"):
            shape = self.shape()
            shape = (*shape[:1], max(2, *shape[:2]), *shape[2:])
            tensors = [self.layout((8 * self.rand(*shape) - 4).to(torch.float32)) for _ in range(3)]
            names = ("grad_output", "input", "output")
            given = dict(zip(names, tensors, strict=True))
            return given if operator.endswith("backward") else {"input": given["input"]}
        given = self.batch_and_rule()
        classes, thresholds = number_of_classes(given["input"]), given["threshold"].shape[-1]
        groups = classes * (given["input"].shape[0] if given["per_sample"] else 1)
        if operator == "soft_counts":
            return given | {"with_cross_entropy": pick((True, False))}
        if operator == "soft_counts_backward":
            grads = {
                "grad_counts": self.layout(self.rand(groups, thresholds, 4)),
                "grad_cross_entropy": self.rand(groups),
                "grad_loss": pick((None, self.rand(), self.rand(groups).float())),
            }
            threshold_grad = given["table"] is None and pick((True, False))
            return given | grads | {"threshold_grad": threshold_grad}
        own = self.rand(10) if operator == "fractional_loss" else pick(COMPOSITE)
        average = pick(("macro", "micro", "weighted", "none", "present"))
        weighs_classes = average in ("macro", "present") and pick((True, False))
        indices = class_indices(given["input"], given["target"])
        return given | {
            "per_sample": False,
            "class_weight": self.rand(classes) if weighs_classes else None,
            "maximize": pick((True, False)),
            "average": average,
            "zero_division": 0.0,
            "ce_weight": 0.0 if average == "none" and indices else pick((0.0, 0.3)),
            "metric": own,
            "with_grad": pick((True, False)),
        }

    def spoil(self, given):
        name = self.random.choice(list(given))
        given[name] = self.spoiled(given[name])

    def spoiled(self, value):
        pick = self.random.choice
        if isinstance(value, bool):
            return not value
        if isinstance(value, str):
            return pick(WORDS)
        if isinstance(value, float):
            return pick(NUMBERS)
        if isinstance(value, torch.Tensor):
            return self.spoiled_tensor(value)
        return pick((*INTEGERS, torch.rand(2), 0.5, "linear"))

    def spoiled_tensor(self, x):
        if x.is_meta or x.layout is not torch.strided or x.dtype in FOREIGN[:4]:
            return x
        pick, dim = self.random.choice, x.dim()
        ways = [
            *(lambda: None, self.rand, lambda: torch.empty(2**40, device="meta")),
            *4 * [lambda: self.poisoned(x.clone(memory_format=torch.contiguous_format))],
            *(lambda: x.to(pick(FOREIGN)), lambda: x.to(pick(LABELS)), lambda: x.to("meta")),
            *(
                x.flatten,
                lambda: x.unsqueeze(0),
                lambda: x.unsqueeze(-1),
                lambda: x[None, ..., None],
            ),
            *(
                lambda: x.reshape(1, -1),
                lambda: x.reshape(-1, 1),
                lambda: x.new_zeros(self.shape()),
            ),
            *(lambda: x.new_zeros(0), lambda: x.new_zeros((*x.shape, 0)), lambda: x.new_zeros(())),
        ]
        if dim:
            ways += [
                *(lambda: x[:0], lambda: x[:1], lambda: x[..., :0], lambda: torch.cat([x, x])),
                *(lambda: x[:1].expand(3 * len(x), *x.shape[1:]), x.to_sparse),
                lambda: x.flatten().as_strided(x.shape, (1,) * dim),
            ]
        if dim > 1:
            ways += [lambda: x.mT, lambda: x.transpose(0, 1), lambda: x[0]]
        try:
            return pick(ways)()
        except (IndexError, RuntimeError):  # not of a tensor that is empty or sparse already
            return x

    def poisoned(self, x):
        if x.numel():
            value = self.random.choice(NUMBERS if x.is_floating_point() else (2, 17, 127))
            everywhere = self.random.random() < 0.3
            x.view(-1)[slice(None) if everywhere else self.random.randrange(x.numel())] = value
        return x


def promised(operator, given):
    """Sizes and dtypes of the results, from the fake kernel."""
    with torch.no_grad():
        meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        results = operator(**meta)
    return [(x.shape, x.dtype) for x in as_tuple(results)]


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def same_as_reference(given, results):
    """Whether counts are those of the reference; where a step may fall on either side, yes."""
    if given["from_logits"] and given["heaviside"] in ("step", "table"):
        return True
    values = dict(given)
    with_cross_entropy = values.pop("with_cross_entropy")
    expected = reference.soft_counts(Batch(**values), with_cross_entropy)
    for actual, wanted in zip(results, expected, strict=True):
        scale = max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5 * scale)
    return True


def is_counted(given):
    """Whether softcm.inputs would let an unspoiled batch pass."""
    return given["target"].shape == given["input"].shape or class_indices(
        given["input"], given["target"]
    )


def one_call(seed):
    """What came of a call: "right", "returned" or "raised"."""
    draw = Draw(seed)
    name = draw.random.choice(OPERATORS)
    operator = getattr(torch.ops.softcm, name).default
    given = draw.arguments(name)
    mistakes = draw.random.choice((0, 1, 1, 1, 2, 3))
    for _ in range(mistakes):
        draw.spoil(given)
    fake = any(isinstance(x, torch.Tensor) and x.is_meta for x in given.values())
    try:
        results = as_tuple(operator(**given))
    except OF_FAKES as error:
        if mistakes == 0 or not (fake or isinstance(error, ALLOWED)):
            raise
        return "raised"
    if any(x.is_meta for x in results):
        return "returned"
    if mistakes == 0 and name == "soft_counts" and is_counted(given):
        assert same_as_reference(given, results)
    elif [(x.shape, x.dtype) for x in results] != promised(operator, given):
        raise AssertionError(f"{name}: not the shapes promised")
    return "returned" if mistakes else "right"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--calls", type=int, default=sys.maxsize)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--verbose", action="store_true", help="print the number of each call")
    options = parser.parse_args()
    if not _extension.LOADED:
        parser.error(f"softcm has no compiled extension: {_extension.REASON}")
    end, counts, index = time.monotonic() + options.seconds, Counter(), options.first
    while index < options.first + options.calls and time.monotonic() < end:
        if options.verbose:
            print(index, file=sys.stderr, flush=True)
        try:
            counts[one_call(f"{options.seed}-{index}")] += 1
        except Exception:
            print(f"call {index} of seed {options.seed}", file=sys.stderr)
            raise
        index += 1
    print(f"{sum(counts.values())} calls: {dict(sorted(counts.items()))}")


if __name__ == "__main__":
    main()
