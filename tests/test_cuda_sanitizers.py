"""The CUDA kernels, emulated, under AddressSanitizer with UBSan and under ThreadSanitizer, to which
each CUDA thread is a thread; and the same for kernels with a bug, each of which must be found.
"""

import subprocess

import pytest
from emulator import SANITIZERS, build_once, build_program, build_scheduler, needs_emulator

pytestmark = [needs_emulator, pytest.mark.slow]

KERNELS = ("plain", "small", "general", "thresholds", "buckets", "classes", "composite")


@pytest.fixture(scope="module")
def schedulers(tmp_path_factory):
    """The emulator's own part by sanitizer."""
    return {
        name: build_once(
            tmp_path_factory,
            f"scheduler-{name}",
            lambda folder, name=name: build_scheduler(folder, name),
        )
        for name in SANITIZERS
    }


def runs(program, name, seed):
    done = subprocess.run([program, name, str(seed)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_clean(sanitizer, schedulers, tmp_path):
    program = build_program(tmp_path, sanitizer, schedulers[sanitizer], KERNELS)
    for name in KERNELS:
        for seed in (1, 2):
            status, output = runs(program, name, seed)
            assert (status, output) == (0, "agrees\n"), f"{name}, seed {seed}: {output[:3000]}"


# What is changed in which file, by which build it is found in which kernels, and how.
BUGS = {
    "missing barrier": (
        ("cuda/reduce.cuh", "  __syncthreads();\n  for (int i", "  for (int i"),
        ("thread", "plain", "data race"),
    ),
    "missing fence": (
        ("cuda/reduce.cuh", "    __threadfence();\n    last", "    last"),
        ("thread", "plain", "data race"),
    ),
    "barrier in a branch": (
        (
            "cuda/reduce.cuh",
            "  __syncthreads();\n  return last;",
            "  if (last) __syncthreads();\n  return last;",
        ),
        ("thread", "plain", "data race|barrier|dead-lock|returned"),
    ),
    "half of the lanes in a mask": (
        ("cuda/reduce.cuh", "kAllLanes = 0xffffffff", "kAllLanes = 0x0000ffff"),
        ("address", "plain", "simt: a "),
    ),
    "shared memory too small": (
        ("cuda/reduce.cuh", "of_warp[kWarps]", "of_warp[kWarps - 1]"),
        ("address", "plain", "out of bounds|global-buffer-overflow"),
    ),
    "vector load of an unaligned slice": (
        ("cuda/kernels.h", "reinterpret_cast<uintptr_t>(x.data) % together == 0", "together > 0"),
        ("address", "general", "misaligned address"),
    ),
    "buckets before they are made": (
        (
            "cuda/bucket_gradient.cuh",
            "    buckets.build(batch, share.c, chunk);",
            "    if (chunk > 0) buckets.build(batch, share.c, chunk);",
        ),
        ("thread", "buckets", "differs"),
    ),
    "limbs read while others add to them": (
        (
            "cuda/histogram.cuh",
            "    };\n    __syncthreads();\n    for (int i",
            "    };\n    for (int i",
        ),
        ("thread", "buckets", "data race|differs"),
    ),
    "a class finished by its first block": (
        ("cuda/reduce.cuh", "== count - 1", "== 0"),
        ("thread", "buckets", "differs|data race"),
    ),
    "shared memory before it is written": (
        (
            "cuda/gradient.cuh",
            "  parameters.fill(batch, division, share, upstream, 0);\n  const H",
            "  const H",
        ),
        ("thread", "plain", "differs"),
    ),
}


def test_several_rounds(schedulers, tmp_path):
    """Limbs in shared memory are emptied in time: here after a part of a block's samples."""
    edit = ("cuda/histogram.cuh", "kRound = 16384", "kRound = 1000")
    program = build_program(tmp_path, "address", schedulers["address"], ["buckets"], edit)
    assert runs(program, "buckets", 1) == (0, "agrees\n")


@pytest.mark.parametrize("bug", BUGS)
def test_bug_is_found(bug, schedulers, tmp_path):
    edit, (sanitizer, name, expected) = BUGS[bug]
    program = build_program(tmp_path, sanitizer, schedulers[sanitizer], [name], edit)
    status, output = runs(program, name, 1)
    assert status != 0
    assert any(words in output for words in expected.split("|")), output[:3000]
