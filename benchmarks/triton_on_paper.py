"""What the compilers make of the Triton kernels, for GPUs that need not be there.

    python benchmarks/triton_on_paper.py

One row for each kernel, problem and target: registers, spills, instructions in all and in the hot
loop a sample (and threshold), and the widest loads. The launches are those of the library, stopped
before they reach a device. Nothing of this has run on a GPU: it is a model, not a measurement.
Needs Triton on Linux, x86-64; the interpreter (TRITON_INTERPRET=1) cannot compile.
"""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

import softcm
from softcm import triton_ops

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
THREADS = 128
N = 1 << 16
TENTHS = tuple(i / 10 for i in range(1, 10))
# The problems: shape, dtype and options of the F1 loss.
PROBLEMS: dict[str, tuple[tuple[int, ...], torch.dtype, dict[str, Any]]] = {
    "linear": ((N,), torch.float32, {}),
    "sigmoid of logits": (
        (N,),
        torch.float32,
        {"heaviside": softcm.Sigmoid(), "from_logits": True},
    ),
    "logits, entropy": ((N,), torch.float32, {"from_logits": True, "ce_weight": 0.3}),
    "bfloat16": ((N,), torch.bfloat16, {}),
    "9 thresholds": ((N,), torch.float32, {"threshold": TENTHS}),
    "table": ((N,), torch.float32, {"heaviside": softcm.Table()}),
    "10 classes": ((N, 10), torch.float32, {"from_logits": True}),
    "thresholds of classes": (
        (N, 10),
        torch.float32,
        {"from_logits": True, "threshold": torch.linspace(0.1, 0.9, 10).unsqueeze(1)},
    ),
    "per sample": ((64, 3, 4096), torch.float32, {"per_sample": True}),
}


class Row(NamedTuple):
    problem: str
    target: str
    kernel: str
    registers: int
    spilled: int  # bytes
    instructions: int  # in all
    a_sample: float  # of the loop over samples, for a threshold; backward: in all, for a sample
    load_bits: int  # of the widest load of a thread
    asserts: bool  # whether values out of range are told of


class OnPaper:
    """As much of a driver as compiling takes."""

    def __init__(self, target: GPUTarget):
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def compiled_for(target: GPUTarget) -> Iterator[list[Any]]:
    """Launches of the Triton backend are compiled for a target, and not run; yields the results."""
    from softcm import triton_kernels as kernels

    results: list[Any] = []

    def compile_only(kernel: Any, grid: tuple[int, ...]) -> Any:
        return lambda *args, **options: results.append(
            (kernel.run(*args, grid=grid, warmup=True, **options), options)
        )

    before = driver._active
    all_kernels = (kernels.soft_counts_kernel, kernels.soft_counts_backward_kernel)
    try:
        driver.set_active(OnPaper(target))
        for kernel in all_kernels:
            kernel.device_caches.clear()
        with mock.patch.object(JITFunction, "__getitem__", compile_only):
            yield results
    finally:
        driver._active = before
        for kernel in all_kernels:
            kernel.device_caches.clear()


def compile_loss(problem: str, target: GPUTarget) -> list[tuple[Any, dict[str, Any]]]:
    """The kernels of one forward and backward pass, and the constants of their launches."""
    shape, dtype, options = PROBLEMS[problem]
    input = torch.zeros(shape, dtype=dtype, requires_grad=True)
    warps = THREADS // target.warp_size
    with (
        compiled_for(target) as results,
        mock.patch.object(triton_ops, "tuning", triton_ops.tuning._replace(warps=warps)),
        mock.patch.object(triton_ops.reference, "soft_counts"),  # values are not looked at
        mock.patch.object(softcm.backends, "select_backend", return_value="triton"),
    ):
        softcm.f1_loss(input, torch.zeros(shape), **options).backward()
    return results


def report(problems: Iterable[str] = PROBLEMS, targets: Iterable[str] = TARGETS) -> list[Row]:
    return [
        describe(problem, target, kernel, constants)
        for problem in problems
        for target in targets
        for kernel, constants in compile_loss(problem, TARGETS[target])
    ]


def describe(problem: str, target: str, kernel: Any, constants: dict[str, Any]) -> Row:
    a_thread = constants["S"] * constants["C"] / THREADS
    read = _read_nvidia if target.startswith("sm") else _read_amd
    registers, spilled, code = read(kernel)
    hot = _first_loop_with_loads(code) if "THRESHOLDS" in constants else code
    return Row(
        problem,
        target,
        kernel.name,
        registers,
        spilled,
        len(code),
        round(len(hot) / a_thread / constants.get("THRESHOLDS", 1), 1),
        _load_bits(hot),
        "softcm: " in kernel.asm["ttir"],
    )


def _read_nvidia(kernel: Any) -> tuple[int, int, list[str]]:
    ptx = kernel.asm["ptx"]
    (arch,) = re.findall(r"\.target sm_(\d+)", ptx)
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        (full_arch,) = re.findall(r"\.target (sm_\w+)", ptx)
        ptxas = [get_ptxas(int(arch)).path, "-v", f"-arch={full_arch}", source, "-o", cubin]
        log = subprocess.run(ptxas, check=True, capture_output=True, text=True).stderr
        disassembler = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
        command = [disassembler, "-c", cubin]
        sass = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (registers,) = re.findall(r"Used (\d+) registers", log)
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill", log)))
    code = re.findall(r"^(?:\s+/\*[0-9a-f]+\*/\s+(?!NOP).*|\.L_x_\d+:)", sass, re.MULTILINE)
    return int(registers), spilled, code


def _read_amd(kernel: Any) -> tuple[int, int, list[str]]:
    text = kernel.asm["amdgcn"]
    (registers,) = re.findall(rf"\.name:\s+{kernel.name}\n(?:.*\n)*?.*\.vgpr_count:\s+(\d+)", text)
    spilled = 4 * sum(map(int, re.findall(r"\.[sv]gpr_spill_count:\s+(\d+)", text)))
    body = text[text.index(f"\n{kernel.name}:") :].split("\n.Lfunc_end", 1)[0]
    code = re.findall(r"^(?:\s+[a-z]\w*_.*|\.LBB\d+_\d+:)", body, re.MULTILINE)
    return int(registers), spilled, code


def _first_loop_with_loads(code: list[str]) -> list[str]:
    """The innermost loop over the samples, which comes before all others that read memory."""
    labels = {line.rstrip(":"): i for i, line in enumerate(code) if line.endswith(":")}
    jumps = [re.search(r"(?:BRA\S*|s_c?branch\w*)\s.*?(\.L\w+)", line) for line in code]
    loops = [(labels[jump[1]], i + 1) for i, jump in enumerate(jumps) if jump]
    loops = [(begin, end) for begin, end in loops if begin < end and _load_bits(code[begin:end])]
    innermost = [x for x in loops if not any(x[0] < begin and end < x[1] for begin, end in loops)]
    begin, end = min(innermost)
    return code[begin:end]


def _load_bits(code: list[str]) -> int:
    """The widest load of a thread; 0 where there is none."""
    words = re.compile(
        r"LDG\.E(?:\.\w+)*?\.(?P<bits>64|128)\b|_load_dwordx(?P<words>\d)|LDG|_load_"
    )
    found = [m for line in code if (m := words.search(line)) and not line.lstrip().startswith("s_")]
    return max((int(m["bits"] or 32 * int(m["words"] or 1)) for m in found), default=0)


def main() -> None:
    print(f"softcm {softcm.__version__}, torch {torch.__version__}, triton {triton.__version__}")
    rows = [Row._fields, *(tuple(map(str, row)) for row in report())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
