"""Data of the demo: digits of scikit-learn or the user's own file, checked, split and scaled."""

import csv
import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# The digit most often mistaken, by its curves that others share, so that there is something to win:
# a logistic regression reaches an F1 of 0.7 on it, and of 0.85 to 0.99 on each of the others.
DIGIT = 8
MISSING = ("", "?", "na", "n/a", "nan", "null", "none")
# Fewer leave a part of a split with one or none.
FEWEST_OF_A_CLASS = 10
MOST_SHOWN = 10

# Names the place of an entry of X in the words of its file.
Place = Callable[[int, int], str]


class DemoError(Exception):
    """A mistake of the user's, told in one sentence and without a traceback."""


class Data(NamedTuple):
    name: str
    X: NDArray[np.float64]  # (N, D)
    y: NDArray[np.float64]  # (N,), 0 or 1


class Part(NamedTuple):
    X: Tensor  # (N, D), float32
    y: Tensor  # (N,), float32


class Split(NamedTuple):
    training: Part
    validation: Part
    test: Part


def load_digits() -> Data:
    from sklearn import datasets

    X, digits = datasets.load_digits(return_X_y=True)
    return Data(f"digit {DIGIT} against the rest", X, (digits == DIGIT).astype(np.float64))


def load_file(path: Path, target: str | None) -> Data:
    """Read ``X`` and ``y`` of an .npz file, or a .csv file with a header, and check them.

    Raises:
        DemoError: whatever is wrong with the file or its contents.
    """
    kind = path.suffix.lower()
    if kind not in (".npz", ".csv"):
        raise DemoError(f"--data must name a .npz or .csv file, got '{path}'")
    if kind == ".csv" and target is None:
        raise DemoError("--data with a .csv file needs --target COLUMN, the column of the labels")
    if kind == ".npz" and target is not None:
        raise DemoError("--target goes with a .csv file; a .npz file has its labels in y")
    if not path.is_file():
        raise DemoError(f"--data: there is no file '{path}'")
    try:
        if target is None:
            X, y, place = _read_npz(path)
        else:
            X, y, place = _read_csv(path, target)
    except (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DemoError(f"--data: cannot read '{path}': {error}") from None
    except csv.Error as error:
        raise DemoError(f"--data: '{path}' is not a .csv file: {error}") from None
    _check_values(X, place)
    _check_classes(y)
    return Data(path.name, X, y)


def split(data: Data, seed: int, stratified: bool = True) -> Split:
    """64 % for training, 16 % for validation, 20 % for the test, each with its share of positives.

    Or, if not ``stratified``, with as many as chance gives it. Features are centred and scaled to
    unit variance by what the training part alone tells.
    """
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    X, X_test, y, y_test = train_test_split(
        data.X, data.y, test_size=0.2, stratify=data.y if stratified else None, random_state=seed
    )
    X, X_validation, y, y_validation = train_test_split(
        X, y, test_size=0.2, stratify=y if stratified else None, random_state=seed
    )
    scaler = StandardScaler().fit(X)

    def part(X: NDArray[np.float64], y: NDArray[np.float64]) -> Part:
        return Part(torch.tensor(scaler.transform(X)).float(), torch.tensor(y).float())

    return Split(part(X, y), part(X_validation, y_validation), part(X_test, y_test))


def _read_npz(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], Place]:
    # numpy leaves a file that it cannot read open, if it opened it itself.
    with path.open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise DemoError(f"--data: '{path}' holds a single array, not the two arrays X and y")
        missing = [name for name in ("X", "y") if name not in arrays.files]
        if missing:
            raise DemoError(
                f"--data: '{path}' must hold arrays X and y; {' and '.join(missing)} not found "
                f"among {_listed(arrays.files)}"
            )
        X, y = arrays["X"], arrays["y"]
    if X.ndim != 2 or X.shape[1] == 0:
        raise DemoError(f"X must be 2-D, rows by features, got shape {X.shape}")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DemoError(f"y must be 1-D, a label for each row of X, got shape {y.shape}")
    if len(X) != len(y):
        raise DemoError(f"X and y must have the same length, got {len(X)} and {len(y)}")
    if X.dtype.kind not in "biuf":
        raise DemoError(f"X must be numeric, got {X.dtype}")
    return X.astype(np.float64), _labels(y.tolist(), "y"), lambda row, col: f"X[{row}, {col}]"


