"""Which implementation serves a call: one table, one pure function."""

import importlib.util
import os

import torch

from . import _extension
from .inputs import check_choice, describe

REQUESTS = ("auto", "native", "triton", "reference")
# The devices for which the compiled extension holds kernels.
NATIVE_DEVICES: frozenset[str] = frozenset(
    (["cpu"] if _extension.LOADED else []) + (["cuda"] if _extension.CUDA_REASON is None else [])
)


def _triton_devices() -> frozenset[str]:
    # Looked for, not imported: only its first call has to wait for that.
    if importlib.util.find_spec("triton") is None:
        return frozenset()
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    # To torch, AMD GPUs are "cuda" as well.
    return frozenset({"cpu", "cuda"} if interpreted else {"cuda"})


TRITON_DEVICES = _triton_devices()


def available_backends(device_type: str | None = None) -> tuple[str, ...]:
    """The backends, by name, that serve a type of device, or (``None``) any device of this machine.

    ``"native"`` is there if it was compiled, ``"triton"`` if Triton is installed and there is a GPU
    (or ``TRITON_INTERPRET=1`` was set before softcm was imported), ``"reference"`` always.

    Raises:
        TypeError: ``device_type`` is no string.
        ValueError: it is no type of device that PyTorch knows.
    """
    if device_type is not None:
        _check_device_type(device_type)
    devices = {"cpu"} if device_type is None else {device_type}
    if device_type is None and torch.cuda.is_available():
        devices.add("cuda")
    kernels = {"native": NATIVE_DEVICES, "triton": TRITON_DEVICES}
    return *(name for name, served in kernels.items() if served & devices), "reference"


def _check_device_type(device_type: object) -> None:
    if not isinstance(device_type, str):
        raise TypeError(f"device_type must be a string or None, got {describe(device_type)}")
    try:
        known = torch.device(device_type).type == device_type
    except RuntimeError:
        known = False
    if not known:
        raise ValueError(
            f"device_type must be a type of device such as 'cpu' or 'cuda', got {device_type!r}"
        )


def select_backend(
    requested: str,
    device_type: str,
    native_devices: frozenset[str] = NATIVE_DEVICES,
    triton_devices: frozenset[str] = TRITON_DEVICES,
    transformed: bool = False,
) -> str:
    """The backend for a call; depends on nothing but its arguments.

    ``"auto"`` takes the compiled kernels where they serve the device, Triton's where those serve it
    (but never its interpreter, on the CPU), the reference otherwise. A backend asked for by name
    serves or raises. Every backend serves every floating-point dtype. Under a transform of
    torch.func (``transformed``) only the reference does.

    Raises:
        ValueError: ``requested`` is no backend's name.
        RuntimeError: the backend asked for cannot serve the device.
    """
    check_choice("backend", requested, REQUESTS)
    if transformed and requested in ("native", "triton"):
        raise RuntimeError(
            f"backend={requested!r} cannot serve under a transform of torch.func (grad, vmap, "
            "...); backend='auto' falls back to the reference"
        )
    if transformed:
        return "reference"
    serves = {"native": device_type in native_devices, "triton": device_type in triton_devices}
    if requested == "auto":
        if serves["native"]:
            return "native"
        return "triton" if serves["triton"] and device_type != "cpu" else "reference"
    if not serves.get(requested, True):
        raise RuntimeError(
            f"backend={requested!r} cannot serve tensors on {device_type!r}: "
            f"{_why_not(requested, native_devices, triton_devices)}; "
            "backend='auto' falls back to one that can"
        )
    return requested


def _why_not(requested: str, native_devices: frozenset[str], triton_devices: frozenset[str]) -> str:
    devices = native_devices if requested == "native" else triton_devices
    if devices:
        more = ", and 'cpu' if TRITON_INTERPRET=1" if requested == "triton" else ""
        if requested == "native" and _extension.CUDA_REASON is not None:
            more = f" (no CUDA kernels: {_extension.CUDA_REASON})"
        return f"it serves {', '.join(map(repr, sorted(devices)))} only{more}"
    if requested == "native":
        return f"the compiled extension is not loaded: {_extension.REASON}"
    return "Triton is not installed (pip install 'softcm[triton]')"
