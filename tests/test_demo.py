"""The demo, from its command line to its table, its plot and its answers to mistakes."""

import csv
import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="the demo needs scikit-learn")

from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from torch.nn.functional import binary_cross_entropy

import softcm
from softcm import demo, demo_data

QUICK = ["--epochs", "3", "--seeds", "2", "--batch-size", "256"]
ROWS = [
    "F1 at threshold 0.5",
    "F1 at tuned threshold",
    "F1, mean of 0.1 ... 0.9",
    "accuracy at threshold 0.5",
    "accuracy at tuned threshold",
    "accuracy, mean of 0.1 ... 0.9",
    "AUROC",
    "average precision",
]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def leave_no_trace(monkeypatch, tmp_path):
    """The demo seeds torch, takes one thread and writes into the folder that it runs in."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def small():
    """Sixty rows of three features, of which one tells the twenty positives."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [40, 20])
    X = rng.normal(size=(60, 3)) * [1, 10, 100] + [5, 0, -5]
    X[:, 0] += y
    return X, y


def read_table(output):
    """Row -> the (mean, deviation) of each loss."""
    found = {}
    for line in output.splitlines():
        row = next((row for row in ROWS if line.startswith(row + "  ")), None)
        if row is not None:
            numbers = line.removeprefix(row).replace("±", "").split()
            found[row] = np.array(numbers, dtype=float).reshape(3, 2)
    return found


