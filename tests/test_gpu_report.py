"""The report for the first GPU, with the CPU as device."""

from pathlib import Path

import pytest
import torch

from softcm import available_backends

needs_native = pytest.mark.skipif(
    "native" not in available_backends("cpu"), reason="softcm was built without its extension"
)


@pytest.fixture
def gpu_report(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent / "benchmarks")
    import gpu_report

    # Inductor would take most of the time; test_operators.py compiles the same function.
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(gpu_report, "TESTS", "tests/test_gpu.py")
    return gpu_report


def table(file):
    lines = file.read_text().splitlines()
    assert all(line.startswith("|") for line in lines)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@needs_native
def test_table(gpu_report, tmp_path, capsys):
    output = tmp_path / "report.md"
    options = f"--device cpu --sizes 64,100 --seconds 0.001 --output {output}"
    assert gpu_report.main(options.split()) == 0
    header, _, *rows = table(output)
    assert header == list(gpu_report.HEADER)
    assert all(len(row) == len(header) for row in rows)
    assert capsys.readouterr().out == output.read_text()

    results = {tuple(row[:3]): row[3:] for row in rows}
    assert results["command", "", ""][0] == f"`python benchmarks/gpu_report.py {options}`"
    assert results["device", "", ""][0].startswith("CPU")
    assert results["torch", "", ""][0] == torch.__version__
    if not torch.cuda.is_available():
        assert "skipped" in results["pytest -m gpu", "", ""][0]
    assert "no compute-sanitizer" in results["compute-sanitizer, racecheck", "", ""][0]
    for loss in gpu_report.OTHER_LOSSES:
        row = results[f"against float64, native, {loss}", "20,001", ""]
        assert row[0].startswith("relative error: loss")
        row = results[f"determinism, native, {loss}", "20,001", ""]
        assert row[0] == "the same bits in 10 runs"
        assert results[f"time, native, {loss}", "64", "float32"][0].endswith(" us")
    for size in ("64", "100"):
        assert results["against float64, native", size, ""][0].startswith("relative error: loss")
        assert results["determinism, native", size, ""][0] == "the same bits in 10 runs"
        assert results["CUDA graph, native", size, ""][0] == "not run: no CUDA graphs on cpu"
        for dtype in ("float32", "bfloat16"):
            assert results["time, copy", size, dtype][2] == "1.00"
            for name in ("native", "cross-entropy", "compiled reference"):
                time, rate, ratio = results[f"time, {name}", size, dtype]
                assert time.endswith(" us")
                assert float(rate) >= 0
                assert float(ratio) > 0


def test_failures_are_told(gpu_report, tmp_path, monkeypatch):
    true_step, calls = gpu_report.loss_step, []

    def step(*arguments):
        loss, gradient = true_step(*arguments)
        calls.append(loss)
        # The second is the float64 value of the first, the fifth one of ten equal runs.
        return loss + 1e-4 * (len(calls) in (2, 5)), gradient

    def refuse(*_):
        raise NotImplementedError("no | such kernel\nand more")

    monkeypatch.setattr(gpu_report, "loss_step", step)
    monkeypatch.setattr(gpu_report, "BACKENDS", ("reference",))
    monkeypatch.setattr(gpu_report, "OTHER_LOSSES", ())
    monkeypatch.setattr(gpu_report, "run_tests", lambda: "1 passed")
    monkeypatch.setattr(gpu_report.F, "binary_cross_entropy", refuse)
    output = tmp_path / "report.md"
    options = ["--device", "cpu", "--sizes", "64", "--seconds", "0", "--output", str(output)]
    assert gpu_report.main(options) == 1
    results = {row[0]: row[3] for row in table(output)[2:]}
    assert results["pytest -m gpu"] == "1 passed"
    assert results["against float64, reference"].startswith("FAILED: relative error")
    assert results["determinism, reference"] == "FAILED: bits differ"
    assert results["time, cross-entropy"] == r"FAILED: no \| such kernel"
    assert results["time, reference"].endswith(" us")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--device cpu --sizes 64,-1", "positive integers"),
        ("--device cpu --sizes ,", "positive integers"),
        ("--device tpu", "invalid choice"),
        ("--device cpu --seconds soon", "invalid float"),
    ],
)
def test_wrong_arguments(gpu_report, options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu_report.main(options.split())
    assert message in capsys.readouterr().err


def test_no_gpu(gpu_report, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        gpu_report.main([])
    assert "no CUDA device here; --device cpu" in capsys.readouterr().err


def test_sanitizer(gpu_report, tmp_path, monkeypatch):
    """By a stand-in for the tool: how it is called and what becomes of its answer."""
    tool = tmp_path / "compute-sanitizer"
    said = "echo ==== ERROR SUMMARY: $1 $2 $3 $4, cache $PYTORCH_NO_CUDA_MEMORY_CACHING"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for status in (0, 1):
        tool.write_text(f"#!/bin/sh\n{said}\nexit {status}\n")
        tool.chmod(0o755)
        row = gpu_report.check("sanitizer", gpu_report.run_sanitizer, "racecheck", "cuda")
        summary = "ERROR SUMMARY: --tool racecheck --error-exitcode 1, cache 1"
        assert row.result.startswith("FAILED") == (status == 1)
        assert row.result.endswith(summary)


@needs_native
def test_small_steps(gpu_report, monkeypatch):
    true_step, seen = gpu_report.loss_step, []

    def step(input, target, backend, loss):
        seen.append((backend, len(input), loss))
        return true_step(input, target, backend, loss)

    monkeypatch.setattr(gpu_report, "loss_step", step)
    monkeypatch.setattr(gpu_report, "BACKENDS", ("native",))
    gpu_report.small_steps("cpu")
    sizes = (1_000, 100_001)
    assert seen == [("native", size, loss) for size in sizes for loss in gpu_report.LOSSES]


def test_median_of_events(gpu_report, monkeypatch):
    """Milliseconds between stand-ins for events, in seconds."""
    clock = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = len(clock)

        def elapsed_time(self, end):
            return 1_000.0 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert gpu_report.median_event_time(lambda: clock.extend("tick"), 0) == 4
    assert len(clock) == 4 * (10 + 20)
