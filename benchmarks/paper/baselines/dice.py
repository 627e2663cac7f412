"""The Dice loss of image segmentation.

Milletari, Navab and Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical
Image Segmentation", 3DV 2016, Section 3, the equation of the Dice coefficient:

    D = 2 sum_i p_i y_i / (sum_i p_i^2 + sum_i y_i^2)

The paper (Supplement 5.4) compares with it twice: "Dice" takes the raw outputs of the network in
place of p, "Dice^s" their sigmoid.
"""

from torch import Tensor


def dice_loss(p: Tensor, y: Tensor) -> Tensor:
    """1 - D, (S,), of y and p (N, S), which may be raw outputs; 1 where all are 0."""
    denominator = (p * p).sum(dim=0) + (y * y).sum(dim=0)
    nothing = denominator == 0
    return 1 - 2 * (p * y).sum(dim=0) / denominator.masked_fill(nothing, 1)
