"""Fused against eager, against torch.compile, against what else there is, with pytest-benchmark:

    pytest benchmarks/ --benchmark-only [--grid quick|default|full] [-k "f1 and N1024 and native"]

A group is a loss at a shape; ``python -m benchmarks report`` lets its contenders take turns, here
they come one after another.
"""

import pytest

from .cases import Case
from .contenders import CONTENDERS, steps
from .run import Settings, names_of

ORDINARY = Settings("default", 0.0, (0,), costs=False, instructions=False)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.benchmark(max_time=0.2, min_rounds=3, min_time=1e-4)
def test_step(benchmark, request, case: Case, contender: str) -> None:
    full = request.config.getoption("--grid") == "full"
    if not full and contender not in names_of(case, ORDINARY._replace(threads=(case.threads,))):
        pytest.skip("it would take long: --grid full")
    found, reasons = steps(case, (contender,))
    if contender in reasons:
        pytest.skip(reasons[contender])
    benchmark.group = str(case)
    benchmark(found[contender])
