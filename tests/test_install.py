"""Builds and installs copies of this source tree in every mode, without a network.

A build runs the hooks that pip calls, in an interpreter of its own: one that sees the torch of this
environment, or one that sees setuptools alone. The real kernels are compiled once; the other
builds compile a module without contents, which takes a second.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from emulator import build_once

pytestmark = pytest.mark.install

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["csrc", "softcm", "tests", "benchmarks"]
FILES = ["pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"]
LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.py")
EMPTY_MODULE = """
#include <Python.h>
PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}
"""
# What decides how softcm is built and loaded, or which torch is seen, is up to each test.
OURS = ("SOFTCM_BUILD_EXT", "SOFTCM_REQUIRE_EXT", "MAX_JOBS", "CUDA_HOME")
FOREIGN = ("PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX")

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler on this machine"
)


def run(command, cwd, **variables):
    environment = {k: v for k, v in os.environ.items() if k not in OURS + FOREIGN}
    # CUDA takes its time to compile: one build has it, for one architecture.
    environment |= {"SOFTCM_BUILD_CUDA": "0", "TORCH_CUDA_ARCH_LIST": "9.0"} | variables
    command = [str(word) for word in command]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def build(python, source, hook, out, **variables):
    """The file that a PEP 517 hook of setuptools made, and what it printed."""
    code = f"import sys; from setuptools import build_meta; build_meta.{hook}(sys.argv[1])"
    out.mkdir(exist_ok=True)
    done = run([python, "-c", code, out], source, **variables)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    (path,) = out.iterdir()
    return path, log


def refused_build(python, source, out, **variables):
    """The last line of a build that must fail."""
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = run([python, "-c", code, out], source, **variables)
    assert done.returncode != 0
    return done.stderr.strip().splitlines()[-1]


def unpack(wheel, folder):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_installed(site, *arguments, **variables):
    """Python with softcm from ``site`` and everything else from this environment.

    -S leaves out the .pth files: one of an editable softcm would lend ``site`` what it lacks.
    """
    path = os.pathsep.join([str(site), *filter(None, sys.path)])
    return run([sys.executable, "-S", *arguments], site, PYTHONPATH=path, **variables)


def import_softcm(site, **variables):
    code = "import softcm; from softcm import _extension as e; print(e.LOADED, e.REASON)"
    return run_installed(site, "-c", code, **variables)


def copy_tree(target):
    for name in SOURCES:
        shutil.copytree(ROOT / name, target / name, ignore=LEFT_BEHIND)
    for name in FILES:
        shutil.copy(ROOT / name, target)
    return target


@pytest.fixture
def source(tmp_path):
    """A copy of the tree with an empty module in place of the kernels."""
    folder = tmp_path / "source"
    folder.mkdir()
    copy_tree(folder)
    shutil.rmtree(folder / "csrc")
    (folder / "csrc" / "cpu").mkdir(parents=True)
    (folder / "csrc" / "ops.cpp").write_text(EMPTY_MODULE)
    return folder


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """An interpreter that sees setuptools but no torch, as in an isolated build."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder / "venv", symlinks=True, with_pip=False)
    python = folder / "venv" / "bin" / "python"
    site = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder)
    installed = Path(importlib.util.find_spec("setuptools").origin).parent.parent
    for path in [*installed.glob("setuptools*"), installed / "_distutils_hack"]:
        Path(site.stdout.strip(), path.name).symlink_to(path)
    return python


@pytest.fixture(scope="module")
def sdist(tmp_path_factory, bare_python):
    """The sdist, built without torch, and its contents."""
    folder = tmp_path_factory.mktemp("sdist")
    (folder / "tree").mkdir()
    path, _ = build(bare_python, copy_tree(folder / "tree"), "build_sdist", folder / "dist")
    with tarfile.open(path) as archive:
        archive.extractall(folder, **({"filter": "data"} if sys.version_info >= (3, 12) else {}))
    return folder / path.name.removesuffix(".tar.gz")


