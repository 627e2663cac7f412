"""Builds softcm with its C++ extension, or as pure Python where that cannot be compiled.

Switches, from the environment:
  SOFTCM_BUILD_EXT=auto|0|1    build the extension where possible (the default), never, or fail
  SOFTCM_BUILD_CUDA=auto|0|1   the same for CUDA kernels; there are none yet
  MAX_JOBS                     files compiled at the same time; default: the number of cores
  CXX, CXXFLAGS                compiler, and flags in addition to those below
"""

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

# isort: split
# From Python 3.12 on distutils is setuptools' own, there once setuptools has been imported.
from distutils.ccompiler import new_compiler
from distutils.errors import CompileError
from distutils.sysconfig import customize_compiler

ROOT = Path(__file__).resolve().parent
MIN_TORCH = (2, 11)
BUILD_COMMANDS = {"bdist_wheel", "editable_wheel", "build", "build_ext", "develop", "install"}
MACROS = [
    ("Py_LIMITED_API", "0x030a0000"),  # Python 3.10
    ("TORCH_TARGET_VERSION", "0x020a000000000000"),  # the stable ABI of torch 2.10
]
# No contraction to fused multiply-add: results are the same bits on every instruction set.
CXX_FLAGS = [
    "-std=c++20",
    "-O3",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-g0",
]


def switch(name):
    value = os.environ.get(name, "auto")
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"softcm: {name} must be auto, 0 or 1, not {value!r}")
    return value


def max_jobs():
    value = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
    if not value.isdecimal() or int(value) < 1:
        raise SystemExit(f"softcm: MAX_JOBS must be a whole number from 1 up, not {value!r}")
    return int(value)


def find_torch():
    """Folder and version of torch, or None.

    A build front end isolates this process from the environment that it installs into. So ask
    interpreters: this one as it stands, this one without the PYTHONPATH by which pip isolates
    (-E), and those of the active environments, for front ends that build in a virtual one.
    """
    probe = (
        "import importlib.metadata, importlib.util;"
        "print(importlib.util.find_spec('torch').submodule_search_locations[0]);"
        "print(importlib.metadata.version('torch'))"
    )
    candidates = [[sys.executable], [sys.executable, "-E"]]
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if variable in os.environ:
            candidates.append([os.path.join(os.environ[variable], "bin", "python"), "-E"])
    for python in candidates:
        try:
            answer = subprocess.run([*python, "-c", probe], capture_output=True, text=True)
        except OSError:
            continue
        if answer.returncode == 0:
            folder, version = answer.stdout.split("\n")[:2]
            return Path(folder), version
    return None


def find_compiler():
    """First line of the version of the C++ compiler, or None where none compiles C++20."""
    compiler = new_compiler()
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("#include <Python.h>\n#include <span>\nstd::span<int> empty;\n")
        try:
            compiler.compile(
                [str(source)],
                output_dir=folder,
                macros=MACROS,
                include_dirs=[sysconfig.get_path("include")],
                extra_postargs=CXX_FLAGS,
            )
        except CompileError:
            return None
    command = [*compiler.compiler_cxx, "--version"]
    return subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[0]


def plan():
    """Extensions to build, and what softcm._build_info will say; reason: why there are none."""
    if switch("SOFTCM_BUILD_CUDA") == "1":
        raise SystemExit("softcm: SOFTCM_BUILD_CUDA=1, but this version has no CUDA kernels")
    if switch("SOFTCM_BUILD_EXT") == "0":
        return [], {"reason": "softcm was built with SOFTCM_BUILD_EXT=0"}
    if os.name == "nt":
        return [], {"reason": "softcm's extension is not built on Windows"}
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return [], {"reason": "softcm's extension is not built for free-threaded Python"}
    torch = find_torch()
    if torch is None:
        return [], {"reason": "torch was not installed when softcm was built"}
    folder, version = torch
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < MIN_TORCH:
        return [], {"reason": f"torch {version} was too old when softcm was built (2.11 is needed)"}
    compiler = find_compiler()
    if compiler is None:
        return [], {"reason": "no C++20 compiler that works was found when softcm was built"}
    extension = Extension(
        "softcm._C",
        # Relative, as setuptools wants them; csrc/cuda is not for this extension.
        sources=sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/*.cpp"))
        + sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/cpu/*.cpp")),
        include_dirs=["csrc", str(folder / "include")],
        define_macros=MACROS,
        library_dirs=[str(folder / "lib")],
        libraries=["torch_cpu"],
        extra_compile_args=CXX_FLAGS,
        extra_link_args=["-s"],
        py_limited_api=True,
        language="c++",
    )
    flags = " ".join([*CXX_FLAGS, os.environ.get("CXXFLAGS", "")]).strip()
    return [extension], {"reason": None, "torch": version, "compiler": compiler, "flags": flags}


class BuildExt(build_ext):
    """Compiles the files of an extension side by side."""

    def build_extensions(self):
        compile_files = self.compiler.compile

        def compile_side_by_side(sources, **options):
            with ThreadPoolExecutor(max_jobs()) as pool:
                objects = pool.map(lambda source: compile_files([source], **options), sources)
                return [path for paths in objects for path in paths]

        self.compiler.compile = compile_side_by_side
        super().build_extensions()


class BuildPy(build_py):
    """Adds softcm/_build_info.py to what is installed."""

    def run(self):
        super().run()
        package = Path("softcm") if self.editable_mode else Path(self.build_lib, "softcm")
        package.mkdir(parents=True, exist_ok=True)
        text = (
            f'"""How this copy of softcm was built; written by setup.py."""\n\nBUILD = {BUILD!r}\n'
        )
        (package / "_build_info.py").write_text(text)


# An sdist and the metadata need neither torch nor a compiler.
EXTENSIONS, BUILD = plan() if BUILD_COMMANDS & set(sys.argv) else ([], {})
if BUILD.get("reason"):
    if switch("SOFTCM_BUILD_EXT") == "1":
        raise SystemExit(f"softcm: SOFTCM_BUILD_EXT=1, but {BUILD['reason']}")
    rule = "*" * 80
    print(f"{rule}\nsoftcm: pure Python only: {BUILD['reason']}\n{rule}", file=sys.stderr)

setup(
    ext_modules=EXTENSIONS,
    cmdclass={"build_ext": BuildExt, "build_py": BuildPy},
    options={
        # Always compile: setuptools would not notice another torch, compiler, flag or header.
        "build_ext": {"force": True},
        **({"bdist_wheel": {"py_limited_api": "cp310"}} if EXTENSIONS else {}),
    },
)
