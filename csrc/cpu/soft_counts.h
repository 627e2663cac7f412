// The two passes over the samples that every operator is made of.
#pragma once

#include <vector>

#include "../loss.h"
#include "../problem.h"

namespace softcm {

struct BatchSums {
  std::vector<Counts> counts;       // (C, T)
  std::vector<ClassTotals> totals;  // (C)
};

// The four counts of each class and threshold, and the totals of each class. Throws for a value
// outside its range.
BatchSums sum_samples(const Problem& problem, bool with_cross_entropy);

// dL/dinput into a contiguous tensor of the shape and dtype of input, from dL/dcounts (C, T) and
// dL/dcross_entropy (C); returns dL/dthreshold (T) if asked for.
std::vector<double> write_gradient(const Problem& problem, const std::vector<Counts>& grad_counts,
                                   const std::vector<double>& grad_cross_entropy,
                                   bool threshold_grad, const Tensor& grad_input);

}  // namespace softcm
