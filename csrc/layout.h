// A call as the kernels take it: addresses, strides and options, without torch's tensors.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>

#include "elementary.h"

namespace softcm {

using torch::headeronly::ScalarType;

enum class Kind { kLinear, kSigmoid, kStep, kTable };

// Where the elements of a tensor (N, C, L) stand, see Batch::offset().
struct Strides {
  int64_t n, c, l;
  int64_t sample = 0;  // of N, where each sample has counts of its own
};

// The samples of contiguous logits (N, C, *): N times stride of them, whose classes stand stride
// elements apart.
struct Rows {
  int64_t n, classes, stride;
};

// A tensor's memory.
struct Array {
  const void* data = nullptr;  // null: there is no such tensor
  ScalarType dtype = ScalarType::Float;
  Strides stride = {0, 0, 0};
  int64_t element_size = 0;
};

struct Batch {
  // n x inner samples in each group, where n is 1 wherever the samples of a group have one stride
  // in every tensor. A group has counts of its own: it is a class, or with per_sample a class of
  // one sample (N * C groups, with the *-dimensions of the input as the samples of a group).
  int64_t n, groups, inner, thresholds;
  int64_t classes;
  Array input, target, weight;
  Array threshold;      // (T,), or (C, T) where each class has its own
  bool own_thresholds;  // of each class
  Array pos_weight;     // (C,), of which stride.l counts
  Strides contiguous;   // of a contiguous tensor of the shape of input
  bool ignore;          // targets equal to ignore_index
  int64_t ignore_index;
  bool ignore_nan;     // targets that are NaN
  bool class_indices;  // target holds a class for each sample, not a label for each class
  bool gated, per_sample, from_logits;
  Kind kind;
  double parameter;
  const float* table;  // of kTable: (2, T, Q) or (2, C * T, Q), h and dh/dp at each level of p

  SOFTCM_HD int64_t class_of(int64_t group) const { return per_sample ? group % classes : group; }

  // The first sample of a group.
  SOFTCM_HD int64_t offset(const Strides& stride, int64_t group) const {
    if (!per_sample) return group * stride.c;
    return group / classes * stride.sample + group % classes * stride.c;
  }

  // Whether ignore_index names the class of a group: such a class has no sample that counts.
  SOFTCM_HD bool ignores_class(int64_t group) const {
    return ignore && class_indices && class_of(group) == ignore_index;
  }

  SOFTCM_HD int64_t threshold_rows() const { return own_thresholds ? classes : 1; }

  SOFTCM_HD int64_t samples() const { return n * inner; }
  SOFTCM_HD bool float64() const { return input.dtype == ScalarType::Double; }
};

}  // namespace softcm
