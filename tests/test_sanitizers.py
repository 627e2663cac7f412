"""The fuzzer of the operators, on the CPU's kernels under AddressSanitizer and UBSan.

    python tests/test_sanitizers.py --seconds 3600 --seed 7

does the same for longer; the options are those of tests/fuzz_operators.py.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from emulator import COMPILER, ROOT, TORCH, compile_file, copy_of_sources, needs_emulator, run

SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all"]
FLAGS = [
    "-g1",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-DPy_LIMITED_API=0x030a0000",
]
# No variants for several instruction sets: what picks one runs before the sanitizer has started.
NO_VARIANTS = "-D__SANITIZE_THREAD__"


def build_package(folder, *edits):
    """A copy of softcm whose extension is compiled with the sanitizers."""
    left_behind = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.py")
    package = shutil.copytree(ROOT / "softcm", folder / "softcm", ignore=left_behind)
    csrc = copy_of_sources(folder, *edits)
    flags = [*SANITIZE, *FLAGS, NO_VARIANTS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(
            pool.map(
                lambda file: compile_file(file, csrc, folder, *flags),
                [*csrc.glob("*.cpp"), *csrc.glob("cpu/*.cpp")],
            )
        )
    link = [*shlex.split(COMPILER), *SANITIZE, "-shared", *objects, f"-L{TORCH / 'lib'}"]
    run([*link, "-ltorch_cpu", "-o", package / "_C.abi3.so"])
    return folder


def fuzz(folder, *options):
    """Runs the fuzzer with the package in ``folder``."""
    # The sanitizer has to be there first, and with it the exceptions that it looks at.
    libraries = [
        subprocess.run(
            [*shlex.split(COMPILER), f"-print-file-name={name}"], capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONPATH": str(folder),
        # The interpreter's own leaks; and torch raises where there is no memory for a tensor.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "SOFTCM_REQUIRE_EXT": "1",
    }
    command = [sys.executable, ROOT / "tests" / "fuzz_operators.py", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@needs_emulator
@pytest.mark.slow
def test_operators_take_any_arguments(tmp_path):
    done = fuzz(build_package(tmp_path), "--calls", "300", "--verbose")
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stdout.startswith("300 calls: "), done.stdout


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        done = fuzz(build_package(Path(folder)), *sys.argv[1:])
        sys.exit(done.stdout + done.stderr[-5000:] if done.returncode else print(done.stdout))
