// What the kernels of all devices are told of a call's tensors and options, without torch.
#pragma once

#include <cstdint>

namespace softcm {

enum class Kind { kLinear, kSigmoid, kStep };

// Element (n, c, l) of a tensor (N, C, L) stands at n * stride.n + c * stride.c + l * stride.l.
struct Strides {
  int64_t n, c, l;
};

}  // namespace softcm
