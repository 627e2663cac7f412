"""``python -m softcm.demo``: what training on F1 buys over cross-entropy, on imbalanced data.

The network and the training are those of the paper (Section 5). Every loss meets the same splits,
initial weights, optimiser and early stopping.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import softcm
from softcm.demo_data import Data, DemoError, Part, Split, load_digits, load_file, split
from softcm.options import MEMBERSHIPS

INSTALL = "pip install 'softcm[demo]'"
# The paper gives no rate. With 0.2 every loss, BCE too, does better than with 0.5.
DROPOUT = 0.2
# Epochs without a better validation loss after which training stops.
PATIENCE = 100
# Of the curve; every tenth of them is one of the paper's thresholds 0.1, 0.2, ..., 0.9.
THRESHOLDS = [i / 100 for i in range(1, 100)]
PAPER_THRESHOLDS = slice(9, None, 10)
HALF = THRESHOLDS.index(0.5)
HEAVISIDES: dict[str, softcm.Linear | softcm.Sigmoid] = {
    "linear": softcm.Linear(),
    "sigmoid": softcm.Sigmoid(),
}

Loss = Callable[[Tensor, Tensor], Tensor]


class Scores(NamedTuple):
    """What one trained network reaches on the test part."""

    rows: dict[str, float]
    curve: NDArray[np.float64]  # F1 at THRESHOLDS


# One entry for each seed, by loss: BCE, F1 and both.
Results = dict[str, list[Scores]]


class Progress(Protocol):
    def update(self, n: int) -> object: ...
    def set_postfix_str(self, s: str) -> object: ...
    def close(self) -> object: ...


class PlainProgress:
    """Stands in for tqdm: a line after each tenth of the work."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.text = total, 0, ""

    def update(self, n: int) -> None:
        before, self.done = self.done, self.done + n
        if 10 * self.done // self.total > 10 * before // self.total:
            print(f"training: {100 * self.done // self.total} % ({self.text})", file=sys.stderr)

    def set_postfix_str(self, s: str) -> None:
        self.text = s

    def close(self) -> None:
        pass


def progress(total: int) -> Progress:
    try:
        from tqdm import tqdm
    except ImportError:
        return PlainProgress(total)
    layout = "{desc} {percentage:3.0f} % |{bar}| {elapsed}<{remaining}{postfix}"
    bar: Progress = tqdm(total=total, desc="training", bar_format=layout, mininterval=0.5)
    return bar


def make_losses(options: argparse.Namespace) -> dict[str, Loss]:
    f1 = partial(
        softcm.f1_loss,
        from_logits=True,
        heaviside=HEAVISIDES[options.heaviside],
        membership=options.membership,
    )
    weight = options.ce_weight
    return {
        "BCE": binary_cross_entropy_with_logits,
        "F1": f1,
        f"F1 + {weight:g} BCE": partial(f1, ce_weight=weight),
    }


def make_network(features: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(features, 32), nn.ReLU(), nn.Dropout(DROPOUT)),
        *(nn.Linear(32, 16), nn.ReLU(), nn.Dropout(DROPOUT)),
        *(nn.Linear(16, 1), nn.Flatten(0)),
    )


def train(
    loss: Loss, parts: Split, seed: int, options: argparse.Namespace, bar: Progress
) -> nn.Module:
    """The network with the weights at which its own loss was least on the validation part."""
    torch.manual_seed(seed)
    X, y = parts.training
    network = make_network(X.shape[1])
    # Fused: with so few weights half the time of an update.
    optimizer = torch.optim.Adam(network.parameters(), lr=options.lr, fused=True)
    least, best_epoch, best_weights = math.inf, 0, network.state_dict()
    for epoch in range(1, options.epochs + 1):
        network.train()
        for rows in torch.randperm(len(y)).split(options.batch_size):
            optimizer.zero_grad()
            loss(network(X[rows]), y[rows]).backward()
            optimizer.step()
        bar.update(1)
        network.eval()
        with torch.no_grad():
            value = loss(network(parts.validation.X), parts.validation.y).item()
        if not math.isfinite(value):
            raise DemoError(f"training diverged in epoch {epoch}; try a smaller --lr")
        if value < least:
            least, best_epoch = value, epoch
            best_weights = {name: x.clone() for name, x in network.state_dict().items()}
        elif epoch - best_epoch >= PATIENCE:
            bar.update(options.epochs - epoch)
            break
    network.load_state_dict(best_weights)
    return network.eval()


