"""NaN and values out of range where the kernels sort samples into buckets or levels."""

import pytest
import torch

import softcm
from softcm import Linear, Sigmoid, Table

HUNDRED = tuple(i / 100 for i in range(1, 100))
each_backend = pytest.mark.parametrize("backend", softcm.available_backends("cpu"))
each_way = pytest.mark.parametrize(
    ("heaviside", "threshold"),
    [(Linear(), HUNDRED), (Sigmoid(), HUNDRED), (Table(), (0.1, 0.5, 0.9))],
    ids=["linear", "sigmoid", "table"],
)


@each_backend
@each_way
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nan_reaches_the_results_of_its_class(dtype, heaviside, threshold, backend):
    p = torch.rand(1024, 2, dtype=dtype)
    p[700, 0] = torch.nan
    p.requires_grad_()
    target = (torch.rand(1024, 2) < 0.3).to(dtype)
    options = {"threshold": threshold, "heaviside": heaviside, "backend": backend}
    loss = softcm.f1_loss(p, target, average="none", **options)
    assert loss.isnan().tolist() == [True, False]
    (gradient,) = torch.autograd.grad(loss.sum(), p)
    assert gradient[:, 0].isnan().all()
    assert gradient[:, 1].isfinite().all()
    for count in softcm.confusion_matrix(p.detach(), target, **options):
        assert count[0].isnan().all()
        assert count[1].isfinite().all()


@each_backend
@each_way
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), 1e30])
def test_nothing_but_values_out_of_range(bad, heaviside, threshold, backend):
    # Enough of them to show where one is written past the end of what it is summed up in.
    p, target = torch.full((20_000,), bad), torch.ones(20_000)
    options = {"threshold": threshold, "heaviside": heaviside, "backend": backend}
    for function in 5 * (softcm.f1_loss, softcm.confusion_matrix):
        with pytest.raises(ValueError, match=r"input must lie in \[0, 1\], got"):
            function(p, target, **options)


@each_backend
@each_way
@pytest.mark.parametrize("bad", [1.5, -0.5, 1e30, float("inf"), -float("inf")])
def test_out_of_range(bad, heaviside, threshold, backend):
    target = (torch.rand(1024) < 0.3).float()
    options = {"threshold": threshold, "heaviside": heaviside, "backend": backend}
    for name in ("input", "target"):
        p, labels = torch.rand(1024), target.clone()
        (p if name == "input" else labels)[700] = bad
        for function in (softcm.f1_loss, softcm.mcc_loss, softcm.confusion_matrix):
            with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\], got"):
                function(p, labels, **options)
