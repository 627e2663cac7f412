"""The transcribed tables of the paper: their shape, and cells read from the page by hand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.paper import published


@pytest.mark.parametrize(
    ("table", "dataset", "loss", "metric", "cell"),
    [
        ("1", "cocktailparty", "f1_linear", "f1", (0.77, 0.02)),
        ("1", "adult", "bce", "accuracy", (0.75, 0.09)),
        ("1", "mammography", "f1_linear", "f1", (0.73, 0.05)),
        ("1", "kaggle", "f1_linear", "f1", (0.82, 0.03)),
        ("1", "kaggle", "auroc_wmw", "auroc", (0.75, 0.18)),
        ("2", "mammography", "f3_sigmoid", "recall", (0.794, 0.06)),
        ("3", "cifar10_frog", "f1_sigmoid", "f1", (0.740, 0.01)),
        ("S1", "synthetic_5", "f1_sigmoid", "f1@2048", (0.34, 0.18)),
        ("S2", "mammography", "none", "f1_difference@128", (0.041, 0.23)),
        ("S3", "adult", "svm_auroc", "accuracy", (0.32, None)),
        ("S4", "mammography", "f1_sigmoid", "accuracy_maximizers", (4, None)),
        ("S5", "kaggle", "none", "weight_positive", (290.25, None)),
        ("S6", "kaggle", "f1_linear", "f1", (0.79, 0.03)),
        ("S7", "adult", "none", "oversampled_rows", (39564, None)),
        ("S8", "mammography", "accuracy_sigmoid", "f1", (0.55, 0.08)),
        ("S9", "cifar10_transportation", "dice_sigmoid", "accuracy", (0.546, 0.04)),
        ("S10", "kaggle", "f2_linear", "precision", (0.849, 0.03)),
        ("text 5.4", "tabular", "f1_adversarial", "training_minutes", (70, 118)),
    ],
)
def test_cell(table, dataset, loss, metric, cell):
    assert published.value(table, dataset, loss, metric) == cell


def test_no_value_where_the_text_is_garbled_or_the_paper_has_none():
    for entry in published.load()["garbled"]:
        assert entry["reason"]
        for metric in entry["metrics"]:
            key = entry["table"], entry["dataset"], entry["loss"], metric
            assert published.value(*key) is None, key
            assert published.is_garbled(*key)
    assert published.value("3", "cifar10_frog", "f1_linear", "auroc") is None
    assert not published.is_garbled("3", "cifar10_frog", "f1_linear", "auroc")
    with pytest.raises(ValueError, match=r"table must be one of 1, .*, got 'S11'"):
        published.value("S11", "adult", "bce", "f1")


def test_every_cell_is_a_figure_that_can_be():
    tables = published.load()["tables"]
    expected = ["1", "2", "3", *(f"S{i}" for i in range(1, 11)), "text 5.4"]
    assert [name for name in tables if name != "figure_S4"] == expected
    scores = {"accuracy", "f1", "auroc", "precision", "recall"}
    for table, datasets in tables.items():
        for dataset, losses in datasets.items():
            for loss, metrics in losses.items():
                for metric, (mean, deviation) in metrics.items():
                    where = (table, dataset, loss, metric)
                    assert mean >= 0, where
                    assert deviation is None or deviation >= 0, where
                    if metric.partition("@")[0] in scores:
                        assert mean <= 1, where


# Rows and columns of each table: 9 losses on 4 data sets in 3 metrics, and so on.
CELLS = {"1": 9 * 4 * 3, "2": 18, "3": 20, "S1": 80, "S2": 4, "S3": 60, "S4": 5 * 4 * 6, "S5": 8}
CELLS |= {"S6": 40, "S7": 24, "S8": 40, "S9": 8, "S10": 54, "text 5.4": 2}


@pytest.mark.parametrize("table", CELLS)
def test_cells_and_garbled_ones_make_up_the_whole_table(table):
    there = published.load()["tables"][table].values()
    transcribed = sum(len(metrics) for losses in there for metrics in losses.values())
    left_out = sum(len(entry["metrics"]) for entry in published.garbled(table))
    assert transcribed + left_out == CELLS[table]
