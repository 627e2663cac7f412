"""The paper's experiments: batched networks, both protocols, the data, commands end to end."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="the experiments need scikit-learn")
pytest.importorskip("tqdm", reason="the experiments need tqdm")

from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch.testing import assert_close

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import paper  # noqa: E402, F401
from benchmarks.paper import __main__ as command  # noqa: E402
from benchmarks.paper import (  # noqa: E402
    counts,
    data,
    losses,
    models,
    protocols,
    published,
    report,
    run,
    statistics,
    tables,
    training,
)
from benchmarks.paper.training import Schedule  # noqa: E402
from softcm.demo_data import Data, DemoError, Part  # noqa: E402


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def rows(count=300, features=3, seed=0):
    """A fifth of positives, which the first feature tells in part."""
    rng = np.random.default_rng(seed)
    y = (np.arange(count) % 5 == 0).astype(np.float64)
    X = rng.normal(size=(count, features)) * [1, 10, 100][:features] + 5
    X[:, 0] += 2 * y
    return X, y


def in_float64(parts):
    return data.Parts(*(Part(part.X.double(), part.y.double()) for part in parts))


def of_seed(parts, seed):
    return data.Parts(*(Part(part.X[seed : seed + 1], part.y[seed : seed + 1]) for part in parts))


def trained(parts, seeds, loss, schedule, dropout=0.25):
    networks = models.FeedForward(
        parts.test.X.shape[-1], models.generators(seeds), dropout, torch.float64
    )
    return training.train(networks, parts, losses.RECIPES[loss].make(parts.training.y), schedule)


@pytest.mark.parametrize("loss", ["f1_linear", "bce", "auroc_sigmoid"])
def test_a_seed_trains_the_same_alone_and_in_a_batch(loss):
    parts = in_float64(data.split_seeds(Data("", *rows()), range(4)))
    schedule = Schedule(epochs=30, patience=2, batch_size=64, lr=0.02)
    together = trained(parts, range(4), loss, schedule)
    assert len(set(together.epochs)) > 1, "the seeds are to stop at different times"
    for seed in range(4):
        alone = trained(of_seed(parts, seed), [seed], loss, schedule)
        assert alone.epochs == together.epochs[seed : seed + 1]
        assert alone.best_epochs == together.best_epochs[seed : seed + 1]
        assert_close(alone.validation[:, 0], together.validation[:, seed], rtol=1e-9, atol=1e-9)
        assert_close(alone.test[:, 0], together.test[:, seed], rtol=1e-9, atol=1e-9)


def test_the_weights_of_the_lowest_validation_loss_are_kept():
    parts = in_float64(data.split_seeds(Data("", *rows()), range(2)))
    schedule = Schedule(epochs=12, patience=12, batch_size=64, lr=0.05)
    whole = trained(parts, range(2), "bce", schedule)
    loss = losses.bce(whole.validation, parts.validation.y.T)
    for seed, best in enumerate(whole.best_epochs):
        assert 0 < best < 12
        shorter = trained(parts, range(2), "bce", schedule._replace(epochs=best))
        assert_close(shorter.test[:, seed], whole.test[:, seed])
        for epochs in (best - 1, best + 1):
            other = trained(parts, range(2), "bce", schedule._replace(epochs=epochs))
            if other.best_epochs[seed] != best:
                assert losses.bce(other.validation, parts.validation.y.T)[seed] > loss[seed]


def test_the_weights_of_the_last_epoch_are_kept_where_they_are_asked_for():
    parts = in_float64(data.split_seeds(Data("", *rows()), range(2)))
    schedule = Schedule(epochs=8, patience=8, batch_size=64, lr=0.05, last=True)
    networks = models.FeedForward(3, models.generators(range(2)), 0.0, torch.float64)
    found = training.train(networks, parts, losses.bce, schedule)
    again = models.FeedForward(3, models.generators(range(2)), 0.0, torch.float64)
    seen = []
    training.train(
        *(again, parts, losses.bce, schedule._replace(last=False)),
        lambda epoch, seeds: seen.append(training.logits(again, parts.test.X)),
    )
    assert_close(found.test, seen[-1])
    assert min(found.best_epochs) < 8


def test_initial_weights_as_keras_draws_them():
    networks = models.FeedForward(30, models.generators(range(50)), 0.0, initial="keras")
    for weights, biases in zip(networks.parameters[::2], networks.parameters[1::2], strict=True):
        bound = (6 / sum(weights.shape[1:])) ** 0.5
        assert 0.97 * bound < weights.abs().max() <= bound
        assert (biases == 0).all()


def test_one_split_for_all_trials():
    one = data.split_seeds(Data("", *rows()), range(7, 8))
    three = data.repeated(one, 3)
    assert three.training.X.shape == (3, *one.training.X.shape[1:])
    for part, parts in zip(one, three, strict=True):
        assert all(torch.equal(of_trial, part.y[0]) for of_trial in parts.y)


def test_splits_that_are_not_stratified_have_positives_as_chance_gives_them():
    read = Data("", *rows())
    parts = data.split_seeds(read, range(5), stratified=False)
    assert [part.y.shape for part in parts] == [(5, 192), (5, 48), (5, 60)]
    assert len(set(parts.test.y.sum(dim=1).tolist())) > 2
    assert (sum(part.y.sum(dim=1) for part in parts) == 60).all()
    assert data.split_seeds(read, range(5)).test.y.sum(dim=1).tolist() == [12] * 5


def test_later_settings_leave_the_names_of_earlier_results():
    assert run.Job("mammography", "bce").digest == "fce7a82d0b"
    others = [{"initial": "keras"}, {"weights": "last"}, {"split": 0}, {"stratified": False}, {}]
    assert len({run.Job("mammography", "bce", **other).digest for other in others}) == 5


def test_dropout_takes_its_share_and_scales_the_rest():
    networks = models.FeedForward(3, models.generators([0, 1]), 0.25)
    first, second = networks._masks(1000, torch.float32)
    assert first.shape == (2, 1000, 32)
    assert second.shape == (2, 1000, 16)
    for mask in (first, second):
        assert_close(mask.unique(), torch.tensor([0, 4 / 3]))
        assert mask.mean() == pytest.approx(1, abs=0.02)
    assert not torch.equal(first[0], first[1])


# The solver of the adversarial loss stops by the worst of its games: it has tests of its own.
@pytest.mark.parametrize("name", sorted(set(losses.RECIPES) - {"f1_adversarial"}))
def test_a_loss_of_several_seeds_is_that_of_each(name):
    y = (torch.arange(60).reshape(20, 3) % 4 == 0).double()
    z = torch.linspace(-3, 3, 60, dtype=torch.float64).reshape(3, 20).T.contiguous()
    loss = losses.RECIPES[name].make(y.T)
    found = loss(z, y)
    assert found.shape == (3,)
    for seed in range(3):
        assert_close(found[seed], loss(z[:, [seed]], y[:, [seed]])[0])


def test_weighted_soft_losses_by_hand():
    # Of tp, fn, fp, tn, eq. (3): 0.75 of a positive gives .9, .1, .1, .1 (eq. 5), 0.25 of a
    # negative .1, .1, .1, .9, and 0.5 of a negative .5 each. One of three is positive, so that the
    # weights are 1.5 and 0.75, and the sums 1.8, 0.6, 0.6, 1.2.
    z = torch.tensor([0.75, 0.25, 0.5], dtype=torch.float64).logit().unsqueeze(1)
    y = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    for name, expected in (("accuracy_linear", 1 - 3.0 / 4.2), ("f1_linear", 1 - 3.6 / 4.8)):
        loss = losses.RECIPES[f"{name}_weighted"].make(y.T)
        assert loss(z, y).item() == pytest.approx(expected)


def test_f1_of_batches_by_hand():
    # A network that gives back its one feature: positive at or above 0.
    class Same(models.FeedForward):
        def __init__(self):
            pass

        def logits(self, X, dropout=False):
            return X.squeeze(-1).T

    X = torch.tensor([[[1.0], [-1.0], [2.0], [-2.0]]])
    y = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    watch = counts._Watch(X, y)  # of all: TP, FN, FP, TN are 1 each, F1 is 1/2
    watch(Same(), X[:, :2], y[:, :2].T)  # 1, 1, 0, 0: F1 is 2/3
    watch(Same(), X[:, 2:], y[:, 2:].T)  # no positive: 0
    assert torch.stack(watch.differences).flatten().tolist() == pytest.approx([1 / 6, -1 / 2])


def judged(z, y, margins=False):
    z, y = torch.tensor(z).reshape(-1, 1), torch.tensor(y).reshape(-1, 1)
    (found,) = protocols.judge(z, y, z, y, margins)
    return found


def logit(p):
    return math.log(p / (1 - p))


def test_published_protocol_by_hand():
    # Probabilities 0.85, 0.45, 0.65, 0.05 of labels 1, 1, 0, 0. Thresholds 0.1 ... 0.4 have
    # TP 2, FP 1; 0.5, 0.6: TP 1, FP 1; 0.7, 0.8: TP 1, FP 0; 0.9: nothing.
    found = judged([logit(p) for p in (0.85, 0.45, 0.65, 0.05)], [1.0, 1.0, 0.0, 0.0])
    f1 = (4 * 4 / 5 + 2 * 1 / 2 + 2 * 2 / 3 + 0) / 9
    accuracy = (4 * 3 / 4 + 2 * 2 / 4 + 2 * 3 / 4 + 2 / 4) / 9
    assert found["published"]["f1"] == pytest.approx(f1)
    assert found["published"]["accuracy"] == pytest.approx(accuracy)
    # As many of both labels: balanced accuracy is accuracy.
    assert found["published"]["auroc"] == pytest.approx(accuracy)
    assert found["published"]["recall"] == pytest.approx((4 * 1 + 4 * 0.5) / 9)
    assert found["curve"]["f1"][3:5] == pytest.approx([4 / 5, 1 / 2])


def test_raw_outputs_meet_the_thresholds_themselves():
    # Of the outputs 0.85, 0.45, 0.65, 0.05 as they are.
    raw = judged([0.85, 0.45, 0.65, 0.05], [1.0, 1.0, 0.0, 0.0])["raw"]
    probabilities = [logit(p) for p in (0.85, 0.45, 0.65, 0.05)]
    assert raw == pytest.approx(judged(probabilities, [1.0, 1.0, 0.0, 0.0])["published"])


def test_corrected_protocol_is_that_of_sklearn():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=200), (rng.random(200) < 0.3).astype(np.float64)
    z += y
    found = judged(z, y)["corrected"]
    p = 1 / (1 + np.exp(-z))
    assert found["f1"] == pytest.approx(f1_score(y, p >= 0.5))
    assert found["auroc"] == pytest.approx(roc_auc_score(y, p))
    assert found["average_precision"] == pytest.approx(average_precision_score(y, p))
    assert found["brier"] == pytest.approx(np.mean((p - y) ** 2))
    # Tuned on the same data here, so no threshold is better.
    assert found["f1_tuned"] == pytest.approx(max(f1_score(y, p >= t) for t in p))


def test_plug_in_counts_the_thresholds_that_are_as_good():
    # Between 0.35 and 0.65 nothing lies: 0.4, 0.5 and 0.6 separate the labels.
    found = judged([logit(p) for p in (0.65, 0.75, 0.35, 0.15)], [1.0, 1.0, 0.0, 0.0])
    assert found["validation_curve"]["f1"][2:7] == pytest.approx([4 / 5, 1, 1, 1, 2 / 3])
    assert protocols.plug_in([found["validation_curve"]["f1"]]) == (4, 3)


def test_plug_in_takes_the_mean_over_trials_cut_off_to_two_decimals():
    first = [0.5, 0.59, 0.7, 0.6, 0.61, 0.5, 0.5, 0.5, 0.5]
    second = [0.5, 0.7, 0.599, 0.61, 0.6, 0.5, 0.5, 0.5, 0.5]
    # Means 0.645, 0.6495, 0.605, ...: two are 0.64, and the second of them is closer to 0.5.
    assert protocols.plug_in([first, second]) == (2, 2)
    assert protocols.plug_in([first]) == (2, 1)
    assert protocols.plug_in([[0.1] * 9]) == (4, 9)


def test_margins_have_one_threshold_and_no_calibration():
    found = judged([3.0, 0.2, -0.1, -5.0], [1.0, 0.0, 0.0, 0.0], margins=True)
    assert found["published"]["f1"] == pytest.approx(2 / 3)
    assert found["published"]["accuracy"] == 0.75
    assert "brier" not in found["corrected"]
    assert found["reliability"] == []


def test_reliability_by_hand():
    p, y = torch.tensor([0.05, 0.07, 0.95, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0])
    found = protocols.reliability(p, y)
    assert found[0] == pytest.approx([2, 0.06, 0.5])
    assert found[9] == pytest.approx([2, 0.975, 1])
    assert found[5] == [0, 0, 0]


def test_interval_of_a_paired_difference_by_hand():
    # Differences 1, 2, 3: mean 2, deviation 1, error sqrt(1/3 + 0.2/0.64); t of 2 degrees 4.3027.
    found = statistics.paired([2, 4, 6], [1, 2, 3], 0.2 / 0.64)
    half = 4.302653 * math.sqrt(1 / 3 + 0.3125)
    assert found == pytest.approx((2, 2 - half, 2 + half), rel=1e-6)
    assert not found.clear
    assert statistics.paired([5, 5.01, 5], [1, 1, 1], 0.25).clear


def test_every_published_cell_has_its_place_in_a_table():
    for name, found in published.load()["tables"].items():
        if name == "text 5.4":
            continue
        table = tables.TABLES[name]
        assert set(found) <= set(table.datasets)
        for of_dataset in found.values():
            assert set(of_dataset) - {"none"} <= set(table.losses)


def test_synthetic_sets_have_the_paper_s_shares():
    for name, share in (("synthetic_33", 1 / 3), ("synthetic_5", 0.0476)):
        found = data.load(name, None)
        assert found.y.mean() == pytest.approx(share, abs=1e-4)
    negatives = [data.load(name, None).X[:5000] for name in data.SYNTHETIC]
    assert np.array_equal(*negatives)


def test_files_of_a_folder(tmp_path):
    X, y = rows()
    for name, part in zip(data.FILES["kaggle"], (slice(0, 100), slice(100, 300)), strict=True):
        np.savez(tmp_path / name, X=X[part], y=y[part])
    found = data.load("kaggle", tmp_path)
    assert np.array_equal(found.X, X)
    assert np.array_equal(found.y, y)
    with pytest.raises(DemoError, match=r"mammography needs 'mammography.npz', not found"):
        data.load("mammography", tmp_path)
    with pytest.raises(DemoError, match="cocktailparty is not on OpenML: give --data-dir"):
        data.load("cocktailparty", None)


def from_openml(monkeypatch, columns, labels):
    asked = {}

    def fetch(**arguments):
        asked.update(arguments)
        values = np.array(list(columns.values()), dtype=object).T
        return SimpleNamespace(data=values, feature_names=list(columns), target=np.array(labels))

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    return asked


def test_openml_adult(monkeypatch):
    columns = {"age": [20, 30], "fnlwgt": [7, 8], "workclass": [1, np.nan]}
    asked = from_openml(monkeypatch, columns, ["<=50K", ">50K"])
    found = data.load("adult", None)
    assert asked["data_id"] == 1590
    assert found.X.tolist() == [[20, 1], [30, -1]]
    assert found.y.tolist() == [0, 1]


def test_openml_credit_card(monkeypatch):
    columns = {"Time": [0, 1], "V1": [0.5, -0.5], "Amount": [0, 9.999]}
    asked = from_openml(monkeypatch, columns, ["0", "1"])
    found = data.load("kaggle", None)
    assert asked["data_id"] == 1597
    np.testing.assert_allclose(found.X, [[0.5, math.log(0.001)], [-0.5, math.log(10)]])
    assert found.y.tolist() == [0, 1]


def test_openml_out_of_reach(monkeypatch):
    def fetch(**arguments):
        raise OSError("no route to host")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    with pytest.raises(
        DemoError, match=r"mammography: cannot fetch data set 310 .*no route.*--data-dir"
    ):
        data.load("mammography", None)


def images(path, count=60):
    rng = np.random.default_rng(0)
    y = (np.arange(count) % 2).astype(np.uint8)
    X = rng.integers(0, 200, (count, 32, 32, 3), dtype=np.uint8) + 50 * y[:, None, None, None]
    part = (np.arange(count) % 6 == 0).astype(np.uint8)
    np.savez(path, X=X, y_frog=y, y_transportation=1 - y, split=part)
    return y, part


def test_images_are_split_by_sixths_and_normalised(tmp_path):
    y, part = images(tmp_path / "cifar10_jpeg_12k.npz")
    read = data.load("cifar10_frog", tmp_path)
    parts = data.split_images(read, range(2))
    assert [part.X.shape for part in parts] == [
        (2, 40, 3, 32, 32),
        (2, 10, 3, 32, 32),
        (2, 10, 3, 32, 32),
    ]
    assert_close(parts.training.X.mean((1, 3, 4)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    assert_close(parts.training.X.std((1, 3, 4)), torch.ones(2, 3), atol=1e-4, rtol=0)
    assert parts.test.y[0].tolist() == y[part == 1].tolist()
    assert not torch.equal(parts.training.y[0], parts.training.y[1])


def test_the_binary_version_of_cifar_10(tmp_path):
    # Two images a file, of classes 0 ... 9, 6 and 1; red counts files, green images, blue rows.
    labels = np.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [6, 1]])
    for at, (name, of_file) in enumerate(zip(data.CIFAR, labels, strict=True)):
        records = np.zeros((2, 3073), np.uint8)
        records[:, 0] = of_file
        planes = records[:, 1:].reshape(2, 3, 32, 32)
        planes[:, 0], planes[:, 1] = at, np.arange(2)[:, None, None]
        planes[:, 2] = np.arange(32)[:, None]
        records.tofile(tmp_path / name)
    frog = data.load("cifar10_frog", tmp_path)
    assert frog.y.tolist() == [0] * 6 + [1] + [0] * 3 + [1, 0]
    transportation = data.load("cifar10_transportation", tmp_path)
    assert transportation.y.tolist() == [1, 1] + [0] * 6 + [1, 1, 0, 1]
    assert frog.X.shape == (12, 32, 32, 3)
    assert frog.X[7, 5, 20].tolist() == [3, 1, 5]
    (tmp_path / data.CIFAR[3]).write_bytes(b"short")
    with pytest.raises(DemoError, match=r"data_batch_4.bin' is no batch of records of 3,073 bytes"):
        data.load("cifar10_frog", tmp_path)
    (tmp_path / data.CIFAR[3]).unlink()
    with pytest.raises(DemoError, match=r"cannot read '.*data_batch_4.bin'"):
        data.load("cifar10_frog", tmp_path)


def test_the_image_network_keeps_its_best_weights_too(tmp_path):
    images(tmp_path / "cifar10_jpeg_12k.npz")
    parts = data.split_images(data.load("cifar10_frog", tmp_path), range(1))
    networks = models.TinyYolo(0.05, models.generators([0]))
    convolutions = [x.shape[0] for x in networks.parameters if x.dim() == 4]
    assert convolutions == [1, 2, 3, 6, 13, 26, 51]
    schedule = Schedule(epochs=3, patience=3, batch_size=20, lr=0.01)
    found = training.train(networks, parts, losses.bce, schedule)
    assert_close(training.logits(networks, parts.test.X), found.test)
    # The weights are those of the epoch that is named.
    again = models.TinyYolo(0.05, models.generators([0]))
    best = schedule._replace(epochs=found.best_epochs[0])
    assert_close(training.train(again, parts, losses.bce, best).test, found.test)


@pytest.fixture
def folder(tmp_path):
    X, y = rows()
    for name in ("mammography", "cocktailparty", "adult"):
        np.savez(tmp_path / f"{name}.npz", X=X, y=y)
    return tmp_path


def call(folder, *arguments):
    options = ("--data-dir", str(folder), "--output", str(folder / "out"))
    return command.main([*arguments, *options])


QUICK = ("--trials", "2", "--epochs", "2", "--datasets", "mammography", "--losses")


def test_variations_have_a_table_of_their_own(folder, capsys):
    call(folder, "1", *QUICK, "bce", "--initial", "keras", "--weights", "last", "--split", "3")
    page = capsys.readouterr().out
    assert "| mammography | bce | initial keras, weights last, split 3 |" in page
    assert "Table 1, mammography, batches of 1024: " in page.split("## Not run")[1]
    assert call(folder, "3", "--initial", "keras") == 2
    assert "for tabular data, not for cifar10_transportation" in capsys.readouterr().err
    assert call(folder, "1", *QUICK, "bce", "--not-stratified") == 0
    assert "| mammography | bce | stratified False |" in capsys.readouterr().out
    assert call(folder, "1", *QUICK, "bce_sqrt", "--not-stratified") == 2
    assert "bce_sqrt needs as many positives in every split" in capsys.readouterr().err


def test_a_table_from_end_to_end(folder, capsys, monkeypatch):
    assert call(folder, "1", *QUICK, "f1_linear", "bce") == 0
    page = capsys.readouterr().out
    row = next(line for line in page.splitlines() if line.startswith("| f1_linear"))
    assert "(0.73 ± 0.05)" in row
    assert "[" in row
    assert "| bce, raw outputs, 2 trials, 2 epochs |" in page
    assert "Table 1, mammography, batches of 1024: accuracy_linear" in page

    files = sorted((folder / "out" / "runs").glob("*.json"))
    assert len(files) == 2
    found = json.loads(files[1].read_text())
    assert found["settings"]["loss"] == "f1_linear"
    assert found["training"]["seeds"] == [0, 1]
    assert found["training"]["epochs"] == [2, 2]
    assert found["training"]["seconds_per_epoch"] > 0
    assert found["versions"]["torch"] == torch.__version__
    mean = np.mean([trial["published"]["f1"] for trial in found["trials"]])
    assert f"| {mean:.3f} ± " in row

    # What has been trained is not trained again, unless a setting differs.
    def refuse(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "train", refuse)
    assert call(folder, "1", *QUICK, "f1_linear", "bce") == 0
    assert page.splitlines()[2:] == capsys.readouterr().out.splitlines()[2:]
    with pytest.raises(AssertionError, match="trained again"):
        call(folder, "1", *QUICK, "f1_linear", "--patience", "7")


def test_a_run_that_is_cut_off_leaves_no_half_of_a_file(folder, monkeypatch):
    def cut_off(path, text, encoding):
        path.write_bytes(text.encode()[:100])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", cut_off)
        with pytest.raises(KeyboardInterrupt):
            call(folder, "1", *QUICK, "bce")
    left = [path.suffix for path in (folder / "out" / "runs").iterdir()]
    assert left == [".npz"]
    assert call(folder, "1", *QUICK, "bce") == 0


def test_options_without_an_effect_make_no_other_result(folder):
    # A solver has neither epochs nor a network, and images have no dropout.
    options = command.parser().parse_args
    changed = ("--epochs", "7", "--patience", "3", "--dropout", "0", "--batch-size", "64")
    for table, loss, there, same in (
        ("S3", "eum", {}, True),
        ("S3", "svm_f1", {}, True),
        ("S3", "dice", {"epochs": 7, "patience": 3, "dropout": 0.0, "batch_size": 64}, False),
        ("3", "bce", {"epochs": 7, "patience": 3}, False),
    ):
        plain, other = (
            next(command.jobs(table, options([table, "--losses", loss, *words])))
            for words in ((), changed)
        )
        assert other == plain._replace(**there), loss
        assert (other == plain) is same
    (adversarial,) = command.jobs(
        "1", options(["1", "--losses", "f1_adversarial", "--datasets", "adult", *changed])
    )
    assert adversarial.batch_size == losses.ADVERSARIAL_ROWS


def test_other_widths_are_variations():
    settings = run.Job("cifar10_frog", "bce", width=0.5)._asdict()
    assert report.variation(settings) == {"width": 0.5}
    assert report.variation(settings | {"width": tables.WIDTH}) == {}


def test_plug_in_weights_and_counts(folder, capsys):
    assert call(folder, "S4", *QUICK, "f1_linear") == 0
    page = capsys.readouterr().out
    assert "| accuracy | T | number of best T | F1 | T | number of best T |" in page
    row = next(line for line in page.splitlines() if line.startswith("| f1_linear"))
    assert "(0.68 ± 0.09)" in row
    assert call(folder, "S6", *QUICK, "f1_linear") == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("| f1_linear"))
    assert "(0.68 ± 0.07)" in row
    assert "f1_linear | –" not in row
    assert call(folder, "S5", "--datasets", "mammography") == 0
    # Of 192 rows of the training part 38 are positive.
    assert "| mammography | 0.62 (0.51) | 2.53 (21.55) |" in capsys.readouterr().out


def test_batch_f1_against_that_of_all_data(folder, capsys):
    assert call(folder, "S2", "--trials", "2", "--epochs", "1") == 0
    assert "| batches of 128 |" in capsys.readouterr().out
    found = report.read(folder / "out" / "batch_f1.json")["differences"]
    # 192 training rows: a batch of 1024 is all of them, and so is one of 4096.
    assert found["1024"] == found["4096"]
    assert found["128"][1] > found["1024"][1]


def test_mistakes_are_told_in_one_sentence(folder, capsys):
    assert call(folder, "1", *QUICK[:4], "--datasets", "kaggle", "--losses", "bce") == 2
    assert "kaggle needs 'creditcard_part1of2.npz'" in capsys.readouterr().err
    assert call(folder, "S6", "--losses", "f1_linear", "focal") == 2
    assert "--losses: not in table S6: focal; there: accuracy_linear, " in capsys.readouterr().err
    assert call(folder, "2", "--datasets", "adult") == 2
    assert "--datasets: not in table 2: adult; there: mammography" in capsys.readouterr().err
    assert call(folder, "all", *QUICK[:4], "--datasets", "adult", "--losses", "dice") == 0
    assert list(report.read(folder / "out" / "counts.json")) == ["adult"]
    assert not (folder / "out" / "batch_f1.json").exists()
    capsys.readouterr()
    assert call(folder, "S5", "--losses", "bce") == 2
    assert "not in table S5: bce; there: none" in capsys.readouterr().err
    for wrong in (("4",), ("1", "--losses", "hinge"), ("1", "--dropout", "1")):
        with pytest.raises(SystemExit):
            call(folder, *wrong)


@pytest.mark.parametrize("loss", sorted(losses.SOLVERS))
def test_methods_with_a_solver_of_their_own(folder, loss, capsys):
    assert call(folder, "S3", *QUICK[:4], "--datasets", "mammography", "--losses", loss) == 0
    row = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {loss}")
    )
    assert f"| {loss} | –" not in row
    (path,) = (folder / "out" / "runs").glob("*.npz")
    scores = run.load_scores(path)
    # The first feature tells the classes apart in part.
    assert roc_auc_score(scores.labels[:, 1], scores.test[:, 1]) > 0.8


def test_oversampling_makes_the_classes_equal_in_training_alone():
    read = Data("", *rows())
    parts = data.split_seeds(read, range(2), balanced=True)
    assert parts.training.y.shape == (2, 308)
    assert parts.training.y.sum(dim=1).tolist() == [154, 154]
    assert parts.validation.y.mean() == pytest.approx(0.2, abs=0.02)
    plain = data.split_seeds(read, range(2))
    assert_close(parts.training.X[1, :192], plain.training.X[1])


def test_settings_tell_results_apart():
    job = run.Job("adult", "bce")
    others = {
        job._replace(**change).digest for change in ({"trials": 3}, {"lr": 0.1}, {"epochs": 9})
    }
    assert len(others | {job.digest}) == 4
    assert job.digest == run.Job("adult", "bce").digest
