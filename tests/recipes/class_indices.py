"""Several classes, one of which is right: targets as in CrossEntropyLoss, macro F1 as the loss."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import softcm

torch.manual_seed(0)
digits = load_digits()
x = torch.tensor(digits.data / 16, dtype=torch.float32)
y = torch.tensor(digits.target)  # (N,) of 0 ... 9
x_train, x_test, y_train, y_test = train_test_split(x, y, stratify=y, random_state=0)

model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
# Each class against the rest, on the probabilities of a softmax; no one-hot targets are made.
loss_fn = softcm.F1Loss(from_logits=True, membership="gated", ce_weight=0.3)
losses = []
for _ in range(60):
    optimizer.zero_grad()
    loss = loss_fn(model(x_train), y_train)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

with torch.no_grad():
    predictions = model(x_test).argmax(dim=1)
# The decisions as probabilities 0 and 1, so that the threshold does not matter.
decided = torch.nn.functional.one_hot(predictions, 10).float()
f1 = softcm.metrics.f1(softcm.confusion_matrix(decided, y_test))
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
print(f"macro F1 on test data {f1.mean():.3f}; worst: digit {f1.argmin()}, {f1.min():.3f}")
