"""The benchmarks: what a run writes, what is checked before it is timed, how runs are compared."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from softcm import available_backends

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import cases, compare, contenders, costs, measure, page, peers  # noqa: E402
from benchmarks.cases import Case  # noqa: E402

pytestmark = pytest.mark.skipif(
    "native" not in available_backends("cpu"), reason="softcm was built without its extension"
)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def python(*arguments):
    # pytest-benchmark refuses to time anything in a worker of pytest-xdist.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder that a quick run has written, and what it printed."""
    folder = tmp_path_factory.mktemp("report")
    options = ("report", "--quick", "--seconds", "0.01", "--readme", "--output", str(folder))
    done = python("-m", "benchmarks", *options)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def run(quick):
    return json.loads((quick[0] / "run.json").read_text(encoding="utf-8"))


def test_every_contender_is_timed_or_told_why_not(run):
    timed = {(Case(**row["case"]), row["contender"]) for row in run["times"]}
    missing = {(Case(**row["case"]), row["contender"]): row["why"] for row in run["missing"]}
    assert all(missing.values())
    assert {case for case, _ in timed} == set(cases.quick_cases((torch.get_num_threads(),)))
    for case in {case for case, _ in timed}:
        names = {name for c, name in (*timed, *missing) if c == case}
        assert names >= set(contenders.CONTENDERS) - {"compiled"}
        of_case = {name for c, name in timed if c == case}
        assert of_case >= {"native", "table", "cross-entropy", "floor", "kernels"}
    for row in run["times"]:
        assert 0 < row["low"] <= row["median"] <= row["high"] < 10
        assert row["samples"] >= 3


def test_costs(run):
    for split in run["costs"]["split"].values():
        assert split["step"] > split["dispatch"] > 0
        parts = split["kernel"] + split["dispatch"] + split["autograd"] + split["python"]
        assert parts == pytest.approx(split["step"])
    memory = run["costs"]["memory"]
    if "why" not in memory:
        assert memory["native"]["1"] > 3.5  # the gradient, and Linux counts pages by the batch
        assert memory["reference"]["1"] > 4 * memory["native"]["1"]


def test_page(quick, run):
    folder, printed = quick
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert f"`{run['command']}`" in text
    assert run["versions"]["torch"] in text
    assert run["machine"]["processor"] in text
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(pictures) == 4
    for name in pictures:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    for row in run["times"]:
        assert page.seconds(row["median"]) in text
    for row in run["missing"]:
        assert row["why"].replace("|", "\\|") in text
    # A table has as many cells in every row.
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1

    native, entropy = (
        next(
            row["median"]
            for row in run["times"]
            if row["contender"] == name
            and Case(**row["case"]) == Case("f1", 1024, threads=torch.get_num_threads())
        )
        for name in ("native", "cross-entropy")
    )
    assert f"{native / entropy:.3g}" in printed


def files(tmp_path, *runs):
    for i, run in enumerate(runs):
        (tmp_path / f"{i}.json").write_text(json.dumps(run), encoding="utf-8")
    return ["compare", *(str(tmp_path / f"{i}.json") for i in range(len(runs)))]


def steady(run):
    """The run with narrow quartiles, as on a quiet machine."""
    run = copy.deepcopy(run)
    for row in run["times"]:
        row["low"], row["high"] = 0.98 * row["median"], 1.02 * row["median"]
    return run


def slowed(run, factor, *names):
    run = copy.deepcopy(run)
    for row in run["times"]:
        if not names or row["contender"] in names:
            for key in ("low", "median", "high"):
                row[key] *= factor
    return run


def test_compare_flags_a_slow_down(run, tmp_path, capsys):
    run = steady(run)
    slow = slowed(run, 1.3, "native")
    assert command.main(files(tmp_path, run, slow)) == 1
    said = capsys.readouterr().out
    groups = len(cases.quick_cases((1,)))
    assert f"{groups} slower beyond noise" in said
    assert said.count("1.30 x") == groups
    assert command.main(files(tmp_path, slow, run)) == 0