def write_csv(path, X, y, columns=("a", "b", "c"), target="label"):
    """The label stands second, so that no order of columns is taken for granted."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([columns[0], target, *columns[1:]])
        writer.writerows(
            [row[0], label, *row[1:]] for row, label in zip(X.tolist(), y, strict=True)
        )


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "softcm.demo", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("digit 8 against the rest: 1797 rows, 64 features, 9.7 % pos")
    assert "BCE             F1              F1 + 0.3 BCE" in done.stdout
    found = read_table(done.stdout)
    assert list(found) == ROWS
    for means, deviations in (values.T for values in found.values()):
        assert ((means >= 0) & (means <= 1)).all()
        assert ((deviations >= 0) & (deviations <= 1)).all()
    assert "average precision: training on F1 + 0.3 BCE" in done.stdout
    assert "training" in done.stderr
    assert "Plot of F1 against the threshold: softcm_demo.png" in done.stdout
    assert (tmp_path / "softcm_demo.png").read_bytes().startswith(PNG)


def test_training_learns(capsys):
    arguments = ["--epochs", "40", "--seeds", "2", "--batch-size", "128", "--lr", "0.005"]
    assert demo.main(arguments) == 0
    found = read_table(capsys.readouterr().out)
    assert (found["F1 at tuned threshold"][:, 0] > 0.8).all()
    assert (found["AUROC"][:, 0] > 0.95).all()


def test_same_output_twice(capsys, tmp_path):
    outputs = []
    for _ in range(2):
        assert demo.main(QUICK) == 0
        outputs.append((capsys.readouterr().out, (tmp_path / "softcm_demo.png").read_bytes()))
    assert outputs[0] == outputs[1]


def test_options_reach_the_training(capsys):
    tables = set()
    for options in ([], ["--membership", "gated"], ["--heaviside", "sigmoid"], ["--lr", "0.01"]):
        assert demo.main([*QUICK, *options]) == 0
        tables.add(str(read_table(capsys.readouterr().out)))
    assert len(tables) == 4
    assert demo.main([*QUICK, "--ce-weight", "2", "--output", "other.png"]) == 0
    output = capsys.readouterr().out
    assert "F1 + 2 BCE" in output
    assert "other.png" in output


@pytest.mark.parametrize("labels", [int, float, bool])
def test_files_of_both_kinds_hold_the_same_data(small, tmp_path, labels):
    X, y = small
    np.savez(tmp_path / "data.npz", X=X, y=y.astype(labels)[:, None])
    write_csv(tmp_path / "data.csv", X, y.astype(labels).tolist())
    from_npz = demo_data.load_file(tmp_path / "data.npz", None)
    from_csv = demo_data.load_file(tmp_path / "data.csv", "label")
    for data in (from_npz, from_csv):
        np.testing.assert_array_equal(data.X, X)
        np.testing.assert_array_equal(data.y, y)


def test_own_data_from_the_command_line(small, tmp_path, capsys):
    X, y = small
    np.savez(tmp_path / "mine.npz", X=X.astype(np.float16), y=y.astype(np.uint8))
    write_csv(tmp_path / "mine.csv", X.astype(np.float16), y)
    outputs = []
    for source in (["mine.npz"], ["mine.csv", "--target", "label"]):
        assert demo.main([*QUICK, "--data", *source]) == 0
        outputs.append(capsys.readouterr().out.splitlines())
    assert outputs[0][0] == "mine.npz: 60 rows, 3 features, 33 % positives"
    assert outputs[0][1:] == outputs[1][1:]


def test_csv_of_a_spreadsheet(tmp_path):
    """A byte-order mark, Windows line ends, blanks, an empty last line."""
    rows = [f" {i}.5 , {'TRUE' if i % 2 else 'FALSE'}" for i in range(40)]
    text = "\r\n".join(["a, is it", *rows, "", ""])
    (tmp_path / "data.csv").write_bytes(text.encode("utf-8-sig"))
    data = demo_data.load_file(tmp_path / "data.csv", "is it")
    np.testing.assert_array_equal(data.X[:, 0], np.arange(40) + 0.5)
    np.testing.assert_array_equal(data.y, np.arange(40) % 2)


def test_split_is_64_16_20_stratified_and_scaled_on_the_training_part():
    data = demo_data.load_digits()
    parts = demo_data.split(data, seed=3)
    n, positives = len(data.y), data.y.sum()
    for part, share in zip(parts, (0.64, 0.16, 0.20), strict=True):
        assert part.X.dtype == part.y.dtype == torch.float32
        assert len(part.X) == len(part.y) == pytest.approx(share * n, abs=2)
        assert part.y.sum() == pytest.approx(share * positives, abs=1)
    varied = parts.training.X.std(dim=0, correction=0) > 0
    torch.testing.assert_close(parts.training.X.mean(dim=0), torch.zeros(64), atol=1e-5, rtol=0)
    deviation = parts.training.X[:, varied].std(dim=0, correction=0)
    torch.testing.assert_close(deviation, torch.ones(int(varied.sum())), atol=1e-5, rtol=0)
    assert parts.test.X.mean(dim=0).abs().max() > 0.01
    assert not torch.equal(demo_data.split(data, seed=4).test.X, parts.test.X)


def test_losses():
    input, target = torch.tensor([-2.0, 0.1, 0.4, 1.5]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    bce, f1, both = (
        loss(input, target).item() for loss in demo.make_losses(demo.parse([])).values()
    )
    assert bce == pytest.approx(binary_cross_entropy(torch.sigmoid(input), target).item())
    assert f1 == pytest.approx(softcm.f1_loss(torch.sigmoid(input), target).item())
    assert both == pytest.approx(f1 + 0.3 * bce)


def test_every_loss_starts_from_the_same_weights_and_batches(monkeypatch):
    parts = demo_data.split(demo_data.load_digits(), seed=0)
    options = demo.parse(["--epochs", "2", "--batch-size", "500"])
    seen = []
    for loss in demo.make_losses(options).values():
        first = []

        def spy(input, target, loss=loss, first=first):
            first.append((input.detach(), target))
            return loss(input, target)

        demo.train(spy, parts, 5, options, demo.PlainProgress(2))
        seen.append(first[0])
    for logits, labels in seen[1:]:
        assert torch.equal(logits, seen[0][0])
        assert torch.equal(labels, seen[0][1])


def test_training_stops_early_and_keeps_the_best_weights(monkeypatch):
    monkeypatch.setattr(demo, "PATIENCE", 4)
    parts = demo_data.split(demo_data.load_digits(), seed=0)
    options = demo.parse(["--epochs", "500", "--lr", "0.05"])
    validation_losses = []

    def loss(input, target):
        value = binary_cross_entropy(torch.sigmoid(input), target)
        if not input.requires_grad:
            validation_losses.append(value.item())
        return value

    network = demo.train(loss, parts, 0, options, demo.PlainProgress(500))
    best = int(np.argmin(validation_losses))
    assert len(validation_losses) == best + 1 + 4 < 500
    with torch.no_grad():
        assert loss(network(parts.validation.X), parts.validation.y) == validation_losses[best]


def test_scores_are_those_of_scikit_learn():
    """Of probabilities: the logit 0.3 is positive at threshold 0.5."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for n in (10, 80, 100):
        y = (torch.arange(n) % 4 == 0).float()
        noise = torch.randn(n, generator=generator)
        parts.append(demo_data.Part((0.3 + 2 * y - 1 + noise).unsqueeze(1), y))
    scores = demo.evaluate(torch.nn.Flatten(0), demo_data.Split(*parts))

    p, y = torch.sigmoid(parts[2].X[:, 0].double()).numpy(), parts[2].y.numpy()
    validation = torch.sigmoid(parts[1].X[:, 0].double()).numpy()
    tuned = max(validation, key=lambda t: f1_score(parts[1].y.numpy(), validation >= t))
    grid = np.arange(1, 10) / 10
    expected = [f(y, p >= t) for f in (f1_score, accuracy_score) for t in (0.5, tuned, *grid)]
    at_half, at_tuned, mean = expected[0], expected[1], np.mean(expected[2:11])
    f1 = dict(zip(ROWS[:3], (at_half, at_tuned, mean), strict=True))
    at_half, at_tuned, mean = expected[11], expected[12], np.mean(expected[13:])
    accuracy = dict(zip(ROWS[3:6], (at_half, at_tuned, mean), strict=True))
    ranking = {"AUROC": roc_auc_score(y, p), "average precision": average_precision_score(y, p)}
    assert list(scores.rows) == ROWS
    assert scores.rows == pytest.approx({**f1, **accuracy, **ranking}, abs=1e-12)
    np.testing.assert_allclose(scores.curve[9::10], expected[2:11], atol=1e-12)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.10, 0.12, 0.11), "is clearly better (+0.110 ± 0.008, higher in 3 of 3)"),
        ((-0.10, -0.12, -0.11), "is clearly worse (-0.110 ± 0.008, higher in 0 of 3)"),
        ((0.10, -0.12, 0.11), "is not clearly different (+0.030 ± 0.104, higher in 2 of 3)"),
        ((0.0, 0.0, 0.0), "is not clearly different (+0.000 ± 0.000, higher in 0 of 3)"),
    ],
)
def test_conclusions_come_from_the_numbers(differences, verdict):
    curve = np.full(len(demo.THRESHOLDS), 0.5)
    base = [demo.Scores(dict.fromkeys(ROWS, 0.5), curve) for _ in differences]
    other = [demo.Scores(dict.fromkeys(ROWS, 0.5 + d), curve) for d in differences]
    told = demo.conclusions({"BCE": base, "F1": other, "F1 + 0.3 BCE": base}).splitlines()
    assert told[0] == f"F1, mean of 0.1 ... 0.9: training on F1 {verdict}."
    assert told[1] == f"F1 at tuned threshold: training on F1 {verdict}."
    assert told[2].startswith("average precision: training on F1 + 0.3 BCE is not clearly diff")


