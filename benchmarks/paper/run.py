"""One data set trained on one loss: trained once, kept in files, judged whenever asked for."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import softcm
from softcm.demo_data import Data

from ..measure import machine
from . import data, losses, models, protocols, training
from .training import Tick

Found = dict[str, Any]  # what stands in one file of results
Results = dict[tuple[str, str, int], Found]  # by data set, loss and batch size


class Job(NamedTuple):
    """Everything that the result depends on, but for the data itself."""

    dataset: str
    loss: str
    trials: int = 10
    epochs: int = 2000
    patience: int = 100
    batch_size: int = 1024
    lr: float = 0.001
    dropout: float = models.DROPOUT
    width: float | None = None  # of an image network
    initial: str = "torch"  # weights, as this library draws them
    weights: str = "best"  # that are judged: of the lowest validation loss, or "last"
    split: int | None = None  # the seed of the one split that all trials take
    stratified: bool = True  # splits, by label

    @property
    def digest(self) -> str:
        settings = self._asdict()
        # Settings that came later leave the names of what was trained without them.
        for name in ("initial", "weights", "split", "stratified"):
            if settings[name] == self._field_defaults[name]:
                del settings[name]
        text = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def path(self, folder: Path, suffix: str) -> Path:
        name = f"{self.dataset}-{self.loss}-{self.batch_size}-{self.digest}{suffix}"
        return folder / "runs" / name


class Scores(NamedTuple):
    """Logits, or margins, and labels, each (N, S)."""

    validation: Tensor
    validation_labels: Tensor
    test: Tensor
    labels: Tensor

    def save(self, path: Path) -> None:
        arrays = {name: x.numpy() for name, x in self._asdict().items()}
        labels = {name: x.astype(np.uint8) for name, x in arrays.items() if "labels" in name}
        with _replaced(path) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, **(arrays | labels))


def load_scores(path: Path) -> Scores:
    with np.load(path, allow_pickle=False) as arrays:
        return Scores(*(torch.from_numpy(arrays[name]) for name in Scores._fields))


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A name to write to, whose file then takes the place of ``path``: whole or not at all."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write(path: Path, found: Found) -> None:
    with _replaced(path) as unfinished:
        unfinished.write_text(json.dumps(found, indent=1), encoding="utf-8")


Load = Callable[[str], Data]


def find(job: Job, load: Load, folder: Path, tick: Tick) -> Found:
    """The result of a job, from its files where it has been trained before."""
    path, scores_path = job.path(folder, ".json"), job.path(folder, ".npz")
    if path.is_file() and scores_path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        scores = load_scores(scores_path)
    else:
        scores, how = _trained(job, load(job.dataset), tick)
        found = {"settings": job._asdict(), "digest": job.digest, "training": how} | _versions()
        path.parent.mkdir(parents=True, exist_ok=True)
        scores.save(scores_path)
    found["trials"] = protocols.judge(*scores, margins=job.loss in losses.SOLVERS)
    write(path, found)
    return found


def _trained(job: Job, read: Data, tick: Tick) -> tuple[Scores, Found]:
    seeds = range(job.trials)
    if job.dataset in data.IMAGES:
        parts = [data.split_images(read, range(seed, seed + 1)) for seed in seeds]
    else:
        balanced = job.loss.endswith(losses.OVERSAMPLED)
        if job.split is None:
            parts = [data.split_seeds(read, seeds, balanced, job.stratified)]
        else:
            one_seed = range(job.split, job.split + 1)
            one = data.split_seeds(read, one_seed, balanced, job.stratified)
            parts = [data.repeated(one, job.trials)]
    if job.loss in losses.SOLVERS:
        return _solved(job, parts[0], tick)
    return _train(job, parts, tick)


def _solved(job: Job, parts: data.Parts, tick: Tick) -> tuple[Scores, Found]:
    """A method with a solver of its own takes one seed after the other."""
    start, cpu_start = time.perf_counter(), time.process_time()
    validation, test = [], []
    for seed in range(job.trials):
        of_seed = [(part.X[seed].double().numpy(), part.y[seed].numpy()) for part in parts]
        predict = losses.SOLVERS[job.loss](*of_seed[0], *of_seed[1], seed)
        validation.append(torch.from_numpy(predict(of_seed[1][0])))
        test.append(torch.from_numpy(predict(of_seed[2][0])))
        tick(1, job.trials - seed - 1)
    scores = Scores(
        *(torch.stack(validation, dim=1), parts.validation.y.T),
        *(torch.stack(test, dim=1), parts.test.y.T),
    )
    how = {
        "seeds": list(range(job.trials)),
        "epochs": [1] * job.trials,  # a whole training each
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
        "rows": parts.training.y.shape[1],
    }
    return scores, how


def _train(job: Job, parts: list[data.Parts], tick: Tick) -> tuple[Scores, Found]:
    """Train all seeds as one batch, or, where there are several parts, one after the other."""
    recipe = losses.RECIPES[job.loss]
    schedule = training.Schedule(
        *(job.epochs, job.patience, job.batch_size, job.lr, recipe.rows, job.weights == "last")
    )
    each: list[training.Trained] = []
    at = 0
    for of_seeds in parts:
        rngs = models.generators(range(at, at + len(of_seeds.test.y)))
        networks: models.Networks
        if job.width is None:
            features = of_seeds.test.X.shape[-1]
            networks = models.FeedForward(features, rngs, job.dropout, initial=job.initial)
        else:
            networks = models.TinyYolo(job.width, rngs)
        loss = recipe.make(of_seeds.training.y)
        each.append(training.train(networks, of_seeds, loss, schedule, tick))
        at += len(rngs)
    scores = Scores(
        torch.cat([trained.validation for trained in each], dim=1),
        torch.cat([of_seeds.validation.y.T for of_seeds in parts], dim=1),
        torch.cat([trained.test for trained in each], dim=1),
        torch.cat([of_seeds.test.y.T for of_seeds in parts], dim=1),
    )
    epochs = [epoch for trained in each for epoch in trained.epochs]
    seconds = sum(trained.seconds for trained in each)
    how = {
        "seeds": list(range(job.trials)),
        "epochs": epochs,
        "best_epochs": [epoch for trained in each for epoch in trained.best_epochs],
        "seconds": seconds,
        "cpu_seconds": sum(trained.cpu_seconds for trained in each),
        # One epoch of one seed, with the other seeds beside it.
        "seconds_per_epoch": seconds / sum(epochs),
        "rows": parts[0].training.y.shape[1],
    }
    return scores, how


def _versions() -> Found:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "softcm": softcm.__version__,
            "backends": list(softcm.available_backends("cpu")),
        },
    }
