"""Plug-in classifiers: probabilities first, then the threshold that is best on validation data.

Koyejo, Natarajan, Ravikumar and Dhillon, "Consistent Binary Classification with Generalized
Performance Metrics", NeurIPS 2014 (their Two-Step EUM): fit a probability on one part of the data,
choose the threshold on the other. Narasimhan, Vaish and Agarwal, "On the Statistical Consistency of
Plug-in Classifiers for Non-decomposable Performance Measures", NeurIPS 2014, have the same for
further measures. Logistic regression is the probability here; softcm.tune_threshold does the same
for the outputs of a network, and counts the thresholds that are equally good (Supplement 5.2).
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

import softcm

Array = NDArray[np.float64]


def fit(
    X_train: Array,
    y_train: Array,
    X_validation: Array,
    y_validation: Array,
    seed: int,
) -> Callable[[Array], Array]:
    """Two-Step EUM with logistic regression: ``predict(X)`` is positive for a positive.

    The search for the threshold of the best F1 is exact. Scores are log-odds less those half-way
    between the last samples on either side of it, so that 0 separates the classes whichever way a
    score is rounded. Nothing is drawn at random; ``seed`` is there for the common interface.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000, random_state=seed).fit(X_train, y_train)
    z, y = torch.from_numpy(model.decision_function(X_validation)), torch.tensor(y_validation)
    p = torch.sigmoid(z)
    above = p >= softcm.tune_threshold(p, y, "f1").threshold
    lowest = z[above].min()
    highest = lowest - 1 if above.all() else z[~above].max()
    offset = ((lowest + highest) / 2).item()
    return lambda X: model.decision_function(X) - offset
