"""A plain PyTorch loop: train on F1, tune the threshold on validation data, judge on test data."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

import softcm

torch.manual_seed(0)
digits = load_digits()
x = torch.tensor(digits.data / 16, dtype=torch.float32)
y = torch.tensor(digits.target == 8)  # one in ten
x, x_test, y, y_test = train_test_split(x, y, stratify=y, random_state=0)
x_train, x_validation, y_train, y_validation = train_test_split(x, y, stratify=y, random_state=0)

model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
loss_fn = softcm.F1Loss(from_logits=True, membership="gated", ce_weight=0.3)

# A batch needs positives: one of 128 has about thirteen here.
batches = DataLoader(TensorDataset(x_train, y_train), batch_size=128, shuffle=True)
losses = []
for _ in range(30):
    total = 0.0
    for features, labels in batches:
        optimizer.zero_grad()
        loss = loss_fn(model(features), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    losses.append(total / len(batches))

model.eval()
with torch.no_grad():
    best = softcm.tune_threshold(model(x_validation), y_validation, from_logits=True)
    logits = model(x_test)
hard = softcm.confusion_matrix(logits, y_test, threshold=best.threshold, from_logits=True)
f1 = softcm.metrics.f1(hard).item()
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
print(f"F1 on test data {f1:.3f} at threshold {best.threshold:.3f}")
