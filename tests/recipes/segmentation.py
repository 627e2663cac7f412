"""Segmentation: classes (N, C, H, W), pixels to be ignored, soft Dice and its relatives.

Dice of segmentation-models-pytorch is computed beside it: it is the same number.
"""

import torch
from segmentation_models_pytorch.losses import DiceLoss

import softcm

VOID, SIZE = 255, 32


def pictures(number, seed):
    """Noisy discs of two kinds on a background; the pixels at the rim of a disc are void."""
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    target = torch.zeros(number, SIZE, SIZE, dtype=torch.int64)
    for kind in (1, 2):
        middle = torch.randint(6, SIZE - 6, (2, number, 1, 1), generator=generator)
        distance = ((row - middle[0]) ** 2 + (column - middle[1]) ** 2).sqrt()
        target[distance < 5] = kind
        target[(distance >= 5) & (distance < 6)] = VOID
    brightness = torch.tensor([0.0, 1.0, -1.0])[target.where(target != VOID, 0)]
    noise = torch.randn(number, SIZE, SIZE, generator=generator)
    return (brightness + 0.7 * noise).unsqueeze(1), target


torch.manual_seed(0)
x, y = pictures(16, seed=0)
x_test, y_test = pictures(16, seed=1)
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 8, 5, padding=2), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 5, padding=2)
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
dice = softcm.DiceLoss(from_logits=True, ignore_index=VOID)
dice_of_smp = DiceLoss("multiclass", ignore_index=VOID)
losses, losses_of_smp = [], []
for _ in range(40):
    optimizer.zero_grad()
    logits = model(x)
    loss = dice(logits, y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    losses_of_smp.append(dice_of_smp(logits.detach(), y).item())

# Intersection over union of the decisions, for each class, over all pixels that are not void.
with torch.no_grad():
    decided = torch.nn.functional.one_hot(model(x_test).argmax(1), 3).movedim(-1, 1).float()
hard = softcm.confusion_matrix(decided, y_test, ignore_index=VOID)
iou = softcm.metrics.jaccard(hard)
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; of smp {losses_of_smp[-1]:.3f}")
print("IoU on test data", ", ".join(f"{value:.3f}" for value in iou))
