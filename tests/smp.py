"""The losses of segmentation-models-pytorch without its models.

Those import timm and torchvision, whose wheels on PyPI load beside a CUDA build of torch only; the
losses need nothing but torch. The package itself is never imported, so that it may be installed
without what it depends on.
"""

import importlib.util
import sys
import types

import pytest

NAME = "segmentation_models_pytorch"
REASON = (
    "segmentation-models-pytorch is not installed: "
    "pip install --no-deps 'segmentation-models-pytorch==0.6.*'"
)


def provide_losses(monkeypatch):
    """Let ``from segmentation_models_pytorch.losses import ...`` work, or skip the test."""
    spec = importlib.util.find_spec(NAME) if NAME not in sys.modules else None
    if spec is None:
        pytest.skip(REASON)
    package = types.ModuleType(NAME)
    package.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, NAME, package)
