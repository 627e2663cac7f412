"""Losses from the metrics of a confusion matrix, for binary and multi-label classifiers."""

from . import metrics
from .backends import available_backends
from .confusion import ConfusionMatrix, confusion_matrix, soft_confusion_matrix
from .heaviside import Linear, Sigmoid, heaviside
from .losses import (
    accuracy_loss,
    auprc_loss,
    auroc_loss,
    balanced_accuracy_loss,
    confusion_loss,
    cost_loss,
    f1_loss,
    fbeta_loss,
    gmean_loss,
    informedness_loss,
    jaccard_loss,
    kappa_loss,
    mcc_loss,
    precision_loss,
    recall_loss,
    specificity_loss,
    tversky_loss,
)
from .metrics import LinearFractional
from .modules import (
    AccuracyLoss,
    AUPRCLoss,
    AUROCLoss,
    BalancedAccuracyLoss,
    ConfusionLoss,
    CostLoss,
    F1Loss,
    FBetaLoss,
    GMeanLoss,
    InformednessLoss,
    JaccardLoss,
    KappaLoss,
    MCCLoss,
    PrecisionLoss,
    RecallLoss,
    SpecificityLoss,
    TverskyLoss,
)

__version__ = "0.1.0"
