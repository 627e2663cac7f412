// The two passes over the samples that every operator is made of.
#pragma once

#include <vector>

#include "../arguments.h"

namespace softcm {

struct BatchSums {
  std::vector<Counts> counts;       // (groups, T)
  std::vector<ClassTotals> totals;  // (groups)
};

// The four counts of each group and threshold, and the totals of each group. Throws for a value
// outside its range.
BatchSums sum_samples(const Batch& batch, bool with_cross_entropy);

// From above: dL/dcounts (groups, T) and dL/dcross_entropy (groups).
struct Gradients {
  std::vector<Counts> counts;
  std::vector<double> cross_entropy;
};

// dL/dinput into a contiguous tensor of the shape and dtype of input; returns dL/dthreshold, in the
// shape of the thresholds, if asked for.
std::vector<double> write_gradient(const Batch& batch, const Gradients& gradients,
                                   bool threshold_grad, const Tensor& grad_input);

}  // namespace softcm
