// The operators' schemas; problem.cpp has the rules of their arguments.
#include <Python.h>
#include <torch/csrc/stable/library.h>

namespace softcm {

STABLE_TORCH_LIBRARY(softcm, m) {
  // Counts (C, T, 4) in the order TP, FN, FP, TN; totals (C, 2): weight of the counted samples and
  // of the positives; cross-entropy sums (C,). All float64.
  m.def(
      "soft_counts(Tensor input, Tensor target, Tensor threshold, Tensor? weight, "
      "Tensor? pos_weight, Tensor? table, int? ignore_index, str heaviside, float parameter, "
      "str membership, bool from_logits, bool with_cross_entropy) -> (Tensor, Tensor, Tensor)");
  // From dL/dcounts (C, T, 4) and dL/dcross_entropy (C,), both times grad_loss (() or (C,)):
  // dL/dinput, and dL/dthreshold (T,) float64 if asked for (otherwise empty).
  m.def(
      "soft_counts_backward(Tensor grad_counts, Tensor grad_cross_entropy, Tensor? grad_loss, "
      "Tensor input, Tensor target, Tensor threshold, Tensor? weight, Tensor? pos_weight, "
      "Tensor? table, int? ignore_index, str heaviside, float parameter, str membership, "
      "bool from_logits, bool threshold_grad) -> (Tensor, Tensor)");
  // The loss of a linear-fractional metric, its gradients in the counts and cross-entropy sums, and
  // (with_grad, otherwise empty) in the input. metric holds the ten numbers a, a0, b, b0.
  m.def(
      "fractional_loss(Tensor input, Tensor target, Tensor threshold, Tensor? weight, "
      "Tensor? pos_weight, Tensor? table, int? ignore_index, str heaviside, float parameter, "
      "str membership, bool from_logits, Tensor metric, bool maximize, str average, float "
      "zero_division, "
      "float bce_weight, bool with_grad) -> (Tensor, Tensor, Tensor, Tensor)");
  // The same of a metric that has a name: balanced_accuracy, gmean, informedness, mcc, kappa, auroc
  // or auprc (the last two of ascending thresholds).
  m.def(
      "composite_loss(Tensor input, Tensor target, Tensor threshold, Tensor? weight, "
      "Tensor? pos_weight, Tensor? table, int? ignore_index, str heaviside, float parameter, "
      "str membership, bool from_logits, str metric, bool maximize, str average, float "
      "zero_division, "
      "float bce_weight, bool with_grad) -> (Tensor, Tensor, Tensor, Tensor)");
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
