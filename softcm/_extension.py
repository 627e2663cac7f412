"""Loads the compiled parts, ``softcm._C`` and ``softcm._C_cuda``, once each, or remembers why not.

``LOADED`` says whether the C++ operators are registered, ``REASON`` why not, ``CUDA_REASON`` why
not their CUDA kernels (None: they are), and ``BUILD`` how this copy was built, as setup.py wrote it
down. That the CUDA part cannot be loaded concerns nobody but callers with CUDA tensors.
"""

import importlib
import os
import warnings
from typing import Any

import torch  # noqa: F401  (softcm._C finds its symbols in the libtorch that this loads)


def _build_info() -> dict[str, Any]:
    try:
        return dict(importlib.import_module("softcm._build_info").BUILD)
    except ModuleNotFoundError:  # a source folder in which nothing was built
        return {}


def _load(module: str, reason: object) -> str | None:
    """Imports a module of the compiled part; the reason where it cannot be."""
    # An extension left behind by an earlier build in place does not belong to this copy.
    if reason is not None:
        return str(reason)
    try:
        importlib.import_module(module)
    except ImportError as error:
        return str(error)
    return None


BUILD = _build_info()
REASON = _load("softcm._C", BUILD.get("reason"))
LOADED = REASON is None
# The kernels are for operators that the first part defines.
CUDA_REASON = REASON or _load("softcm._C_cuda", BUILD.get("cuda_reason"))

if not LOADED:
    if os.environ.get("SOFTCM_REQUIRE_EXT") == "1":
        raise ImportError(f"SOFTCM_REQUIRE_EXT=1, but softcm has no compiled extension: {REASON}")
    warnings.warn(
        f"softcm runs without its compiled extension: {REASON}. It falls back to PyTorch code, "
        "which is many times slower. To rebuild, in softcm's source folder: "
        "SOFTCM_BUILD_EXT=1 pip install --force-reinstall --no-deps -e .",
        RuntimeWarning,
        stacklevel=2,
    )
