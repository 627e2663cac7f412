"""DistributedDataParallel: two processes train on the F1 of their batches taken together.

They end with the losses and the weights that one process has with the whole batch.
"""

import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

import softcm

WORLD = 2


def data():
    """Features (600, 8) and labels of which one in ten is positive."""
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(600, 1, generator=generator) < 0.1
    return torch.randn(600, 8, generator=generator) + 1.5 * y, y


def train(x, y, process_group):
    """The losses of the steps, and the weights at their end."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    if process_group is not None:
        model = DistributedDataParallel(model, process_group=process_group)
    loss_fn = softcm.F1Loss(
        from_logits=True, membership="gated", ce_weight=0.3, process_group=process_group
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, torch.cat([p.detach().flatten() for p in model.parameters()])


def work(rank, folder):
    # Under torchrun, dist.init_process_group("gloo") is enough.
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORLD)
    torch.set_num_threads(1)
    # A third and two thirds: parts need not be of one size, nor have as many positives.
    x, y = (part.tensor_split([200])[rank] for part in data())
    torch.save(train(x, y, dist.group.WORLD), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (folder,), nprocs=WORLD)
        together = [torch.load(f"{folder}/{rank}.pt") for rank in range(WORLD)]
    alone = train(*data(), None)
    for losses, _ in (*together, alone):
        print(f"loss {losses[0]:.6f} -> {losses[-1]:.6f}")
