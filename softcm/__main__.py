"""``python -m softcm``: what is installed, and which backend serves which device and dtype."""

import platform
from importlib import metadata

import torch

from . import __version__, _extension
from .backends import available_backends, select_backend
from .inputs import FLOAT_DTYPES


def installation() -> list[tuple[str, str]]:
    rows = [
        ("softcm", __version__),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
    ]
    if _extension.LOADED:
        rows.append(("extension", "loaded; built with"))
        known = {k: v for k, v in _extension.BUILD.items() if v and not k.endswith("reason")}
        rows += [(f"  {key}", value) for key, value in known.items()]
    else:
        rows.append(("extension", f"none: {_extension.REASON}"))
    rows.append(("triton", _triton_version()))
    rows.append(
        ("CUDA kernels", f"none: {_extension.CUDA_REASON}" if _extension.CUDA_REASON else "loaded")
    )
    return [*rows, ("backends", ", ".join(available_backends()))]


def _triton_version() -> str:
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "none: not installed"


def backend_table() -> list[list[str]]:
    dtypes = sorted(FLOAT_DTYPES, key=lambda dtype: (dtype.itemsize, str(dtype)))
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    devices = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    # A backend that serves a device serves every dtype there.
    rows = [[device, *[select_backend("auto", device)] * len(dtypes)] for device in devices]
    return [["device", *(str(dtype).removeprefix("torch.") for dtype in dtypes)], *rows]


def main() -> None:
    for name, value in installation():
        print(f"{name:<14}{value}")
    print()
    for row in backend_table():
        print("".join(f"{cell:<12}" for cell in row).rstrip())


if __name__ == "__main__":
    main()
