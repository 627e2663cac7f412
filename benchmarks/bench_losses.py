"""Fused against eager, with pytest-benchmark:

    pytest benchmarks/bench_losses.py

One step is forward and backward. The groups compare the compiled kernels, the reference and, where
there is one, the cross-entropy that people use instead.
"""

import pytest
import torch
import torch.nn.functional as F

import softcm

SIZES = (1_024, 1 << 20)
LOSSES = {"f1": softcm.f1_loss, "mcc": softcm.mcc_loss, "auroc": softcm.auroc_loss}


def batch(size: int, from_logits: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(size, generator=generator)
    target = (torch.rand(size, generator=generator) < 0.05).float()
    return (input if from_logits else input.sigmoid()).requires_grad_(True), target


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", LOSSES)
def test_step(benchmark, name, size, from_logits, backend):
    if backend not in softcm.available_backends("cpu"):
        pytest.skip(f"the backend {backend!r} is not installed")
    input, target = batch(size, from_logits)
    benchmark.group = f"{name}, {'logits' if from_logits else 'probabilities'}, N = {size:,}"
    options = {"from_logits": from_logits, "backend": backend}
    benchmark(lambda: torch.autograd.grad(LOSSES[name](input, target, **options), input))


@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
@pytest.mark.parametrize("size", SIZES)
def test_cross_entropy_step(benchmark, size, from_logits):
    input, target = batch(size, from_logits)
    benchmark.group = f"f1, {'logits' if from_logits else 'probabilities'}, N = {size:,}"
    entropy = F.binary_cross_entropy_with_logits if from_logits else F.binary_cross_entropy
    benchmark(lambda: torch.autograd.grad(entropy(input, target), input))