@torch.no_grad()
def evaluate(network: nn.Module, parts: Split) -> Scores:
    from sklearn.metrics import average_precision_score, roc_auc_score

    def probabilities(part: Part) -> Tensor:
        # In float64, where no two different logits become one probability of 0 or 1.
        return torch.sigmoid(network(part.X).double())

    validation, test = probabilities(parts.validation), probabilities(parts.test)
    labels = parts.test.y
    tuned = softcm.tune_threshold(validation, parts.validation.y, metric="f1").threshold.item()
    cm = softcm.confusion_matrix(test, labels, threshold=[*THRESHOLDS, tuned])
    rows = {}
    curves = {"F1": softcm.metrics.f1(cm), "accuracy": softcm.metrics.accuracy(cm)}
    for name, values in curves.items():
        rows[f"{name} at threshold 0.5"] = values[HALF].item()
        rows[f"{name} at tuned threshold"] = values[-1].item()
        rows[f"{name}, mean of 0.1 ... 0.9"] = values[:-1][PAPER_THRESHOLDS].mean().item()
    rows["AUROC"] = float(roc_auc_score(labels, test))
    rows["average precision"] = float(average_precision_score(labels, test))
    return Scores(rows, curves["F1"][:-1].numpy())


def run(data: Data, losses: dict[str, Loss], options: argparse.Namespace) -> Results:
    results: Results = {name: [] for name in losses}
    bar = progress(options.seeds * len(losses) * options.epochs)
    try:
        for seed in range(options.seeds):
            parts = split(data, seed)
            for name, loss in losses.items():
                bar.set_postfix_str(f"seed {seed + 1} of {options.seeds}, {name}")
                network = train(loss, parts, seed, options, bar)
                results[name].append(evaluate(network, parts))
    finally:
        bar.close()
    return results


def table(results: Results) -> str:
    lines = [["", *results]]
    for row in results["BCE"][0].rows:
        cells = (_mean_and_deviation(_column(results, name, row)) for name in results)
        lines.append([row, *cells])
    return "\n".join(
        (f"{first:<31}" + "".join(f"{cell:<16}" for cell in cells)).rstrip()
        for first, *cells in lines
    )


def _column(results: Results, name: str, row: str) -> NDArray[np.float64]:
    return np.array([scores.rows[row] for scores in results[name]])


def _statistics(results: Results) -> str:
    seeds = len(results["BCE"])
    return f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"


def _mean_and_deviation(values: NDArray[np.float64]) -> str:
    mean = f"{np.mean(values):.3f}"
    return f"{mean} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else mean


def conclusions(results: Results) -> str:
    bce, f1, both = results
    if len(results[bce]) == 1:
        return "One seed says nothing about the spread: compare the losses over several (--seeds)."
    lines = []
    for row, name in (
        ("F1, mean of 0.1 ... 0.9", f1),
        ("F1 at tuned threshold", f1),
        ("average precision", both),
    ):
        paired = _column(results, name, row) - _column(results, bce, row)
        lines.append(f"{row}: training on {name} {_difference(paired)}.")
    lines.append(
        "In brackets: mean difference from BCE, its standard error (enlarged, as the seeds share "
        "their\ndata) and in how many seeds it is above 0. Clear is outside a 95 % interval of "
        "Student's t."
    )
    return "\n".join(lines)


def mean_of_seeds(
    values: NDArray[np.float64], test_to_training: float = 0.20 / 0.64
) -> tuple[float, float, float]:
    """The mean, its standard error and half of its 95 % interval, by Student's t.

    The splits of the seeds share rows, so the error of a mean of independent values would be too
    small for new data: Nadeau and Bengio (2003) add the ratio of test part to training part.
    """
    from scipy.stats import t

    error = np.std(values, ddof=1) * math.sqrt(1 / len(values) + test_to_training)
    return float(np.mean(values)), float(error), float(t.ppf(0.975, len(values) - 1) * error)