def _read_csv(path: Path, target: str) -> tuple[NDArray[np.float64], NDArray[np.float64], Place]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, target)
        label_at = header.index(target)
        columns = [name for name in header if name != target]
        features, labels = [], []
        for row, cells in enumerate(filter(None, reader), start=1):
            if len(cells) != len(header):
                raise DemoError(
                    f"row {row} has {len(cells)} values, but the header has {len(header)}"
                )
            label = cells.pop(label_at).strip()
            labels.append(_csv_label(label))
            features.append(
                [_csv_number(cell, row, name) for cell, name in zip(cells, columns, strict=True)]
            )

    def place(row: int, column: int) -> str:
        return f"row {row + 1}, column '{columns[column]}'"

    X = np.array(features, dtype=np.float64).reshape(-1, len(columns))
    return X, _labels(labels, f"column '{target}'"), place


def _check_header(header: list[str], target: str) -> None:
    if target not in header:
        raise DemoError(f"--target: there is no column '{target}'; there are {_listed(header)}")
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if twice:
        raise DemoError(f"the header names a column more than once: {_listed(twice)}")
    if len(header) == 1:
        raise DemoError(f"there is no column of a feature beside '{target}'")


def _csv_number(cell: str, row: int, column: str) -> float:
    text = cell.strip()
    if text.lower() in MISSING:
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise DemoError(
            f"row {row}, column '{column}': '{text}' is not a number; "
            "only numeric columns can be used"
        ) from None


def _csv_label(text: str) -> Any:
    """A number or a truth value; a text that is neither stays as it is, to be refused by name."""
    word = text.lower()
    if word in ("true", "false"):
        return word == "true"
    if word in MISSING:
        return math.nan
    try:
        return float(text)
    except ValueError:
        return text


def _labels(values: Sequence[Any], name: str) -> NDArray[np.float64]:
    """The labels as 0.0 and 1.0; ``values`` are Python objects, of which True equals 1."""
    if not values:
        raise DemoError("there are no rows")
    missing = [row for row, value in enumerate(values) if value != value]
    if missing:
        raise DemoError(
            f"{name} has missing values: {len(missing)}, the first in row {missing[0] + 1}"
        )
    found = list(dict.fromkeys(values))
    if set(found) != {0, 1}:
        shown = [f"{value:g}" if isinstance(value, float) else repr(value) for value in found]
        raise DemoError(
            f"{name} must hold the labels 0 and 1 (or False and True), both of them and no other; "
            f"found {_listed(sorted(shown))}"
        )
    return np.array(values, dtype=np.float64)


def _check_values(X: NDArray[np.float64], place: Place) -> None:
    # Not even the square of a float32 is too large for the scaler; NaN compares as False.
    wrong = np.argwhere(~(np.abs(X) <= np.finfo(np.float32).max))
    if len(wrong) > 0:
        first = place(*wrong[0].tolist())
        raise DemoError(
            f"missing, infinite or too large values: {len(wrong)}, the first in {first}; "
            "fill them in or leave these rows out"
        )


def _check_classes(y: NDArray[np.float64]) -> None:
    positives = int(y.sum())
    for count, name in ((positives, "positives (label 1)"), (len(y) - positives, "negatives")):
        if count < FEWEST_OF_A_CLASS:
            raise DemoError(
                f"too few {name} to split them 64/16/20: "
                f"got {count}, at least {FEWEST_OF_A_CLASS} are needed"
            )


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - MOST_SHOWN} more" if len(words) > MOST_SHOWN else ""
    return (", ".join(words[:MOST_SHOWN]) or "none") + more