def quick_nvcc():
    """Options for nvcc where all that counts is whether the kernels load: a quarter of the time."""
    option = "--Ofast-compile"  # not in every nvcc
    known = shutil.which("nvcc") and option in run(["nvcc", "--help"], ROOT).stdout
    return f"{option}=max" if known else ""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, sdist):
    """The wheel with the real kernels, built from the sdist."""

    def build_wheel(folder):
        variables = {"SOFTCM_BUILD_CUDA": "auto", "NVCC_APPEND_FLAGS": quick_nvcc()}
        return build(sys.executable, sdist, "build_wheel", folder / "dist", **variables)[0]

    return build_once(tmp_path_factory, "wheel", build_wheel)


@pytest.fixture(scope="module")
def site(tmp_path_factory, wheel):
    """A folder into which pip installed that wheel."""
    pytest.importorskip("pip", reason="pip is not installed in this environment")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
    done = run([*command, folder, wheel], folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_sdist_is_complete(sdist):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to softcm is unknown")
    tracked = run(["git", "ls-files", *SOURCES, *FILES], ROOT).stdout.split()
    assert tracked
    missing = [name for name in tracked if not (sdist / name).is_file()]
    assert not missing
    assert not list(sdist.rglob("*.so"))
    assert not (sdist / "softcm" / "_build_info.py").exists()


@needs_compiler
def test_wheel_from_the_sdist(wheel):
    assert "-cp310-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert {"softcm/_C.abi3.so", "softcm/py.typed", "softcm/_build_info.py"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"softcm"}


@needs_compiler
def test_installed_wheel_loads(site):
    done = import_softcm(site, SOFTCM_REQUIRE_EXT="1")
    assert done.stdout == "True None\n", done.stderr
    assert done.stderr == ""


@needs_compiler
@needs_nvcc
def test_installed_cuda_part_loads_without_a_gpu(site):
    code = (
        "from softcm import _extension as e, backends as b; print(e.CUDA_REASON, b.NATIVE_DEVICES)"
    )
    done = run_installed(site, "-W", "error", "-c", code)
    assert done.stdout.startswith("None ")
    assert "'cuda'" in done.stdout
    assert "CUDA kernels  loaded" in run_installed(site, "-m", "softcm").stdout


@needs_compiler
def test_cuda_part_that_cannot_be_loaded(site, tmp_path):
    broken = shutil.copytree(site, tmp_path / "broken")
    (broken / "softcm" / "_C_cuda.abi3.so").write_text("no library")
    done = import_softcm(broken, SOFTCM_REQUIRE_EXT="1")
    assert (done.stdout, done.stderr) == ("True None\n", "")
    code = "import softcm; softcm.backends.select_backend('native', 'cuda')"
    done = run_installed(broken, "-c", code)
    assert "cannot serve tensors on 'cuda': it serves 'cpu' only (no CUDA kernels: " in done.stderr
    assert "_C_cuda.abi3.so" in done.stderr
    assert "CUDA kernels  none: " in run_installed(broken, "-m", "softcm").stdout


@needs_compiler
def test_extension_uses_the_stable_abi_of_python_only(wheel):
    if importlib.util.find_spec("abi3audit") is None:
        pytest.skip("abi3audit is not installed (it comes with the extra 'dev')")
    done = run([sys.executable, "-m", "abi3audit", "--strict", wheel], wheel.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_distributions_can_be_published(sdist, request):
    if importlib.util.find_spec("twine") is None:
        pytest.skip("twine is not installed (it comes with the extra 'dev')")
    files = [sdist.parent / "dist" / f"{sdist.name}.tar.gz"]
    if shutil.which(os.environ.get("CXX", "c++")):
        files.append(request.getfixturevalue("wheel"))
    done = run([sys.executable, "-m", "twine", "check", "--strict", *files], sdist)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_compiler
def test_wheel_needs_no_library_but_torch_and_the_system(wheel):
    if importlib.util.find_spec("auditwheel") is None:
        pytest.skip("auditwheel is not installed (it comes with the extra 'dev')")
    done = run([sys.executable, "-m", "auditwheel", "show", wheel], wheel.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    # "In order to achieve a more compatible tag": no symbol newer than that of some manylinux.
    text = " ".join(done.stdout.split())
    assert 'This constrains the platform tag to "manylinux_2_' in text, done.stdout


def install_by_uv(what, cwd, folder, **variables):
    """The folder into which uv has installed it."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed (it comes with the extra 'dev')")
    site = folder / "site"
    options = ["--offline", "--no-deps", "--python", sys.executable, "--target", site]
    variables |= {"UV_CACHE_DIR": folder / "cache"}
    done = run([uv, "pip", "install", *options, what], cwd, **variables)
    assert done.returncode == 0, done.stderr
    return site


@needs_compiler
def test_uv_installs_the_wheel_beside_torch(wheel, tmp_path):
    site = install_by_uv(wheel, tmp_path, tmp_path)
    done = import_softcm(site, SOFTCM_REQUIRE_EXT="1")
    assert done.stdout == "True None\n", done.stderr


@needs_compiler
def test_pip_builds_from_the_sdist(source, bare_python, tmp_path):
    pytest.importorskip("pip", reason="pip is not installed in this environment")
    sdist, _ = build(bare_python, source, "build_sdist", tmp_path / "dist")
    site = tmp_path / "site"
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--target", site]
    command = [sys.executable, "-m", "pip", "install", *options, sdist]
    done = run(command, tmp_path, SOFTCM_BUILD_EXT="1")
    assert done.returncode == 0, done.stderr
    assert (site / "softcm" / "_C.abi3.so").is_file()


@needs_compiler
def test_uv_builds_without_isolation(source, tmp_path):
    # By [tool.uv] in pyproject.toml, which spares the option.
    site = install_by_uv(".", source, tmp_path, SOFTCM_BUILD_EXT="1")
    assert (site / "softcm" / "_C.abi3.so").is_file()


@needs_compiler
def test_summary_of_a_compiled_install(site):
    import torch

    done = run_installed(site, "-m", "softcm")
    assert done.returncode == 0, done.stderr
    assert torch.__version__ in done.stdout
    assert "-ffp-contract=off" in done.stdout
    (cpu,) = (line for line in done.stdout.splitlines() if line.startswith("cpu"))
    assert cpu.split() == ["cpu"] + 4 * ["native"]


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"SOFTCM_BUILD_EXT": "0"}, "softcm was built with SOFTCM_BUILD_EXT=0"),
        ({"CXX": "/nowhere/c++"}, "no C++20 compiler that works was found when softcm was built"),
        ({"PATH": "/nowhere"}, "no C++20 compiler that works was found when softcm was built"),
    ],
)
def test_pure_python_build(source, tmp_path, variables, reason):
    path, log = build(sys.executable, source, "build_wheel", tmp_path / "wheel", **variables)
    assert path.name.endswith("-py3-none-any.whl")
    assert f"softcm: pure Python only: {reason}" in log
    site = unpack(path, tmp_path / "site")

    done = import_softcm(site)
    assert done.stdout == f"False {reason}\n"
    assert done.stderr.count("RuntimeWarning") == 1
    assert f"softcm runs without its compiled extension: {reason}." in done.stderr

    done = import_softcm(site, SOFTCM_REQUIRE_EXT="1")
    assert done.returncode == 1
    assert "ImportError: SOFTCM_REQUIRE_EXT=1, but" in done.stderr
    assert reason in done.stderr


@needs_compiler
def test_build_without_nvcc(source, tmp_path):
    (source / "csrc" / "cuda").mkdir()
    (source / "csrc" / "cuda" / "kernels.cu").touch()
    variables = {"SOFTCM_BUILD_CUDA": "auto", "CUDA_HOME": "/nowhere"}
    path, _ = build(sys.executable, source, "build_wheel", tmp_path / "wheel", **variables)
    archive = zipfile.ZipFile(path)
    assert "softcm/_C.abi3.so" in archive.namelist()
    assert "softcm/_C_cuda.abi3.so" not in archive.namelist()
    told = archive.read("softcm/_build_info.py").decode()
    assert "no CUDA toolkit was found when softcm was built" in told


def test_summary_of_a_pure_python_install(source, tmp_path):
    path, _ = build(sys.executable, source, "build_wheel", tmp_path / "wheel", SOFTCM_BUILD_EXT="0")
    site = unpack(path, tmp_path / "site")
    done = run_installed(site, "-m", "softcm")
    assert done.returncode == 0, done.stderr
    assert "SOFTCM_BUILD_EXT=0" in done.stdout
    assert "native" not in done.stdout
    (cpu,) = (line for line in done.stdout.splitlines() if line.startswith("cpu"))
    assert cpu.split() == ["cpu"] + 4 * ["reference"]


def test_build_without_torch(bare_python, source, tmp_path):
    path, log = build(bare_python, source, "build_wheel", tmp_path / "wheel")
    assert path.name.endswith("-py3-none-any.whl")
    assert "pure Python only: torch was not installed when softcm was built" in log


@needs_compiler
def test_isolated_build_finds_torch(bare_python, source, tmp_path):
    path, _ = build(bare_python, source, "build_wheel", tmp_path / "wheel", VIRTUAL_ENV=sys.prefix)
    assert "-cp310-abi3-" in path.name


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"SOFTCM_BUILD_EXT": "1", "CXX": "/nowhere/c++"},
            "softcm: SOFTCM_BUILD_EXT=1, but no C++20 compiler that works was found",
        ),
        ({"SOFTCM_BUILD_EXT": "yes"}, "SOFTCM_BUILD_EXT must be auto, 0 or 1, not 'yes'"),
        ({"SOFTCM_BUILD_CUDA": "2"}, "SOFTCM_BUILD_CUDA must be auto, 0 or 1, not '2'"),
        pytest.param(
            {"SOFTCM_BUILD_CUDA": "1", "CUDA_HOME": "/nowhere"},
            "softcm: SOFTCM_BUILD_CUDA=1, but no CUDA toolkit was found when softcm was built",
            marks=needs_compiler,
        ),
        pytest.param(
            {"SOFTCM_BUILD_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "Hopper"},
            "TORCH_CUDA_ARCH_LIST must be like 8.0;9.0+PTX, not 'Hopper'",
            marks=[needs_compiler, needs_nvcc],
        ),
        pytest.param({"MAX_JOBS": "0"}, "MAX_JOBS must be a whole number", marks=needs_compiler),
    ],
)
def test_refused_builds(source, tmp_path, variables, message):
    assert message in refused_build(sys.executable, source, tmp_path, **variables)


def test_required_extension_without_torch(bare_python, source, tmp_path):
    message = refused_build(bare_python, source, tmp_path, SOFTCM_BUILD_EXT="1")
    assert (
        message == "softcm: SOFTCM_BUILD_EXT=1, but torch was not installed when softcm was built"
    )


@needs_compiler
def test_compile_error_is_fatal(source, tmp_path):
    (source / "csrc" / "cpu" / "broken.cpp").write_text("int broken( {\n")
    assert "error" in refused_build(sys.executable, source, tmp_path)


@needs_compiler
@needs_nvcc
def test_compile_error_in_cuda_is_fatal(source, tmp_path):
    (source / "csrc" / "cuda").mkdir()
    (source / "csrc" / "cuda" / "broken.cu").write_text("__global__ void broken( {\n")
    assert "error" in refused_build(sys.executable, source, tmp_path, SOFTCM_BUILD_CUDA="auto")


@needs_compiler
def test_editable_install_builds_in_place(source, tmp_path):
    build(sys.executable, source, "build_editable", tmp_path / "wheel", SOFTCM_BUILD_EXT="1")
    assert (source / "softcm" / "_C.abi3.so").is_file()

    # The extension of the first build stays behind, and the second does without it.
    build(sys.executable, source, "build_editable", tmp_path / "second", SOFTCM_BUILD_EXT="0")
    assert import_softcm(source).stdout == "False softcm was built with SOFTCM_BUILD_EXT=0\n"