def _difference(paired: NDArray[np.float64]) -> str:
    mean, error, half = mean_of_seeds(paired)
    verdict = "is not clearly different"
    if abs(mean) > half:
        verdict = "is clearly better" if mean > 0 else "is clearly worse"
    higher = f"higher in {np.sum(paired > 0)} of {len(paired)}"
    return f"{verdict} ({mean:+.3f} ± {error:.3f}, {higher})"


def plot(results: Results, title: str, path: Path) -> str:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return f"No plot: matplotlib is not installed ({INSTALL})."
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    curves = {
        f"trained on {name}": np.stack([each.curve for each in scores])
        for name, scores in results.items()
    }
    axes = softcm.plot.metric_curves(THRESHOLDS, curves, ax=figure.add_subplot())
    # A file name may hold a dollar sign, which is no mathematics.
    axes.set_title(title, parse_math=False, wrap=True)
    axes.set(xlabel="decision threshold", ylabel="F1 on the test part")
    axes.legend(title=_statistics(results), alignment="left", frameon=False)
    try:
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise DemoError(f"--output: cannot write '{path}': {error}") from None
    return f"Plot of F1 against the threshold: {path}"


def whole(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got '{text}'")
    return value


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number > 0, got '{text}'")
    return value


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m softcm.demo",
        description="Train a network on BCE, on soft F1 and on both, and compare what they reach.",
    )
    add, default = parser.add_argument, " (default: %(default)s)"
    add("--data", type=Path, metavar="FILE", help=".npz with X and y, or .csv with a header line")
    add("--target", metavar="COLUMN", help="column of the .csv file with the labels 0 and 1")
    add(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("softcm_demo.png"),
        help="PNG file to write" + default,
    )
    add(
        "--seeds",
        type=whole,
        metavar="N",
        default=10,
        help="runs, each with a split and initial weights of its own" + default,
    )
    add("--epochs", type=whole, metavar="N", default=1000, help="most epochs of a run" + default)
    add("--batch-size", type=whole, metavar="N", default=1024, help="samples in a step" + default)
    add(
        "--lr", type=positive, metavar="RATE", default=0.001, help="learning rate of Adam" + default
    )
    add(
        "--ce-weight",
        type=positive,
        metavar="WEIGHT",
        default=0.3,
        help="weight of BCE beside F1" + default,
    )
    add("--membership", choices=MEMBERSHIPS, default="soft", help="of the F1 loss" + default)
    add("--heaviside", choices=tuple(HEAVISIDES), default="linear", help="of the F1 loss" + default)
    return parser.parse_args(arguments)


def demo(options: argparse.Namespace) -> None:
    if not options.output.parent.is_dir():
        raise DemoError(f"--output: there is no folder '{options.output.parent}'")
    if options.output.is_dir():
        raise DemoError(f"--output must name a file, but '{options.output}' is a folder")
    if options.data is None and options.target is not None:
        raise DemoError("--target goes with --data FILE.csv")
    data = load_digits() if options.data is None else load_file(options.data, options.target)
    # More threads gain nothing with so small a network, and on a busy machine they wait for each
    # other for most of the time.
    torch.set_num_threads(1)
    share = 100 * data.y.mean()
    print(f"{data.name}: {len(data.y)} rows, {data.X.shape[1]} features, {share:.2g} % positives")
    results = run(data, make_losses(options), options)
    print(f"\nOn the test part, {_statistics(results)}:\n")
    print(f"{table(results)}\n\n{conclusions(results)}\n")
    print(plot(results, data.name, options.output))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        import sklearn  # noqa: F401
    except ImportError:
        print(f"The demo needs scikit-learn: {INSTALL}", file=sys.stderr)
        return 2
    try:
        demo(options)
    except DemoError as error:
        print(f"python -m softcm.demo: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
