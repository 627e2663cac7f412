"""Which implementation serves a call: one table, one pure function."""

from . import _extension
from .inputs import check_choice

REQUESTS = ("auto", "native", "reference")
# The devices for which the compiled extension holds kernels.
NATIVE_DEVICES: frozenset[str] = frozenset(
    (["cpu"] if _extension.LOADED else []) + (["cuda"] if _extension.CUDA_REASON is None else [])
)


def available_backends() -> tuple[str, ...]:
    """The backends that this installation can serve: ``"native"`` if compiled, ``"reference"``."""
    return ("native", "reference") if NATIVE_DEVICES else ("reference",)


def select_backend(
    requested: str,
    device_type: str,
    native_devices: frozenset[str] = NATIVE_DEVICES,
    transformed: bool = False,
) -> str:
    """The backend for a call; depends on nothing but its arguments.

    ``"auto"`` takes the compiled kernels where they serve the device, the reference otherwise. A
    backend asked for by name serves or raises. Every backend serves every floating-point dtype.
    Under a transform of torch.func (``transformed``) only the reference does.

    Raises:
        ValueError: ``requested`` is no backend's name.
        RuntimeError: the backend asked for cannot serve the device.
    """
    check_choice("backend", requested, REQUESTS)
    serves = device_type in native_devices and not transformed
    if requested == "native" and transformed:
        raise RuntimeError(
            "backend='native' cannot serve under a transform of torch.func (grad, vmap, ...); "
            "backend='auto' falls back to the reference"
        )
    if requested == "native" and not serves:
        reason = "the compiled extension is not loaded: " + str(_extension.REASON)
        if native_devices:
            reason = f"it serves {', '.join(sorted(native_devices))} only"
            if device_type == "cuda":
                reason += f" ({_extension.CUDA_REASON})"
        raise RuntimeError(
            f"backend='native' cannot serve tensors on {device_type!r}: {reason}; "
            "backend='auto' falls back to the reference"
        )
    return "native" if serves and requested != "reference" else "reference"
