"""How the samples, groups and thresholds of a call are divided among Triton programs.

A group has counts of its own: a class, or with ``per_sample`` a class of one sample of (N, C, *).
"""

from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

Strides = tuple[int, int, int]


class Tuning(NamedTuple):
    """Sizes chosen from what the compilers report (benchmarks/triton_on_paper.py), never timed."""

    tile: int = 512  # samples x groups that a program looks at together
    backward_tiles: int = 2  # that a program of the backward pass takes as one
    terms: int = 8  # that a lane adds up in float32: keeps the error of a count below 1e-6
    most_groups: int = 16  # of a tile
    most_thresholds: int = 2  # of a program: each has four sums in registers
    programs: int = 4096  # beyond which a program takes more samples instead
    sums: int = 1024  # of the programs, that the last one adds up together
    warps: int = 4  # of 32 threads; an AMD wavefront has 64


class Plan(NamedTuple):
    strides: tuple[Strides, ...]  # of N, C and L: input, target, (weight,) a contiguous tensor
    rows: int
    length: int  # samples of a row
    divide: bool  # whether a sample's place has to be divided into n and l
    samples: int  # of a tile
    groups: int  # of a tile
    tiles: int
    thresholds: int  # of a program
    ranges: int  # of thresholds
    part: int  # samples of a program
    parts: int  # of a row
    columns: int  # of the table of all programs' sums that are added up together


def three_strides(x: Tensor, has_classes: bool) -> tuple[Tensor, Strides]:
    """A view of N, C and L (a copy where there is none), and its strides; 0 where a size is 1."""
    x = x if has_classes else x.unsqueeze(1)
    x = x.unsqueeze(2) if x.dim() == 2 else x.flatten(2)
    n, c, inner = (0 if size == 1 else s for size, s in zip(x.shape, x.stride(), strict=True))
    return x, (n, c, inner)


@lru_cache(maxsize=4096)
def make_plan(
    n: int,
    classes: int,
    inner: int,
    thresholds: int,
    strides: tuple[Strides, ...],
    per_sample: bool,
    tuning: Tuning,
) -> Plan:
    """By the sizes alone, so that sums come out the same from run to run."""
    strides = (*strides, (classes * inner, inner, 1))
    rows, length, divide, groups = n, inner, False, classes
    if per_sample:
        rows, groups = 1, n * classes
    elif inner == 1:
        strides = tuple((0, of_c, of_n) for of_n, of_c, _ in strides)
        rows, length = 1, n
    elif n == 1 or all(of_n == inner * of_l for of_n, _, of_l in strides):
        rows, length = 1, n * inner
    elif inner < tuning.tile // 2:
        rows, length, divide = 1, n * inner, True

    # Several groups to a tile where they lie closer than the samples, or samples are few.
    samples, of_tile = tuning.tile, 1
    few = length < tuning.tile // 2
    if groups > 1 and (strides[0][1] < strides[0][2] or few):
        of_tile = min(_power_of_two(groups), tuning.most_groups)
        samples = min(tuning.tile // of_tile, _power_of_two(max(length, 32)))
    tiles = -(-groups // of_tile)
    ranges = -(-thresholds // tuning.most_thresholds)
    unit = samples * tuning.terms
    most_parts = max(tuning.programs // (rows * tiles * ranges), 1)
    part = unit * -(-length // (unit * most_parts))
    return Plan(
        strides=strides,
        rows=rows,
        length=length,
        divide=divide,
        samples=samples,
        groups=of_tile,
        tiles=tiles,
        thresholds=-(-thresholds // ranges),
        ranges=ranges,
        part=part,
        parts=-(-length // part),
        columns=min(_power_of_two(groups * (4 * thresholds + 4)), tuning.sums // 8),
    )


def _power_of_two(x: int) -> int:
    return 1 << (x - 1).bit_length()
