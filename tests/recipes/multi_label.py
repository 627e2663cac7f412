"""Multi-label: the mean of the labels' F1, labels that are missing, a threshold for each label."""

import torch
from sklearn.datasets import make_multilabel_classification

import softcm

MISSING = -1

torch.manual_seed(0)
x, y = make_multilabel_classification(
    n_samples=1500, n_features=20, n_classes=4, n_labels=1, random_state=0
)
x = torch.tensor(x, dtype=torch.float32)
x = (x - x.mean(0)) / x.std(0)
y = torch.tensor(y)  # (N, 4), any number of ones in a row
x_train, x_validation, x_test = x.split(500)
y_train, y_validation, y_test = y.split(500)
# A tenth of the labels is not known.
y_train = y_train.masked_fill(torch.rand(y_train.shape) < 0.1, MISSING)

model = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
loss_fn = softcm.F1Loss(
    from_logits=True, membership="gated", average="macro", ignore_index=MISSING, ce_weight=0.3
)
losses = []
for _ in range(100):
    optimizer.zero_grad()
    loss = loss_fn(model(x_train), y_train)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

with torch.no_grad():
    best = softcm.tune_threshold(model(x_validation), y_validation, from_logits=True)  # (4, 1)
    logits = model(x_test)
hard = softcm.confusion_matrix(logits, y_test, threshold=best.threshold, from_logits=True)
f1 = softcm.metrics.f1(hard).squeeze(1)
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
for label, threshold in enumerate(best.threshold.squeeze(1)):
    print(f"label {label}: F1 {f1[label]:.3f} at threshold {threshold:.3f}")
print(f"macro F1 on test data {f1.mean():.3f}")
