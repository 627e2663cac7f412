"""The paper's published figures, as transcribed in published.json; garbled cells are left out."""

import json
from functools import cache
from pathlib import Path
from typing import Any

Cell = tuple[float, float | None]


@cache
def load() -> dict[str, Any]:
    """The whole file: source, conventions, tables, garbled cells and notes."""
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def value(table: str, dataset: str, loss: str, metric: str) -> Cell | None:
    """Mean and standard deviation of a cell, the latter None where the paper gives none.

    None where the paper has no such cell, or its text is garbled there. Names are those of the
    file, such as ``value("1", "adult", "f1_linear", "f1")``; batch sizes belong to the metric
    (``"f1@1024"`` in S1). An unknown table is a ValueError.
    """
    tables = load()["tables"]
    if table not in tables:
        raise ValueError(f"table must be one of {', '.join(tables)}, got {table!r}")
    cell = tables[table].get(dataset, {}).get(loss, {}).get(metric)
    return None if cell is None else (cell[0], cell[1])


def garbled(table: str) -> list[dict[str, Any]]:
    """The cells of a table that the text does not yield, with the reason."""
    return [entry for entry in load()["garbled"] if entry["table"] == table]


def is_garbled(table: str, dataset: str, loss: str, metric: str) -> bool:
    """Whether the paper has such a cell, of which the text does not tell the figure."""
    return any(
        (entry["dataset"], entry["loss"]) == (dataset, loss) and metric in entry["metrics"]
        for entry in garbled(table)
    )
