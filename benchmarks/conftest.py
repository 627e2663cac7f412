"""The grid that ``pytest benchmarks/`` goes through."""

import pytest
import torch

from .cases import LOSSES, MOST_ELEMENTS, PARTS, SIZES, THRESHOLDS, Case, all_cases
from .measure import keep_freed_memory


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--grid",
        choices=("quick", "default", "full"),
        default="default",
        help="quick: seconds; default: minutes; full: every loss, shape, dtype and part, hours",
    )


def cases(grid: str) -> list[Case]:
    threads = (torch.get_num_threads(),)
    if grid == "full":
        both = tuple(dict.fromkeys((*threads, 1)))
        dtypes = ("float32", "bfloat16")
        return list(all_cases(tuple(LOSSES), SIZES, (1, 20), THRESHOLDS, dtypes, PARTS, both))
    sizes = SIZES[:2] if grid == "quick" else SIZES[:4]
    losses = ("f1", "mcc", "auroc")
    of_one_class = all_cases(losses, sizes, (1,), (1, 99), ("float32",), ("both",), threads)
    of_twenty = all_cases(("f1",), sizes[:3], (20,), (1, 9), ("float32",), ("both",), threads)
    return [case for case in (*of_one_class, *of_twenty) if case.elements <= MOST_ELEMENTS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        chosen = cases(metafunc.config.getoption("--grid"))
        # Without spaces and signs, which -k does not take.
        ids = [str(case).replace("=", "").replace(" ", "-") for case in chosen]
        metafunc.parametrize("case", chosen, ids=ids)


@pytest.fixture(scope="session", autouse=True)
def reused_memory() -> None:
    keep_freed_memory()