def test_one_seed_allows_no_conclusion(capsys):
    assert demo.main(["--epochs", "1", "--seeds", "1"]) == 0
    output = capsys.readouterr().out
    assert "One seed says nothing about the spread" in output
    assert "±" not in output


def without(monkeypatch, *modules):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_without_tqdm(monkeypatch, capsys):
    without(monkeypatch, "tqdm")
    assert demo.main(QUICK) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "training: 100 % (seed 2 of 2, F1 + 0.3 BCE)"
    assert len(lines) <= 10


def test_without_matplotlib(monkeypatch, capsys, tmp_path):
    without(monkeypatch, "matplotlib", "matplotlib.figure")
    assert demo.main(QUICK) == 0
    output = capsys.readouterr().out
    assert list(read_table(output)) == ROWS
    assert "No plot: matplotlib is not installed (pip install 'softcm[demo]')." in output
    assert not (tmp_path / "softcm_demo.png").exists()


def test_without_scikit_learn(monkeypatch, capsys):
    without(monkeypatch, "sklearn")
    assert demo.main(QUICK) == 2
    assert capsys.readouterr().err == "The demo needs scikit-learn: pip install 'softcm[demo]'\n"


X, Y = np.arange(80.0).reshape(40, 2), np.arange(40) % 2
LINES = ["a,b,y", *(f"{i},{-i},{i % 2}" for i in range(40))]
CSV = ["--data", "data.csv", "--target", "y"]
NPZ = ["--data", "data.npz"]


