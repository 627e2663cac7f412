"""The recipes of the README run as they stand, and what they claim is true."""

import re
import runpy
from pathlib import Path

import pytest
import smp
import torch
from sklearn.metrics import f1_score, precision_score, recall_score

import softcm

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "recipes"


@pytest.fixture(autouse=True)
def one_thread():
    """Models so small have nothing to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(name, *packages):
    """The names that a recipe has defined at its end."""
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[recipes]'")
    return runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")


def assert_learned(recipe, least_f1):
    losses = recipe["losses"]
    assert losses[-1] < losses[0] / 2
    assert recipe["f1"] > least_f1


def test_table_of_the_readme_has_every_recipe():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.search(r"^### Recipes\n(.*?)^### ", readme, re.M | re.S)[1]
    linked = re.findall(r"\[(\S+\.py)\]\(tests/recipes/(\S+\.py)\)", table)
    assert sorted(linked) == [(path.name, path.name) for path in sorted(FOLDER.glob("*.py"))]


def test_plain_loop():
    recipe = run("plain_loop")
    assert_learned(recipe, least_f1=0.7)
    positive = recipe["logits"].sigmoid() >= recipe["best"].threshold
    assert recipe["f1"] == pytest.approx(f1_score(recipe["y_test"], positive))
    assert recipe["best"].threshold != 0.5


@pytest.mark.filterwarnings("ignore:.*:UserWarning:pytorch_lightning.*")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")
def test_lightning_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = run("lightning_module", "pytorch_lightning")
    model = recipe["model"]
    assert_learned({"losses": model.losses, "f1": recipe["f1"]}, least_f1=0.7)
    with torch.no_grad():
        logits = model(recipe["x_validation"])
    best = softcm.tune_threshold(logits, recipe["y_validation"], from_logits=True)
    assert torch.equal(model.state_dict()["threshold"], best.threshold)
    assert best.threshold != 0.5


def test_hugging_face_trainer():
    recipe = run("hugging_face_trainer", "transformers", "accelerate")
    assert_learned(recipe, least_f1=0.9)
    prediction = recipe["of_test"]
    positive = prediction.predictions[:, 0] >= 0
    expected = f1_score(prediction.label_ids, positive)
    assert prediction.metrics["test_f1"] == pytest.approx(expected)


def test_skorch_pipeline():
    recipe = run("skorch_pipeline", "skorch")
    assert_learned(recipe, least_f1=0.8)
    best, x = recipe["best"], recipe["x_test"]
    assert best.score >= f1_score(recipe["y"], recipe["scores"] >= 0.5)
    positive = recipe["classifier"].estimator_.predict_proba(x)[:, 1] >= best.threshold.item()
    assert (recipe["predictions"] == positive).all()
    assert (recipe["of_folds"] > 0.7).all()


def test_multi_label():
    recipe = run("multi_label")
    assert recipe["losses"][-1] < recipe["losses"][0] / 2
    assert (recipe["y_train"] == recipe["MISSING"]).any()
    assert recipe["best"].threshold.unique().numel() == 4
    positive = recipe["logits"].sigmoid() >= recipe["best"].threshold.squeeze(1)
    expected = f1_score(recipe["y_test"], positive, average="macro")
    assert recipe["f1"].mean().item() == pytest.approx(expected)
    assert expected > 0.7


def test_class_indices():
    recipe = run("class_indices")
    assert recipe["losses"][-1] < recipe["losses"][0] / 2
    expected = f1_score(recipe["y_test"], recipe["predictions"], average="macro")
    assert recipe["f1"].mean().item() == pytest.approx(expected)
    assert expected > 0.9


def test_segmentation(monkeypatch):
    smp.provide_losses(monkeypatch)
    recipe = run("segmentation")
    assert recipe["losses"][-1] < recipe["losses"][0] / 2
    assert recipe["losses"] == pytest.approx(recipe["losses_of_smp"], abs=1e-5)
    assert (recipe["y"] == recipe["VOID"]).any()
    assert (recipe["iou"] > 0.6).all()


def test_several_processes():
    recipe = run("several_processes")
    losses, weights = recipe["alone"]
    assert losses[-1] < losses[0] / 2
    for losses_of_process, weights_of_process in recipe["together"]:
        assert losses_of_process == pytest.approx(losses, rel=1e-5)
        torch.testing.assert_close(weights_of_process, weights, rtol=1e-4, atol=1e-5)


def test_mixed_precision():
    recipe = run("mixed_precision")
    assert recipe["losses"][-1] < recipe["losses"][0] / 2
    assert recipe["logits"].dtype == torch.float16
    assert recipe["loss"].dtype == torch.float32


def test_constraints_with_cooper():
    recipe = run("constraints_with_cooper", "cooper")
    least = recipe["LEAST_RECALL"]
    assert recipe["recalls"][0] < least
    assert recipe["multiplier"] > 0
    with torch.no_grad():
        positive = recipe["model"](recipe["x"]).squeeze(1).sigmoid() >= 0.5
    assert recipe["recall"] == pytest.approx(recall_score(recipe["y"], positive))
    assert recipe["precision"] == pytest.approx(precision_score(recipe["y"], positive))
    assert recipe["recall"] >= least
    assert recipe["precision"] > 0.4
