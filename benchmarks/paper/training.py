"""Adam and early stopping for the networks of several seeds, which stop one by one."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from softcm.demo_data import DemoError, Part

from .data import Parts
from .models import FeedForward, Networks

# Of logits and labels (N, S): the loss of each seed, (S,).
Loss = Callable[[Tensor, Tensor], Tensor]
# Called with the number of the epoch and of the seeds that still train, after each epoch.
Tick = Callable[[int, int], None]
# Called with the networks and a batch, its labels (N, S), before each step.
Watch = Callable[[Networks, Tensor, Tensor], None]
# So many rows of all seeds go through the networks at once when they are judged.
ROWS_AT_ONCE = 2**19
IMAGES_AT_ONCE = 500


class Schedule(NamedTuple):
    epochs: int = 2000
    patience: int = 100  # epochs without a lower validation loss, after which a seed stops
    batch_size: int = 1024
    lr: float = 0.001
    # Of the validation part so many rows are judged at once, and the mean is taken; None: all.
    validation_rows: int | None = None
    last: bool = False  # judge the weights of the last epoch, not those of the lowest loss


class Trained(NamedTuple):
    """Logits of the weights that are judged, (N, S), and how it went."""

    validation: Tensor
    test: Tensor
    epochs: list[int]  # of each seed, that it was trained for
    best_epochs: list[int]
    seconds: float  # of all seeds together
    cpu_seconds: float


class _Best:
    """The lowest validation loss of every seed, and the weights that had it, or came last."""

    def __init__(self, networks: Networks, seeds: int, last: bool) -> None:
        self.last = last
        self.loss = torch.full((seeds,), math.inf, dtype=torch.float64)
        self.epoch = torch.zeros(seeds, dtype=torch.long)
        self.weights = [x.clone() for x in networks.state()]

    def update(self, seeds: Tensor, loss: Tensor, networks: Networks, epoch: int) -> None:
        better = loss.double() < self.loss[seeds]
        self.loss[seeds[better]] = loss.double()[better]
        self.epoch[seeds[better]] = epoch
        kept = torch.ones_like(better) if self.last else better
        for best, now in zip(self.weights, networks.state(), strict=True):
            best[seeds[kept]] = now[kept]


def train(
    networks: Networks,
    parts: Parts,
    loss: Loss,
    schedule: Schedule,
    tick: Tick = lambda epoch, seeds: None,
    watch: Watch | None = None,
) -> Trained:
    """Train until every seed has stopped, or for the most epochs."""
    start, cpu_start = time.perf_counter(), time.process_time()
    seeds = torch.arange(len(parts.training.y))  # those that still train
    ran = torch.zeros_like(seeds)
    best = _Best(networks, len(seeds), schedule.last)
    optimizer = torch.optim.Adam(networks.parameters, lr=schedule.lr, fused=True)
    validation = parts.validation
    for epoch in range(1, schedule.epochs + 1):
        _epoch(networks, optimizer, parts.training, seeds, loss, schedule.batch_size, watch)
        ran[seeds] = epoch
        value = _validation_loss(networks, validation, loss, schedule.validation_rows)
        if not value.isfinite().all():
            raise DemoError(f"training diverged in epoch {epoch}")
        best.update(seeds, value, networks, epoch)
        tick(epoch, len(seeds))
        going = epoch - best.epoch[seeds] < schedule.patience
        if not going.any():
            break
        if not going.all():
            rows = going.nonzero().squeeze(1)
            optimizer = _go_on_with(rows, networks, optimizer, schedule.lr)
            seeds = seeds[rows]
            validation = Part(validation.X[rows], validation.y[rows])
    seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return _judged(networks, best, parts, ran, *seconds)


def _epoch(
    networks: Networks,
    optimizer: torch.optim.Optimizer,
    part: Part,
    seeds: Tensor,
    loss: Loss,
    batch_size: int,
    watch: Watch | None,
) -> None:
    rows = part.y.shape[1]
    X, y = part.X.flatten(0, 1), part.y.flatten()
    orders = torch.stack([torch.from_numpy(rng.permutation(rows)) for rng in networks.rngs])
    orders += rows * seeds.unsqueeze(1)
    for order in orders.split(batch_size, dim=1):
        batch = X.index_select(0, order.flatten()).unflatten(0, order.shape)
        labels = y[order].T
        if watch is not None:
            watch(networks, batch, labels)
        z = networks.logits(batch, dropout=True)
        optimizer.zero_grad()
        # The seeds share no weight, so that each has the gradient of its own loss.
        loss(z, labels).sum().backward()
        optimizer.step()


def _go_on_with(
    rows: Tensor, networks: Networks, optimizer: torch.optim.Adam, lr: float
) -> torch.optim.Adam:
    """An optimizer of these seeds alone, with the moments that they have so far."""
    moments = [optimizer.state[parameter] for parameter in networks.parameters]
    networks.keep(rows)
    fewer = torch.optim.Adam(networks.parameters, lr=lr, fused=True)
    for parameter, of_all in zip(networks.parameters, moments, strict=True):
        fewer.state[parameter] = {
            name: x if name == "step" else x[rows] for name, x in of_all.items()
        }
    return fewer


@torch.no_grad()
def _validation_loss(networks: Networks, part: Part, loss: Loss, rows: int | None) -> Tensor:
    z, y = logits(networks, part.X), part.y.T
    rows = rows or len(y)
    pieces = zip(z.split(rows), y.split(rows), strict=True)
    return sum(loss(*piece) * len(piece[0]) for piece in pieces) / len(y)


@torch.no_grad()
def logits(networks: Networks, X: Tensor) -> Tensor:
    """(S, N, ...) -> (N, S), without dropout, in pieces that fit into memory."""
    rows = ROWS_AT_ONCE // len(X) if isinstance(networks, FeedForward) else IMAGES_AT_ONCE
    return torch.cat([networks.logits(piece) for piece in X.split(rows, dim=1)])


def _judged(networks: Networks, best: _Best, parts: Parts, ran: Tensor, *seconds: float) -> Trained:
    if isinstance(networks, FeedForward):
        networks.parameters = best.weights
    else:
        for now, then in zip(networks.state(), best.weights, strict=True):
            now.copy_(then)
    judged = (logits(networks, part.X) for part in (parts.validation, parts.test))
    return Trained(*judged, ran.tolist(), best.epoch.tolist(), *seconds)