with io.BytesIO() as buffer:
    np.save(buffer, X)
    NPY = buffer.getvalue()


def changed(array, index, value):
    copy = np.array(array, dtype=np.result_type(array, type(value)))
    copy[index] = value
    return copy


def lines(row, text):
    return [*LINES[:row], text, *LINES[row + 1 :]]


# What data.npz or data.csv holds, the arguments, and what the answer must say.
MISTAKES = {
    "no file": (None, NPZ, "there is no file 'data.npz'"),
    "no csv file": (None, CSV, "there is no file 'data.csv'"),
    "a folder": ("folder", NPZ, "there is no file 'data.npz'"),
    "unknown kind": (None, ["--data", "data.txt"], "must name a .npz or .csv file, got 'data.txt'"),
    "not npz": (b"hello", NPZ, "cannot read 'data.npz'"),
    "npz cut short": (b"PK\x03\x04 and no more", NPZ, "cannot read 'data.npz'"),
    "empty npz file": (b"", NPZ, "cannot read 'data.npz'"),
    "one array": (NPY, NPZ, "holds a single array, not the two arrays X and y"),
    "no X": ({"y": Y, "x": X}, NPZ, "must hold arrays X and y; X not found among y, x"),
    "no X, no y": ({}, NPZ, "must hold arrays X and y; X and y not found among none"),
    "objects": ({"X": X.astype(object), "y": Y}, NPZ, "Object arrays cannot be loaded"),
    "X 1-D": ({"X": X[:, 0], "y": Y}, NPZ, "X must be 2-D, rows by features, got shape (40,)"),
    "X 3-D": ({"X": X[None], "y": Y}, NPZ, "X must be 2-D, rows by features, got shape (1, 40, 2)"),
    "no features": ({"X": X[:, :0], "y": Y}, NPZ, "got shape (40, 0)"),
    "y 2-D": ({"X": X, "y": X}, NPZ, "y must be 1-D, a label for each row of X, got shape (40, 2)"),
    "y 0-D": ({"X": X, "y": 1}, NPZ, "y must be 1-D, a label for each row of X, got shape ()"),
    "lengths": ({"X": X, "y": Y[1:]}, NPZ, "the same length, got 40 and 39"),
    "no rows": ({"X": X[:0], "y": Y[:0]}, NPZ, "there are no rows"),
    "text in X": ({"X": X.astype(str), "y": Y}, NPZ, "X must be numeric, got <U"),
    "NaN in X": ({"X": changed(X, (3, 1), math.nan), "y": Y}, NPZ, "1, the first in X[3, 1]"),
    "infinite X": ({"X": changed(X, 3, -math.inf), "y": Y}, NPZ, "2, the first in X[3, 0]"),
    "huge X": ({"X": changed(X, (3, 1), 1e300), "y": Y}, NPZ, "1, the first in X[3, 1]"),
    "NaN in y": ({"X": X, "y": changed(Y, 3, math.nan)}, NPZ, "1, the first in row 4"),
    "only zeros": ({"X": X, "y": 0 * Y}, NPZ, "the labels 0 and 1 (or False and True), both"),
    "one class": ({"X": X, "y": Y >= 0}, NPZ, "found True"),
    "three classes": ({"X": X, "y": changed(Y, 3, 2)}, NPZ, "found 0, 1, 2"),
    "minus one": ({"X": X, "y": 2.0 * Y - 1}, NPZ, "found -1, 1"),
    "soft labels": ({"X": X, "y": changed(Y, 3, 0.5)}, NPZ, "found 0, 0.5, 1"),
    "names": ({"X": X, "y": np.where(Y, "yes", "no")}, NPZ, "found 'no', 'yes'"),
    "many": ({"X": X, "y": np.arange(40)}, NPZ, "and 30 more"),
    "few positives": ({"X": X, "y": np.arange(40) < 9}, NPZ, "positives (label 1) to split them"),
    "few negatives": ({"X": X, "y": np.arange(40) > 8}, NPZ, "got 9, at least 10 are needed"),
    "target with npz": ({"X": X, "y": Y}, [*NPZ, "--target", "y"], "goes with a .csv file"),
    "target alone": (None, ["--target", "y"], "--target goes with --data FILE.csv"),
    "no target": (LINES, CSV[:2], "needs --target COLUMN"),
    "no column": (LINES, [*CSV[:3], "Y"], "there is no column 'Y'; there are a, b, y"),
    "semicolons": (["a;b;y", "1;2;0"], CSV, "there is no column 'y'; there are a;b;y"),
    "column twice": (["a,a,y", "1,2,0"], CSV, "names a column more than once: a"),
    "only labels": (["y", "0", "1"], CSV, "no column of a feature beside 'y'"),
    "text": (lines(5, "1,red,0"), CSV, "row 5, column 'b': 'red' is not a number; only numeric"),
    "missing": (lines(5, "1,,0"), CSV, "1, the first in row 5, column 'b'; fill them in"),
    "missing words": (lines(5, "NA,?,0"), CSV, "2, the first in row 5, column 'a'"),
    "no label": (lines(5, "1,2,"), CSV, "column 'y' has missing values: 1, the first in row 5"),
    "other label": (lines(5, "1,2,maybe"), CSV, "column 'y' must hold the labels 0 and 1"),
    "short row": (lines(5, "1,2"), CSV, "row 5 has 2 values, but the header has 3"),
    "empty csv": (b"", CSV, "there is no column 'y'; there are none"),
    "header only": (LINES[:1], CSV, "there are no rows"),
    "not text": (b"a,b,y\n\xff\xfe,1,0\n", CSV, "cannot read 'data.csv'"),
    "huge cell": (lines(5, "1" * 200_000 + ",2,0"), CSV, "'data.csv' is not a .csv file: field"),
    "no folder": (None, ["--output", "no/where.png"], "--output: there is no folder 'no'"),
    "output folder": (None, ["--output", "."], "--output must name a file, but '.' is a folder"),
    "divergence": (None, ["--lr", "1e30", "--epochs", "20"], "diverged in epoch"),
}


