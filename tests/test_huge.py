"""More samples than 32 bits can count: pytest -m huge (12 GB of memory, a few minutes).

The batch is one block of 2^20 samples again and again, and three more: so it is known what its
counts and its gradient have to be.
"""

import os

import pytest
import torch

import softcm

BLOCK, TIMES, MORE = 2**20, 2**11, 3  # 2^31 + 3 samples
MEMORY = 14 * 2**30

pytestmark = [
    pytest.mark.huge,
    pytest.mark.skipif(
        "native" not in softcm.available_backends("cpu"), reason="needs the kernels"
    ),
    pytest.mark.skipif(
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < MEMORY,
        reason="needs 14 GB of memory",
    ),
]
WAYS = {
    "one threshold": {"threshold": [0.4]},
    "buckets": {"threshold": [i / 40 for i in range(1, 40)]},
    "table": {"threshold": [0.1, 0.5, 0.9], "heaviside": softcm.Table()},
}


def repeated(block):
    huge = block.new_empty(TIMES * BLOCK + MORE)
    huge[: TIMES * BLOCK].view(TIMES, BLOCK).copy_(block.expand(TIMES, BLOCK))
    huge[TIMES * BLOCK :] = block[:MORE]
    return huge


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(BLOCK, generator=generator).bfloat16()
    y = (torch.rand(BLOCK, generator=generator) < 0.1).to(torch.uint8)
    return p, y, repeated(p).requires_grad_(), repeated(y)


def expected_counts(function, p, y, options):
    of_block = torch.stack(function(p.double(), y, **options)).double()
    of_rest = torch.stack(function(p[:MORE].double(), y[:MORE], **options)).double()
    return TIMES * of_block + of_rest


@pytest.mark.parametrize("way", WAYS)
def test_hard_counts(batch, way):
    p, y, input, target = batch
    options = {"threshold": WAYS[way]["threshold"]}
    actual = torch.stack(softcm.confusion_matrix(input, target, **options))
    # In float32, to which the thresholds are rounded for bfloat16.
    expected = expected_counts(softcm.confusion_matrix, p.float(), y, options)
    assert torch.equal(actual, expected)
    assert actual.sum(0).tolist() == [float(TIMES * BLOCK + MORE)] * len(options["threshold"])


@pytest.mark.parametrize("way", WAYS)
def test_soft_counts_and_gradient(batch, way):
    p, y, input, target = batch
    options = WAYS[way]
    cm = softcm.soft_confusion_matrix(input, target, **options)
    expected = expected_counts(softcm.soft_confusion_matrix, p, y, options)
    torch.testing.assert_close(torch.stack(cm).detach().double(), expected, rtol=1e-6, atol=0)

    loss = softcm.f1_loss(input, target, **options)
    tp, fn, fp, _ = expected
    torch.testing.assert_close(
        loss.double(), (1 - 2 * tp / (2 * tp + fn + fp)).mean(), rtol=1e-6, atol=0
    )
    # Scaled up: the share of one sample in so many is below what bfloat16 holds precisely.
    (grad,) = torch.autograd.grad(loss * float(TIMES * BLOCK), input)
    x = p.clone().requires_grad_()
    (of_block,) = torch.autograd.grad(softcm.f1_loss(x, y, **options) * float(BLOCK), x)
    tolerance = 0.01 * of_block.abs().max().item()
    for start in (0, BLOCK, (TIMES // 2) * BLOCK, (TIMES - 1) * BLOCK):
        part = grad[start : start + BLOCK]
        assert torch.equal(part, grad[:BLOCK])
        torch.testing.assert_close(part, of_block, rtol=0, atol=tolerance)
    assert torch.equal(grad[TIMES * BLOCK :], grad[:MORE])
