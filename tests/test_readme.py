"""Every code block of the README runs; the two marked ones are run as they stand by .ci/run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- (?P<marker>.*?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)```", re.S)
BLOCKS = [match.groupdict() for match in BLOCK.finditer(README)]


def blocks(language):
    return [
        pytest.param(block["code"], id=block["code"].split("\n")[0][:40])
        for block in BLOCKS
        if block["language"] == language and block["marker"] is None
    ]


@pytest.fixture
def folder(tmp_path):
    """A folder with what the README's commands name: benchmarks, my.npz and my.csv."""
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    rng = np.random.default_rng(0)
    y = (rng.random(400) < 0.2).astype(np.uint8)
    x = rng.normal(size=(400, 3)) + y[:, None]
    np.savez(tmp_path / "my.npz", X=x, y=y)
    rows = np.column_stack((x, y))
    np.savetxt(tmp_path / "my.csv", rows, delimiter=",", header="a,b,c,label", comments="")
    return tmp_path


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block(code):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("code", blocks("bash"))
def test_bash_block(code, folder):
    for line in code.splitlines():
        command = shlex.split(line)
        assert command[0] == "python", "only Python commands can be run in this test"
        done = subprocess.run(
            [sys.executable, *command[1:]],
            cwd=folder,
            env={**os.environ, "MPLBACKEND": "Agg"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_marked_blocks_are_those_that_ci_runs():
    marked = {block["marker"] for block in BLOCKS if block["marker"]}
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert marked == set(re.findall(r'run_readme_block "(.*?)"', ci))


def test_every_block_has_a_language_but_the_tree_of_files_and_the_output():
    assert all(block["language"] in ("python", "bash", "") for block in BLOCKS)
    assert README.count("```") == 2 * len(BLOCKS)
