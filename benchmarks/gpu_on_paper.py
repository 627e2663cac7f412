"""What compilers make of the CUDA and Triton kernels, which limit binds on an H100: all on paper.

    python benchmarks/gpu_on_paper.py [--architectures 80,90,100]

Compiles csrc/cuda with nvcc and reads registers, spills and shared memory from ptxas, and the hot
loop from the disassembly. The model, for an H100 SXM: 132 multiprocessors at 1.7 GHz, each with
four schedulers that issue one instruction for 32 threads a cycle, and 3.35 TB/s of memory. A kernel
is bound by memory if issuing its loop takes less time than moving the loop's bytes. The model knows
no latency, no pipe but the issue slots, no cache and no tail: its figures are no measurement.
For many thresholds (the kernels with Knots) each path through the loop is counted once, though the
samples of a warp seldom take all of them, and what a block does before and after is left out.
The report of triton_on_paper.py follows where Triton is installed.

Needs nvcc and nvdisasm (pip install nvidia-cuda-nvdisasm, or that of triton).
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = ("80", "90", "100")
SLOTS_A_SECOND = 132 * 4 * 32 * 1.7e9  # instructions, counted for each thread
BYTES_A_SECOND = 3.35e12
# Of the kernels for plain input: bytes that an element has to be read and written, by dtype.
READ, WRITTEN = 2, {"counts": 0, "gradient": 1}
SIZES = {"float": 4, "Half": 2, "BFloat16": 2}


class Loop(NamedTuple):
    """The loop over whole packs, one round of one thread."""

    instructions: int
    elements: int
    bytes_moved: int
    wide_loads: int
    loads: int
    wide_stores: int
    stores: int
    local: int

    @property
    def issue_slots(self) -> float:
        return self.instructions / self.elements

    @property
    def bytes_per_element(self) -> float:
        return self.bytes_moved / self.elements

    @property
    def headroom(self) -> float:
        """How many times longer the memory takes than the schedulers."""
        return self.bytes_per_element / BYTES_A_SECOND * SLOTS_A_SECOND / self.issue_slots


class Kernel(NamedTuple):
    name: str  # as "plain_counts_kernel<Linear, float>"
    architecture: str
    registers: int
    spilled: int  # bytes
    stack: int  # bytes of local memory
    shared: int  # bytes
    loop: Loop | None  # of the kernels for plain input


def find_nvdisasm() -> str | None:
    """On PATH, or in a Python package that brings it."""
    found = shutil.which("nvdisasm")
    for package, place in (
        ("nvidia", "*/bin/nvdisasm"),
        ("triton", "backends/nvidia/bin/nvdisasm"),
    ):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found = found or next(map(str, Path(folder).glob(place)), None)
    return found


def compile_kernels(source: Path, architecture: str, cubin: Path) -> str:
    """Writes the cubin; returns what ptxas says."""
    torch = Path(importlib.util.find_spec("torch").origin).parent
    command = ["nvcc", "-std=c++20", "-O3", f"-I{torch / 'include'}", "-Xptxas=-v", "-cubin"]
    command += ["-Werror=all-warnings", f"-arch=sm_{architecture}", "-o", str(cubin), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return done.stdout + done.stderr


def resources(log: str) -> dict[str, tuple[int, int, int, int]]:
    """By mangled name: registers, spilled bytes, stack, shared memory."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        stack, stores, loads = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        ).groups()
        shared = re.search(r"(\d+) bytes smem", part)
        found[part.split("'")[0]] = (
            int(re.search(r"Used (\d+) registers", part)[1]),
            int(stores) + int(loads),
            int(stack),
            int(shared[1]) if shared else 0,
        )
    return found


def disassembled(cubin: Path) -> dict[str, tuple[list[str], dict[str, int]]]:
    """By mangled name: instructions without predicates, and where each label stands."""
    command = [find_nvdisasm(), "-c", str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions = {}
    for part in re.split(r"(?m)^\.text\.", text)[1:]:
        instructions, labels = [], {}
        for line in part.splitlines():
            if label := re.match(r"\s*(\.L\w+):", line):
                labels[label[1]] = len(instructions)
            elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?);", line):
                instructions.append(found[1].strip())
        functions[part.split(":")[0]] = (instructions, labels)
    return functions


def hot_loop(instructions: list[str], labels: dict[str, int], size: int, kind: str) -> Loop:
    """Of the loops that load 16 bytes at a time the one with the fewest instructions an element, as
    that for a mean with cross-entropy and loops around loops are there too."""
    loops = []
    for end, instruction in enumerate(instructions):
        target = re.match(r"BRA.*`\((\.L\w+)\)", instruction)
        begin = labels.get(target[1], end + 1) if target else end + 1
        body = instructions[begin : end + 1]
        counted = Counter(
            (op, ".128" in i) for i in body for op in ("LDG", "STG") if i.startswith(op)
        )
        if not counted["LDG", True]:
            continue
        elements = counted["LDG", True] * 16 // (READ * size)
        loops.append(
            Loop(
                len(body),
                elements,
                elements * size * (READ + WRITTEN[kind]),
                counted["LDG", True],
                counted["LDG", True] + counted["LDG", False],
                counted["STG", True],
                counted["STG", True] + counted["STG", False],
                sum(i.startswith(("LDL", "STL")) for i in body),
            )
        )
    return min(loops, key=lambda loop: loop.issue_slots)