def test_compare_ignores_noise_other_contenders_and_a_slower_machine(run, tmp_path):
    run = steady(run)
    wide = slowed(run, 1.3, "native")
    for row in wide["times"]:
        row["low"] = 0.5 * row["median"]
    for other in (
        run,
        wide,
        slowed(run, 1.05, "native"),
        slowed(run, 3.0, "reference"),
        slowed(run, 1.5),
    ):
        assert command.main(files(tmp_path, run, other)) == 0


def test_compare_sees_through_a_slower_machine(run):
    run = steady(run)
    both = slowed(slowed(run, 1.5), 1.3, "kernels")
    found = list(compare.slower(run, both))
    assert {slow.contender for slow in found} == {"kernels"}
    assert found[0].ratio == pytest.approx(1.3)


@pytest.mark.parametrize("name", ["native", "native, logits", "table", *peers.PEERS])
@pytest.mark.parametrize("loss", ["f1", "tversky", "accuracy", "auroc"])
def test_checks_pass(loss, name):
    case = Case(loss, 300)
    try:
        contenders.check(case, name, contenders.contender(case, name))
    except peers.NotRun as reason:
        pytest.skip(str(reason))


def test_a_wrong_value_is_not_timed():
    case = Case("f1", 100)
    right = contenders.contender(case, "cross-entropy")

    def off(p, y):
        return 1.001 * right.loss(p, y)

    with pytest.raises(AssertionError, match="the value"):
        contenders.check(case, "wrong", right._replace(loss=off))


def test_a_wrong_or_constant_gradient_is_not_timed():
    case = Case("f1", 100)
    right = contenders.contender(case, "cross-entropy")

    def off(p, y):
        return right.loss(p, y) + 0.01 * (p - p.detach()).sum()

    with pytest.raises(AssertionError, match=r"the gradient is .* off"):
        contenders.check(case, "wrong", right._replace(loss=off))

    def mean(p, _):
        return p.mean()

    with pytest.raises(AssertionError, match="constant"):
        contenders.check(case, "wrong", right._replace(loss=mean, exact=mean))


def test_steps_take_turns():
    calls = []
    steps = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    timings = measure.interleaved(steps, 0.0)
    assert set(timings) == set("abc")
    turns = "".join(name for name, last in zip(calls, ["", *calls], strict=False) if name != last)
    # Neighbours of two rounds are the same, as every other round goes backwards.
    assert turns.endswith("abcbabcbabc"[-7:])


def test_a_slow_step_sits_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def step(seconds):
        now[0] += seconds

    timings = measure.interleaved({"slow": lambda: step(9.0), "fast": lambda: step(0.5)}, 1.0)
    assert timings["slow"].samples == 3
    assert timings["slow"].median == pytest.approx(9.0)
    assert timings["fast"].samples == 5


def test_operators_are_those_of_the_step():
    case = Case("f1", 20_000)
    (step,) = contenders.steps(case, ("native",))[0].values()
    with costs._Recorder() as recorder:
        step()
    names = [operator.name() for operator, _ in recorder.calls]
    assert names == ["softcm::fractional_loss", "softcm::soft_counts_backward"]


def test_every_combination_is_bounded():
    full = cases.full_cases((2, 1))
    assert {case.loss for case in full} == set(cases.LOSSES)
    assert {case.thresholds for case in full} == set(cases.THRESHOLDS)
    assert max(case.elements for case in full) == cases.MOST_ELEMENTS
    assert set(cases.default_cases((2, 1))) <= set(full) | {
        Case(loss, size, thresholds=9, threads=2) for loss in cases.RANKING for size in cases.SIZES
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("report --sizes 64,-1", "positive integers"),
        ("report --losses f1,f2", "some of f1,"),
        ("report --quick --full", "not allowed with"),
        ("compare a.json", "after"),
    ],
)
def test_wrong_arguments(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(options.split())
    assert message in capsys.readouterr().err


def test_pytest_benchmark():
    done = python(
        *("-m", "pytest", "benchmarks/", "--benchmark-only", "--grid", "quick", "-q"),
        *("-p", "no:cacheprovider", "-k", "f1 and N128 and T1 and C1- and not reference"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "benchmark 'f1 N=128 C=1 T=1 float32 both" in done.stdout
    assert re.search(r"\d+ passed, \d+ skipped", done.stdout)
