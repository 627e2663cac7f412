"""What nvcc makes of the CUDA kernels: nothing in local memory, vector loads, few issue slots."""

import importlib.util
import shutil
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu_on_paper.py"
specification = importlib.util.spec_from_file_location("gpu_on_paper", PATH)
gpu_on_paper = importlib.util.module_from_spec(specification)
specification.loader.exec_module(gpu_on_paper)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine"),
]
needs_nvdisasm = pytest.mark.skipif(
    gpu_on_paper.find_nvdisasm() is None,
    reason="no nvdisasm on this machine: pip install nvidia-cuda-nvdisasm",
)

# The most issue slots an element may take, and the bytes that it has to move, whatever the
# architecture. A limit on an H100 by the model of gpu_on_paper.py: 8.6 slots a byte.
CEILINGS = {
    "plain_counts_kernel<Linear, float>": (32, 8),
    "plain_counts_kernel<Linear, Half>": (35, 4),
    "plain_counts_kernel<Linear, BFloat16>": (35, 4),
    "plain_counts_kernel<Sigmoid, float>": (40, 8),
    "plain_counts_kernel<Sigmoid, Half>": (67, 4),
    "plain_counts_kernel<Sigmoid, BFloat16>": (67, 4),
    "plain_gradient_kernel<Linear, float>": (16, 12),
    "plain_gradient_kernel<Linear, Half>": (18, 6),
    "plain_gradient_kernel<Linear, BFloat16>": (20, 6),
    "plain_gradient_kernel<Sigmoid, float>": (32, 12),
    "plain_gradient_kernel<Sigmoid, Half>": (58, 6),
    "plain_gradient_kernel<Sigmoid, BFloat16>": (60, 6),
    # Many thresholds: all paths together.
    "histogram_kernel<Knots, Linear, 4, plain>": (130, 8),
    "bucket_gradient_kernel<Knots, Linear, 4, plain>": (76, 12),
}


# One architecture in every run, the others on request: each takes minutes to compile.
OTHERS = [pytest.param(name, marks=pytest.mark.architectures) for name in ("80", "100")]


@pytest.fixture(scope="module", params=["90", *OTHERS])
def kernels(request):
    return gpu_on_paper.kernels(request.param)


@needs_nvdisasm
def test_kernels(kernels):
    assert len(kernels) > 40
    for kernel in kernels:
        assert (kernel.spilled, kernel.stack) == (0, 0), kernel
    loops = {kernel.name: kernel.loop for kernel in kernels if kernel.loop is not None}
    assert set(loops) == set(CEILINGS)
    for name, loop in loops.items():
        slots, size = CEILINGS[name]
        assert loop.issue_slots <= slots, (name, loop)
        assert loop.bytes_per_element == size, (name, loop)
        assert loop.wide_loads == loop.loads > 0, (name, loop)
        assert loop.wide_stores == loop.stores, (name, loop)
        assert (loop.stores > 0) == ("gradient" in name), (name, loop)
        assert loop.local == 0, (name, loop)
    # A step at one threshold waits for the memory, by far.
    assert gpu_on_paper.step_headroom(kernels, "Linear, float") > 4
    assert gpu_on_paper.step_headroom(kernels, "Sigmoid, float") > 2
