// A call as the kernels of a GPU take it: addresses, strides and options, without torch's tensors.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>

namespace softcm {

using torch::headeronly::ScalarType;

enum class Kind { kLinear, kSigmoid, kStep, kTable };

// Element (n, c, l) of a tensor (N, C, L) stands at n * stride.n + c * stride.c + l * stride.l.
struct Strides {
  int64_t n, c, l;
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
  int64_t n, classes, inner, thresholds;
  Array input, target, weight;
  Array threshold, pos_weight;  // small vectors, of which stride.l counts
  Strides contiguous;           // of a contiguous tensor of the shape of input
  bool ignore;
  int64_t ignore_index;
  bool class_indices, gated, from_logits;
  Kind kind;
  double parameter;
  const float* table;  // of kTable: (2, T, Q), h and dh/dp at each level of p
};

}  // namespace softcm
