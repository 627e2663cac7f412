"""As few false positives as possible with a recall of at least 0.9 on the whole training set.

Cooper trains the classifier and the constraint's Lagrange multiplier together, with a proxy: the
soft counts of each batch give the gradient, while the multiplier follows the hard counts of all
samples, which are what is asked for and have no gradient.
"""

import copy

import cooper
import torch
from sklearn.datasets import make_classification
from torch.utils.data import DataLoader, TensorDataset

import softcm

LEAST_RECALL = 0.9

torch.manual_seed(0)
x, y = make_classification(
    n_samples=4000, n_features=10, n_informative=5, weights=[0.95], random_state=0
)
x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)  # one in twenty is positive
model = torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
soft = {"from_logits": True, "membership": "gated"}


class FewFalsePositives(cooper.ConstrainedMinimizationProblem):
    def __init__(self):
        super().__init__()
        self.recall = cooper.Constraint(
            constraint_type=cooper.ConstraintType.INEQUALITY,  # violation <= 0
            multiplier=cooper.multipliers.DenseMultiplier(num_constraints=1),
        )

    def compute_cmp_state(self, features, labels, hard):
        logits = model(features)
        counts = softcm.soft_confusion_matrix(logits, labels, **soft)
        recall = cooper.ConstraintState(
            violation=LEAST_RECALL - softcm.metrics.recall(counts),
            strict_violation=LEAST_RECALL - softcm.metrics.recall(hard).float(),
        )
        # The share of negatives that are false positives, and a little cross-entropy.
        loss = softcm.specificity_loss(logits, labels, ce_weight=0.1, **soft)
        return cooper.CMPState(loss=loss, observed_constraints={self.recall: recall})


def count():
    """Of a larger data set, the counts of its batches add up."""
    with torch.no_grad():
        return softcm.confusion_matrix(model(x), y, from_logits=True)


problem = FewFalsePositives()
optimizer = cooper.optim.SimultaneousOptimizer(
    problem,
    primal_optimizers=torch.optim.Adam(model.parameters(), lr=0.02),
    dual_optimizers=torch.optim.SGD(problem.dual_parameters(), lr=0.5, maximize=True),
)
batches = DataLoader(TensorDataset(x, y), batch_size=250, shuffle=True)
hard, best, recalls = count(), None, []
for _ in range(40):
    for features, labels in batches:
        optimizer.roll(
            compute_cmp_state_kwargs={"features": features, "labels": labels, "hard": hard}
        )
    hard = count()
    recalls.append(softcm.metrics.recall(hard).item())
    # Training goes to and fro across the constraint: keep the best of where it holds.
    if recalls[-1] >= LEAST_RECALL and (best is None or hard.fp < best.fp):
        best, weights = hard, copy.deepcopy(model.state_dict())

model.load_state_dict(weights)
hard = count()
recall, precision = softcm.metrics.recall(hard).item(), softcm.metrics.precision(hard).item()
multiplier = problem.recall.multiplier().item()
print(f"recall {recalls[0]:.3f} -> {recall:.3f}, multiplier {multiplier:.2f}")
print(f"precision {precision:.3f}, {hard.fp:.0f} false positives of {(y == 0).sum()} negatives")
