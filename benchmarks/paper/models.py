"""The paper's two networks, for several seeds at once.

All randomness of a seed (initial weights, order of the batches, dropout) comes from its own
generator, so that a seed gives the same network whichever others are trained beside it.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

HIDDEN = (32, 16)
# The paper gives no rate; this is that of softcm.demo.
DROPOUT = 0.2
LEAKY_SLOPE = 0.1
INITIAL = ("torch", "keras")
CHANNELS = (16, 32, 64, 128, 256, 512, 1024)


def generators(seeds: Sequence[int]) -> list[np.random.Generator]:
    return [np.random.Generator(np.random.SFC64(seed)) for seed in seeds]


class FeedForward:
    """The network of Section 5 for tabular data, with S seeds as one batch of matrices."""

    def __init__(
        self,
        features: int,
        rngs: list[np.random.Generator],
        dropout: float,
        dtype: torch.dtype = torch.float32,
        initial: str = "torch",
    ) -> None:
        """``dropout`` counts to the nearest 1/256: a byte decides on each unit."""
        self.rngs = rngs
        self.dropped = round(256 * dropout)
        self.parameters: list[Tensor] = []
        sizes = (features, *HIDDEN, 1)
        for inputs, outputs in pairwise(sizes):
            if initial == "torch":  # as torch.nn.Linear begins
                bounds = [1 / math.sqrt(inputs)] * 2
            else:  # as Dense of Keras: Glorot and Bengio (2010), biases of 0
                bounds = [math.sqrt(6 / (inputs + outputs)), 0]
            for rows, bound in zip((inputs, 1), bounds, strict=True):
                drawn = [rng.uniform(-bound, bound, (rows, outputs)) for rng in rngs]
                tensor = torch.tensor(np.stack(drawn), dtype=dtype)
                self.parameters.append(tensor.requires_grad_())

    def logits(self, X: Tensor, dropout: bool = False) -> Tensor:
        """(S, N, features) -> (N, S)."""
        dropout = dropout and self.dropped > 0
        masks = self._masks(X.shape[1], X.dtype) if dropout else []
        weights, biases = self.parameters[::2], self.parameters[1::2]
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            X = torch.baddbmm(bias, X, weight)
            if layer < len(HIDDEN):
                X = X.relu()
            if dropout and layer < len(HIDDEN):
                X = X * masks[layer]
        return X.squeeze(-1).T

    def _masks(self, rows: int, dtype: torch.dtype) -> list[Tensor]:
        """0 or 1 / (1 - rate) for each unit of the hidden layers, (S, N, units)."""
        units = sum(HIDDEN)
        # Of the ways to draw so many bytes, the fastest by far.
        drawn = [rng.bit_generator.random_raw(rows * units // 8) for rng in self.rngs]
        kept = np.stack(drawn).view(np.uint8) >= self.dropped
        scale = np.float32(256 / (256 - self.dropped))
        factors = torch.from_numpy(np.multiply(kept, scale, dtype=np.float32)).to(dtype)
        each = factors.split([rows * size for size in HIDDEN], dim=1)
        return [mask.reshape(-1, rows, size) for mask, size in zip(each, HIDDEN, strict=True)]

    def state(self) -> list[Tensor]:
        """What a seed has learned, by seed: tensors (S, ...) that share memory with the network."""
        return [parameter.detach() for parameter in self.parameters]

    def keep(self, rows: Tensor) -> None:
        """Go on with these of the seeds alone."""
        self.rngs = [self.rngs[row] for row in rows.tolist()]
        self.parameters = [x.detach()[rows].requires_grad_() for x in self.parameters]


class TinyYolo:
    """The backbone of Tiny YOLOv3 (Redmon and Farhadi 2018) with a classifier on top, one seed.

    Seven 3 x 3 convolutions of 16 ... 1024 channels times ``width``, each with batch normalisation,
    leaky ReLU and, but for the last two, 2 x 2 maximum pooling, which takes 32 x 32 pixels to one;
    then a linear unit in place of the detection heads.
    """

    def __init__(self, width: float, rngs: list[np.random.Generator]) -> None:
        if len(rngs) != 1:
            raise ValueError(f"an image network holds one seed, got {len(rngs)}")
        self.rngs = rngs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rngs[0].integers(2**62)))
            self.network = tiny_yolo(width)
        self.parameters = list(self.network.parameters())

    def logits(self, X: Tensor, dropout: bool = False) -> Tensor:
        """(1, N, 3, 32, 32) -> (N, 1); ``dropout`` is training, in which batches are normalised."""
        return self.network.train(dropout)(X[0])

    def state(self) -> list[Tensor]:
        return [x.unsqueeze(0) for x in self.network.state_dict().values()]

    def keep(self, rows: Tensor) -> None:
        raise ValueError("an image network has no other seed to go on without")


def tiny_yolo(width: float) -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for at, channels in enumerate(CHANNELS):
        after = max(1, round(channels * width))
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.LeakyReLU(LEAKY_SLOPE),
        ]
        if at < len(CHANNELS) - 2:
            layers.append(nn.MaxPool2d(2))
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1))


Networks = FeedForward | TinyYolo
