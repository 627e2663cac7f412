"""Plug-in classifiers: probabilities first, then the threshold that is best on validation data.

Koyejo, Natarajan, Ravikumar and Dhillon, "Consistent Binary Classification with Generalized
Performance Metrics", NeurIPS 2014 (their Two-Step EUM): fit a probability on one part of the data,
choose the threshold on the other. Narasimhan, Vaish and Agarwal, "On the Statistical Consistency of
Plug-in Classifiers for Non-decomposable Performance Measures", NeurIPS 2014, have the same for
further measures. Logistic regression is the probability here.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import softcm

# Supplement 5.2: the candidates, and the decimals to which scores are compared for |T_max|.
GRID = tuple(i / 10 for i in range(1, 10))
DIGITS = 2
Array = NDArray[np.float64]


def best_thresholds(p: Tensor, y: Tensor, metric: str = "f1") -> softcm.thresholds.TunedThreshold:
    """Threshold of GRID, score and number of maximizers |T_max|, each (S,), of p and y (N, S).

    Scores are truncated to two decimals to be compared, as in Supplement 5.2, so the threshold is
    the one closest to 0.5 of those that are equal then.
    """
    tuned = softcm.tune_threshold(p, y, metric, GRID, digits=DIGITS)
    return tuned._make(x.reshape(p.shape[1]) for x in tuned)


def fit(
    X_train: Array,
    y_train: Array,
    X_validation: Array,
    y_validation: Array,
    seed: int,
    *,
    metric: str = "f1",
    C: float = 1.0,
) -> Callable[[Array], Array]:
    """Two-Step EUM with logistic regression: ``predict(X)`` is positive or 0 for a positive.

    Scores are the log-odds less those of the threshold found, so that 0 separates the classes. The
    search for it is exact. Nothing is drawn at random; ``seed`` is there for the common interface.
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=C, max_iter=1000, random_state=seed).fit(X_train, y_train)
    z, y = torch.from_numpy(model.decision_function(X_validation)), torch.tensor(y_validation)
    threshold = softcm.tune_threshold(z, y, metric, from_logits=True).threshold.item()
    offset = np.log(threshold / (1 - threshold))
    return lambda X: model.decision_function(X) - offset
