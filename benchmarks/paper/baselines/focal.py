"""The focal loss: cross-entropy that cares less for what is already right.

Lin, Goyal, Girshick, He and Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, eq. (5):

    FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t)

with p_t = p, alpha_t = alpha for a positive and p_t = 1 - p, alpha_t = 1 - alpha for a negative.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def focal_loss(z: Tensor, y: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The mean over the samples, (S,), of logits z and labels y (N, S).

    The published one is a sum over the samples, divided by the number of objects.
    """
    signed = z * (2 * y - 1)  # log p_t = logsigmoid(signed), 1 - p_t = sigmoid(-signed)
    alpha_t = alpha * y + (1 - alpha) * (1 - y)
    return -(alpha_t * (gamma * logsigmoid(-signed)).exp() * logsigmoid(signed)).mean(dim=0)
