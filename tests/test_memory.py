"""What a loss keeps: hooks on saved tensors, checkpoints, and what is left after a step."""

import weakref

import pytest
import torch
from cases import LOSSES
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import softcm

needs_kernels = pytest.mark.skipif(
    "native" not in softcm.available_backends(), reason="the reference keeps its intermediate steps"
)
each_loss = pytest.mark.parametrize("name", LOSSES)
# The first is small enough for its gradient to be written in the forward pass.
each_size = pytest.mark.parametrize("size", [1_000, 40_000])
A_FEW_SCALARS = 16_384  # bytes


class Saved:
    """Collects what autograd saves, and how often it takes each of it back."""

    def __init__(self):
        self.tensors, self.taken = [], []

    def __enter__(self):
        self.hooks = saved_tensors_hooks(self.pack, self.unpack)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        return self.hooks.__exit__(*error)

    def pack(self, x):
        self.tensors.append(x)
        return len(self.tensors) - 1

    def unpack(self, index):
        self.taken.append(index)
        return self.tensors[index]

    def bytes_beyond(self, *known):
        known = {x.untyped_storage().data_ptr() for x in known}
        kept = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in self.tensors}
        return sum(size for pointer, size in kept.items() if pointer not in known)


def batch(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand((size // 4, 4), generator=generator).requires_grad_()
    return p, torch.rand((size // 4, 4), generator=generator) < 0.3


@needs_kernels
@each_size
@each_loss
def test_saved_tensors(name, size):
    function, options = LOSSES[name]
    p, y = batch(size)
    with Saved() as saved:
        loss = function(p, y, ce_weight=0.3, **options)
    loss.backward()
    allowed = A_FEW_SCALARS + (p.nbytes if size == 1_000 else 0)
    assert saved.bytes_beyond(p, y) <= allowed
    # Taking a tensor back may mean to fetch it from another device: once, and none in vain.
    assert sorted(saved.taken) == list(range(len(saved.tensors)))


@needs_kernels
def test_a_softmax_keeps_one_more_tensor():
    z, _ = batch(40_000)
    index = torch.arange(10_000) % 4
    with Saved() as saved:
        softcm.f1_loss(z, index, from_logits=True)
    assert saved.bytes_beyond(z, index) <= z.nbytes + A_FEW_SCALARS


@pytest.mark.parametrize("backend", softcm.available_backends())
@each_size
@each_loss
def test_checkpoint(name, size, backend):
    function, options = LOSSES[name]
    p, y = batch(size)

    def loss(p):
        return function(p, y, ce_weight=0.3, backend=backend, **options)

    (expected,) = torch.autograd.grad(loss(p), p)
    with Saved() as saved:
        value = checkpoint(loss, p, use_reentrant=False)
    (actual,) = torch.autograd.grad(value, p)
    assert torch.equal(actual, expected)
    assert saved.bytes_beyond(p) == 0
    z, index = p.detach().clone().requires_grad_(), torch.arange(len(p)) % 4
    step = checkpoint(
        lambda z: function(z, index, from_logits=True, backend=backend, **options),
        z,
        use_reentrant=False,
    )
    step.backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("backend", softcm.available_backends())
@each_size
@pytest.mark.parametrize("name", ["f1", "mcc"])
def test_nothing_remains_after_a_step(name, size, backend):
    function, _ = LOSSES[name]
    loss_fn = {"f1": softcm.F1Loss, "mcc": softcm.MCCLoss}[name](backend=backend)
    for call in (loss_fn, lambda p, y: function(p, y, from_logits=True, backend=backend)):
        p, y = batch(size)
        z = p * 1  # an output of a model
        loss = call(z, y)
        loss.backward()
        alive = [weakref.ref(x) for x in (z, y, loss)]
        del z, y, loss
        assert [ref() for ref in alive] == [None] * 3
