// The operators' schemas; arguments.cpp has the rules of their arguments.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include "arguments.h"

namespace softcm {

#define SOFTCM_BATCH SOFTCM_ARGUMENTS(SOFTCM_SCHEMA)
#define SOFTCM_LOSS SOFTCM_BATCH SOFTCM_LOSS_ARGUMENTS(SOFTCM_SCHEMA)

STABLE_TORCH_LIBRARY(softcm, m) {
  // C stands for the groups that have counts of their own: classes, or N * C with per_sample.
  // Counts (C, T, 4) in the order TP, FN, FP, TN; totals (C, 3): weight of the counted samples, of
  // the positive and of the negative rows; cross-entropy sums (C,). All float64.
  m.def("soft_counts(" SOFTCM_BATCH "bool with_cross_entropy) -> (Tensor, Tensor, Tensor)");
  // From dL/dcounts (C, T, 4) and dL/dcross_entropy (C,), both times grad_loss (() or (C,)):
  // dL/dinput, and dL/dthreshold in float64 if asked for (otherwise empty).
  m.def("soft_counts_backward(" SOFTCM_BATCH
        "Tensor grad_counts, Tensor grad_cross_entropy, Tensor? grad_loss, bool threshold_grad) "
        "-> (Tensor, Tensor)");
  // The loss of a linear-fractional metric, its gradients in the counts and cross-entropy sums, and
  // (with_grad, otherwise empty) in the input. metric holds the ten numbers a, a0, b, b0.
  m.def("fractional_loss(" SOFTCM_LOSS
        "Tensor metric, bool with_grad) -> (Tensor, Tensor, Tensor, Tensor)");
  // The same of a metric that has a name: balanced_accuracy, gmean, informedness, mcc, kappa, auroc
  // or auprc (the last two of ascending thresholds).
  m.def("composite_loss(" SOFTCM_LOSS
        "str metric, bool with_grad) -> (Tensor, Tensor, Tensor, Tensor)");
  // For class indices: binary logits (N, C, *) of each class against the rest, from those of a
  // softmax over dimension 1; float32 or float64.
  m.def("one_vs_rest_logits(Tensor input) -> Tensor");
  m.def("one_vs_rest_logits_backward(Tensor grad_output, Tensor input, Tensor output) -> Tensor");
}

}  // namespace softcm

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}
