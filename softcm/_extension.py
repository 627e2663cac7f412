"""Loads the compiled part, ``softcm._C``, once, and remembers why not where that fails.

``LOADED`` says whether the C++ operators are registered, ``REASON`` why not, and ``BUILD`` how
this copy was built, as setup.py wrote it down.
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


def _load(build: dict[str, Any]) -> str | None:
    """Imports ``softcm._C``; the reason where it cannot be."""
    # An extension left behind by an earlier build in place does not belong to this copy.
    if build.get("reason") is not None:
        return str(build["reason"])
    try:
        importlib.import_module("softcm._C")
    except ImportError as error:
        return str(error)
    return None


BUILD = _build_info()
REASON = _load(BUILD)
LOADED = REASON is None

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
