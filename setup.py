"""Builds softcm with its C++ extension, or as pure Python where that cannot be compiled.

Switches, from the environment:
  SOFTCM_BUILD_EXT=auto|0|1    build the extension where possible (the default), never, or fail
  SOFTCM_BUILD_CUDA=auto|0|1   the same for the CUDA kernels; auto: where a toolkit is found
  CUDA_HOME                    the toolkit; default: that of the nvcc on PATH
  TORCH_CUDA_ARCH_LIST         GPU architectures to compile for, as "8.0;9.0+PTX"
  MAX_JOBS                     files compiled at the same time; default: the number of cores
  CXX, CXXFLAGS                compiler, and flags in addition to those below
"""

import os
import re
import shutil
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
CUDA_MACROS = [MACROS[0], ("TORCH_TARGET_VERSION", "0x020d000000000000")]  # streams need torch 2.13
MIN_TORCH_CUDA = (2, 13)
CUDA_ARCHITECTURES = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
NVCC_FLAGS = ["-std=c++20", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Werror=switch"]
# No contraction to fused multiply-add: results are the same bits on every instruction set.
CXX_FLAGS = [
    "-std=c++20",
    "-O3",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    # An enumerator that a switch forgets fails to compile.
    "-Werror=switch",
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
    flags = " ".join([*CXX_FLAGS, os.environ.get("CXXFLAGS", "")]).strip()
    build = {"reason": None, "torch": version, "compiler": compiler, "flags": flags}
    cuda, build_of_cuda = plan_cuda(folder, version)
    return [cpu_extension(folder), *cuda], build | build_of_cuda


def sources(*patterns):
    """Relative, as setuptools wants them."""
    return sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern))


def cpu_extension(torch):
    return Extension(
        "softcm._C",
        sources=sources("csrc/*.cpp", "csrc/cpu/*.cpp"),
        include_dirs=["csrc", str(torch / "include")],
        define_macros=MACROS,
        library_dirs=[str(torch / "lib")],
        libraries=["torch_cpu"],
        extra_compile_args=CXX_FLAGS,
        extra_link_args=["-s"],
        py_limited_api=True,
        language="c++",
    )


def plan_cuda(torch, version):
    """The CUDA extension, if there is to be one, and what softcm._build_info will say of it.

    It takes a toolkit, but neither a GPU nor a torch that was built for CUDA: the runtime is linked
    statically, and nothing of libtorch_cuda is needed.
    """
    wanted = switch("SOFTCM_BUILD_CUDA")
    home = find_cuda()
    reason = None
    if wanted == "0":
        reason = "softcm was built with SOFTCM_BUILD_CUDA=0"
    elif home is None:
        reason = "no CUDA toolkit was found when softcm was built"
    elif tuple(map(int, re.findall(r"\d+", version)[:2])) < MIN_TORCH_CUDA:
        reason = f"torch {version} was too old when softcm was built (2.13 is needed)"
    if reason is not None:
        if wanted == "1":
            raise SystemExit(f"softcm: SOFTCM_BUILD_CUDA=1, but {reason}")
        return [], {"cuda_reason": reason}
    extension = Extension(
        "softcm._C_cuda",
        # The rules of the arguments are the same for every device.
        sources=[
            *sources("csrc/cuda/*.cpp", "csrc/cuda/*.cu"),
            os.path.join("csrc", "arguments.cpp"),
        ],
        include_dirs=["csrc", str(torch / "include"), str(home / "include")],
        define_macros=CUDA_MACROS,
        library_dirs=[str(torch / "lib"), *cuda_libraries(home)],
        libraries=["torch_cpu", "cudart_static", "dl", "rt", "pthread"],
        extra_compile_args=CXX_FLAGS,
        extra_link_args=["-s"],
        py_limited_api=True,
        language="c++",
    )
    extension.nvcc = [str(home / "bin" / "nvcc"), *NVCC_FLAGS, *architectures()]
    return [extension], {"cuda_reason": None, "cuda": f"{home.name}, {cuda_architectures()}"}


def find_cuda():
    """Folder of the CUDA toolkit, or None."""
    if "CUDA_HOME" in os.environ:
        homes = [Path(os.environ["CUDA_HOME"])]
    else:
        homes = [Path("/usr/local/cuda")]
        nvcc = shutil.which("nvcc")  # perhaps a script, but one that knows where the toolkit is
        if nvcc is not None:
            command = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]
            answer = subprocess.run(command, capture_output=True, text=True)
            top = re.search(r"^#\$ _HERE_=(.*)$", answer.stdout + answer.stderr, re.MULTILINE)
            homes[:0] = [Path(top[1].strip()).parent] if top else []
    for home in homes:
        if (home / "bin" / "nvcc").is_file() and (home / "include" / "cuda_runtime.h").is_file():
            return home.resolve()
    return None


def cuda_libraries(home):
    folders = [home / "lib64", home / "lib", *home.glob("targets/*/lib")]
    return [str(folder) for folder in folders if (folder / "libcudart_static.a").is_file()][:1]


def cuda_architectures():
    return os.environ.get("TORCH_CUDA_ARCH_LIST") or CUDA_ARCHITECTURES


def architectures():
    """nvcc's options for the architectures; +PTX adds code that later GPUs can translate."""
    flags = []
    for name in re.split(r"[;, ]+", cuda_architectures().strip()):
        parsed = re.fullmatch(r"(\d+)\.(\d+[af]?)(\+PTX)?", name)
        if parsed is None:
            raise SystemExit(f"softcm: TORCH_CUDA_ARCH_LIST must be like 8.0;9.0+PTX, not {name!r}")
        number = parsed[1] + parsed[2]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if parsed[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


class BuildExt(build_ext):
    """Compiles the files of an extension side by side, those that end in .cu with nvcc."""

    def build_extensions(self):
        self.compiler.src_extensions.append(".cu")
        self.compile_files = self.compiler.compile
        super().build_extensions()

    def build_extension(self, extension):
        def compile_one(source, options):
            if source.endswith(".cu"):
                return [self.compile_cuda(extension, source, options)]
            return self.compile_files([source], **options)

        def compile_side_by_side(sources, **options):
            with ThreadPoolExecutor(max_jobs()) as pool:
                objects = pool.map(lambda source: compile_one(source, options), sources)
                return [path for paths in objects for path in paths]

        self.compiler.compile = compile_side_by_side
        super().build_extension(extension)

    def compile_cuda(self, extension, source, options):
        (path,) = self.compiler.object_filenames([source], output_dir=options["output_dir"])
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        includes = [f"-I{folder}" for folder in options["include_dirs"]]
        self.spawn([*extension.nvcc, *includes, "-c", source, "-o", path])
        return path


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
    for name in ("SOFTCM_BUILD_EXT", "SOFTCM_BUILD_CUDA"):
        if switch(name) == "1":
            raise SystemExit(f"softcm: {name}=1, but {BUILD['reason']}")
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