@pytest.mark.parametrize(("content", "arguments", "answer"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(content, arguments, answer, tmp_path, monkeypatch, capsys):
    without(monkeypatch, "tqdm")
    if content == "folder":
        (tmp_path / "data.npz").mkdir()
    elif isinstance(content, dict):
        np.savez(tmp_path / "data.npz", **content)
    elif content is not None:
        data = content if isinstance(content, bytes) else "\n".join(content).encode()
        name = "data.npz" if arguments == NPZ else "data.csv"
        (tmp_path / name).write_bytes(data)
    assert demo.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m softcm.demo: error: ")
    assert answer in error
    assert error.count("\n") == 1
    assert not (tmp_path / "softcm_demo.png").exists()


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--seeds", "0"], "argument --seeds: must be a whole number >= 1, got '0'"),
        (["--epochs", "-3"], "argument --epochs: must be a whole number >= 1, got '-3'"),
        (["--batch-size", "1.5"], "argument --batch-size: must be a whole number >= 1, got '1.5'"),
        (["--lr", "0"], "argument --lr: must be a finite number > 0, got '0'"),
        (["--lr", "nan"], "argument --lr: must be a finite number > 0, got 'nan'"),
        (["--lr", "fast"], "argument --lr: must be a finite number > 0, got 'fast'"),
        (["--ce-weight", "inf"], "argument --ce-weight: must be a finite number > 0, got 'inf'"),
        (["--membership", "fuzzy"], "argument --membership: invalid choice: 'fuzzy'"),
        (["--heaviside", "table"], "argument --heaviside: invalid choice: 'table'"),
    ],
)
def test_options_out_of_range(arguments, answer, capsys):
    with pytest.raises(SystemExit) as stopped:
        demo.main(arguments)
    assert stopped.value.code == 2
    assert answer in capsys.readouterr().err


def test_plot_that_cannot_be_written(tmp_path):
    """With a title that would be bad mathematics."""
    scores = demo.Scores(dict.fromkeys(ROWS, 0.5), np.full(len(demo.THRESHOLDS), 0.5))
    results = {"BCE": [scores], "F1": [scores], "both": [scores]}
    with pytest.raises(demo_data.DemoError, match="--output: cannot write"):
        demo.plot(results, "$x_{$.npz", tmp_path / "gone" / "plot.png")