def readable(mangled: str) -> str:
    """The name and the template's arguments."""
    name = re.search(r"([a-z_]+_kernel)I", mangled)[1]
    arguments = mangled.split("_kernelI", 1)[1].split("EEv")[0]
    words = re.findall(
        r"Knots|Levels|Linear|Sigmoid|Step|BFloat16|Half|PlainAccess|AnyAccess|L[ib]\d+|[fd](?=E|L|$)",
        arguments,
    )
    names = {"f": "float", "d": "double", "Lb0": "any", "Lb1": "plain"}
    names |= {"PlainAccess": "plain", "AnyAccess": "any"}
    return (
        f"{name}<{', '.join(names.get(word, re.sub('^Li(?=[0-9])', '', word)) for word in words)}>"
    )


def kernels(architecture: str) -> list[Kernel]:
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        lists = pool.map(lambda source: kernels_of(source, architecture), sources)
        return sorted(kernel for found in lists for kernel in found)


def kernels_of(source: Path, architecture: str) -> list[Kernel]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, source.stem + ".cubin")
        log = compile_kernels(source, architecture, cubin)
        has_loops = source.stem in ("plain", "many_thresholds")
        functions = disassembled(cubin) if has_loops else {}
    for mangled, of_kernel in resources(log).items():
        name = readable(mangled)
        loop = None
        if name.startswith("plain") or ("Knots, Linear" in name and "plain" in name):
            kind = "gradient" if "gradient" in name else "counts"
            dtype = re.search(r"(\w+)>", name)[1]
            loop = hot_loop(*functions[mangled], SIZES.get(dtype, 4), kind)
        found.append(Kernel(name, architecture, *of_kernel, loop))
    return found


def step_headroom(found: list[Kernel], arguments: str) -> float:
    """Of forward and backward pass together: time of the memory over that of the schedulers."""
    loops = [kernel.loop for kernel in found if kernel.loop and f"<{arguments}>" in kernel.name]
    slots = sum(loop.issue_slots for loop in loops) / SLOTS_A_SECOND
    return sum(loop.bytes_per_element for loop in loops) / BYTES_A_SECOND / slots


STEPS = ("Linear, float", "Linear, Half", "Sigmoid, float", "Sigmoid, Half")
STEPS += ("Sigmoid, BFloat16", "Knots, Linear, 4, plain")
COLUMNS = "kernel|sm|registers|shared|spilled|slots / element|bytes / element|bound by|headroom"


def bound_by(headroom: float) -> str:
    return "memory" if headroom > 1 else "issue slots"


def row(kernel: Kernel) -> str:
    cells = [kernel.name, kernel.architecture, kernel.registers, kernel.shared, kernel.spilled]
    if kernel.loop is None:
        return "| " + " | ".join(map(str, [*cells, "", "", "", ""])) + " |"
    loop = kernel.loop
    cells += [f"{loop.issue_slots:.1f}", f"{loop.bytes_per_element:g}", bound_by(loop.headroom)]
    return "| " + " | ".join(map(str, [*cells, f"{loop.headroom:.1f}"])) + " |"


def print_triton_part() -> None:
    """The Triton kernels, for the targets of triton_on_paper.py; or a line that says why not."""
    if importlib.util.find_spec("triton") is None:
        print("Triton kernels: not compiled, Triton is not installed (pip install triton)")
    elif os.environ.get("TRITON_INTERPRET") == "1":
        print("Triton kernels: not compiled, TRITON_INTERPRET=1 is set")
    else:
        import triton_on_paper

        triton_on_paper.main()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--architectures", default=",".join(ARCHITECTURES), help="of the CUDA kernels"
    )
    chosen = parser.parse_args().architectures.split(",")
    if shutil.which("nvcc") is None or find_nvdisasm() is None:
        raise SystemExit("this needs nvcc and nvdisasm: pip install nvidia-cuda-nvdisasm")
    print("| " + COLUMNS.replace("|", " | ") + " |")
    print("|---" * (COLUMNS.count("|") + 1) + "|")
    for architecture in chosen:
        found = kernels(architecture)
        print("\n".join(map(row, found)), flush=True)
        for arguments in STEPS:
            headroom = step_headroom(found, arguments)
            bound = bound_by(headroom)
            print(f"| step, <{arguments}> | {architecture} | | | | | | {bound} | {headroom:.1f} |")
    print()
    print_triton_part()


if __name__ == "__main__":
    main()
