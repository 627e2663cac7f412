"""skorch in a scikit-learn pipeline: cross-validation, and a threshold from out-of-fold scores."""

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score
from sklearn.model_selection import (
    FixedThresholdClassifier,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetBinaryClassifier

import softcm


class Network(torch.nn.Module):
    def __init__(self, features=64):
        super().__init__()
        layers = torch.nn.Linear(features, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)  # logits (N, 1); (N,) would do, too


def both_probabilities(logits):
    """(N, 2), as scikit-learn has them; skorch knows this step only for PyTorch's own losses."""
    positive = logits.squeeze(-1).sigmoid()
    return torch.stack((1 - positive, positive), dim=1)


torch.manual_seed(0)
digits = load_digits()
x, y = digits.data.astype("float32"), (digits.target == 8).astype("int64")
x, x_test, y, y_test = train_test_split(x, y, stratify=y, random_state=0)

network = NeuralNetBinaryClassifier(
    Network,
    criterion=softcm.F1Loss,
    criterion__from_logits=True,
    criterion__membership="gated",
    criterion__ce_weight=0.3,
    predict_nonlinearity=both_probabilities,
    optimizer=torch.optim.Adam,
    lr=0.01,
    max_epochs=8,
    batch_size=128,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
)
pipeline = make_pipeline(StandardScaler(), network)
folds = StratifiedKFold(3)
of_folds = cross_val_score(pipeline, x, y, scoring="f1", cv=folds)

scores = cross_val_predict(pipeline, x, y, cv=folds, method="predict_proba")[:, 1]
best = softcm.tune_threshold(torch.from_numpy(scores), torch.from_numpy(y), metric="f1")
# Positive from the threshold on, as in softcm; skorch's own option asks for more than it.
classifier = FixedThresholdClassifier(pipeline, threshold=best.threshold.item()).fit(x, y)
losses = classifier.estimator_[-1].history[:, "train_loss"]
predictions = classifier.predict(x_test)
f1 = f1_score(y_test, predictions)
print(f"F1 of the folds at 0.5: {', '.join(f'{value:.3f}' for value in of_folds)}")
print(f"F1 of all folds together at the tuned threshold: {best.score:.3f}")
print(f"F1 on test data {f1:.3f} at threshold {best.threshold:.3f}")
