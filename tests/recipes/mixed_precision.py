"""Automatic mixed precision: float16 under autocast, with a GradScaler, on a GPU or a CPU."""

import torch
from sklearn.datasets import load_digits

import softcm

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
digits = load_digits()
x = torch.tensor(digits.data / 16, dtype=torch.float32, device=device)
y = torch.tensor(digits.target == 8, device=device)

layers = torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)
model = torch.nn.Sequential(*layers).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
scaler = torch.amp.GradScaler(device)
# Takes float16 logits as they are, sums in float32 and more, and returns a float32 loss.
loss_fn = softcm.F1Loss(from_logits=True, membership="gated", ce_weight=0.3)
losses = []
for _ in range(60):
    optimizer.zero_grad()
    with torch.autocast(device, dtype=torch.float16):
        logits = model(x)
        loss = loss_fn(logits, y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    losses.append(loss.item())
print(f"logits {logits.dtype}, loss {loss.dtype}, scale {scaler.get_scale():.0f}")
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
