"""Builds the CUDA sources for the emulator of tests/simt, which runs them on a CPU.

An edit (file, old, new) changes the copy of the sources that is compiled: that plants a bug.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock  # which torch itself needs

ROOT = Path(__file__).resolve().parent.parent
SIMT = ROOT / "tests" / "simt"
TORCH = Path(torch.__file__).parent
COMPILER = os.environ.get("CXX", "c++")
FLAGS = ["-std=c++20", "-O1", "-g0", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
FLAGS += ["-DSOFTCM_EMULATED"]
# The same functions under a key that no tensor here has, so that real CUDA kernels stay in place.
AS_PRIVATE_USE = ("cuda/operators.cpp", "softcm, CUDA, m", "softcm, PrivateUse1, m")

needs_emulator = pytest.mark.skipif(
    not (
        sys.platform == "linux"
        and platform.machine() == "x86_64"
        and shutil.which(shlex.split(COMPILER)[0])
        and tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
    ),
    reason="the emulator of CUDA needs x86-64 Linux, a C++ compiler and torch 2.13",
)


def copy_of_sources(folder, *edits):
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    shutil.copy(SIMT / "approximations.h", folder / "csrc" / "cuda")
    for name, old, new in edits:
        path = folder / "csrc" / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new, 1))
    return folder / "csrc"


def build_once(tmp_path_factory, name, build):
    """What build(folder) returns, for all workers of pytest-xdist from the first one to ask."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / name
    with FileLock(f"{folder}.lock"):
        built = folder / "built"
        if not built.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            built.write_text(str(build(folder)))
        return Path(built.read_text())


def run(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def compile_file(source, csrc, folder, *flags):
    path = folder / f"{source.name}.o"
    includes = [f"-I{place}" for place in (SIMT, csrc, TORCH / "include")]
    includes += [f"-I{sysconfig.get_path('include')}", "-DTORCH_TARGET_VERSION=0x020d000000000000"]
    command = [*shlex.split(COMPILER), *FLAGS, *flags, *includes]
    run([*command, "-x", "c++", "-c", source, "-o", path])
    return path


def build_library(folder):
    """A library whose operators have the CUDA kernels, emulated, under the key PrivateUse1."""
    csrc = copy_of_sources(folder, AS_PRIVATE_USE)
    sources = [*csrc.glob("cuda/*.cu"), csrc / "cuda" / "operators.cpp", csrc / "arguments.cpp"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(
            pool.map(lambda file: compile_file(file, csrc, folder), [*sources, SIMT / "simt.cpp"])
        )
    library = folder / "emulated.so"
    # -Bsymbolic: kernels that fail call the emulator's __assert_fail and not that of the C library.
    options = ["-shared", "-Wl,-Bsymbolic", "-o", library, f"-L{TORCH / 'lib'}", "-ltorch_cpu"]
    run([*shlex.split(COMPILER), *objects, *options])
    return library


SANITIZERS = {
    "address": ("-fsanitize=address,undefined -fno-sanitize-recover=all", "-DSIMT_ASAN"),
    "thread": ("-fsanitize=thread", "-DSIMT_TSAN"),
}


def build_scheduler(folder, sanitizer):
    """Compiled without the sanitizer, of which it only knows; the same for every program."""
    return compile_file(SIMT / "simt.cpp", ROOT / "csrc", folder, SANITIZERS[sanitizer][1])


def build_program(folder, sanitizer, scheduler, kinds, *edits):
    """tests/simt/sanitized.cpp with the kinds of kernels that are asked for."""
    csrc = copy_of_sources(folder, *edits)
    flags = SANITIZERS[sanitizer][0].split()
    chosen = [f"-DSIMT_{kind.upper()}" for kind in kinds]
    kernels = compile_file(SIMT / "sanitized.cpp", csrc, folder, "-g1", *chosen, *flags)
    program = folder / "sanitized"
    run([*shlex.split(COMPILER), *flags, kernels, scheduler, "-o", program])
    return program
