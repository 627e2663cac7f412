"""What stands in which table of the paper: data, losses (rows), metrics (columns)."""

from typing import NamedTuple

from .data import IMAGES, SYNTHETIC, TABULAR
from .losses import OVERSAMPLED, WEIGHTED

ACCURACY = ("accuracy_linear", "accuracy_sigmoid")
F1 = ("f1_linear", "f1_sigmoid")
AUROC = ("auroc_linear", "auroc_sigmoid")
F_BETA = (*F1, "f2_linear", "f2_sigmoid", "f3_linear", "f3_sigmoid")
# Rows that the paper does not have.
BEYOND = (
    *("f1_linear_bce", "f1_sigmoid_bce", "f1_linear_gated", "f1_sigmoid_gated"),
    *("f1_sigmoid_gated_bce", "bce_sqrt", "focal"),
)
BATCH_SIZES = (128, 1024, 2048, 4096)
# Section 5: of tabular data and of images.
BATCH_SIZE, LR = 1024, 0.001
IMAGE_BATCH_SIZE, IMAGE_LR = 128, 0.0001
# Of the image network, as a share of the paper's channels: what two cores can train.
WIDTH = 0.25


class Table(NamedTuple):
    title: str
    datasets: tuple[str, ...]
    losses: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()
    suffix: str = ""  # of the losses that are trained for this table
    batch_sizes: tuple[int, ...] = ()  # where they are what is compared

    def trained(self, loss: str) -> str:
        """What is trained for a row."""
        return f"{loss}{self.suffix}"


TABLES = {
    "1": Table(
        "Losses on tabular data",
        TABULAR,
        (*ACCURACY, *F1, "f1_adversarial", *AUROC, "auroc_wmw", "bce"),
        ("accuracy", "f1", "auroc"),
        BEYOND,
    ),
    "2": Table("F-beta on Mammography", ("mammography",), F_BETA, ("f1", "precision", "recall")),
    "3": Table("Losses on images", IMAGES, (*ACCURACY, *F1, "bce"), ("accuracy", "f1")),
    "S1": Table(
        "Batch sizes on synthetic data",
        SYNTHETIC[::-1],
        (*ACCURACY, *F1, "bce"),
        ("accuracy", "f1"),
        batch_sizes=BATCH_SIZES,
    ),
    "S2": Table(
        "F1 of a batch against that of all data", ("mammography",), batch_sizes=BATCH_SIZES
    ),
    "S3": Table(
        "Other baselines",
        TABULAR,
        ("dice", "eum", "svm_error", "svm_f1", "svm_auroc"),
        ("accuracy", "f1", "auroc"),
    ),
    "S4": Table("Plug-in thresholds", TABULAR, (*ACCURACY, *F1, "bce"), ("accuracy", "f1")),
    "figure_S4": Table(
        "Batch sizes on Mammography",
        ("mammography",),
        (*ACCURACY, *F1, *AUROC, "bce"),
        ("accuracy", "precision", "recall", "f1"),
        batch_sizes=BATCH_SIZES,
    ),
    "S5": Table("Weights of the classes", TABULAR),
    "S6": Table(
        "Weighted losses",
        TABULAR,
        (*ACCURACY, *F1, "bce"),
        ("accuracy", "f1"),
        suffix=WEIGHTED,
    ),
    "S7": Table("Rows after oversampling", TABULAR),
    "S8": Table(
        "Oversampling",
        TABULAR,
        (*ACCURACY, *F1, "bce"),
        ("accuracy", "f1"),
        suffix=OVERSAMPLED,
    ),
    "S9": Table("Dice on images", IMAGES, ("dice", "dice_sigmoid"), ("accuracy", "f1")),
    "S10": Table(
        "F-beta on the other data",
        ("cocktailparty", "adult", "kaggle"),
        F_BETA,
        ("f1", "precision", "recall"),
        beyond=("f2_linear_gated", "f3_linear_gated"),
    ),
}

ROWS = tuple(
    dict.fromkeys(loss for table in TABLES.values() for loss in (*table.losses, *table.beyond))
)


def called(name: str) -> str:
    """Its name in the paper."""
    figure = name.removeprefix("figure_")
    return f"Table {name}" if figure == name else f"Figure {figure}"


def batch_size(dataset: str, of_tables: int) -> int:
    """Section 5: that of tabular data is an option, images have their own."""
    return IMAGE_BATCH_SIZE if dataset in IMAGES else of_tables
