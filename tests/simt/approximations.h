// In the place of csrc/cuda/approximations.h: as far off as the hardware's may be, always upwards,
// so that errors add up.
#pragma once

#include <cfloat>
#include <cmath>

namespace softcm {

inline float approximate_exp2(float x) {
  if (x == 0) return 1.0f;
  const float y = static_cast<float>(std::exp2(static_cast<double>(x)) * (1 + 0x1p-22));
  return y < FLT_MIN ? 0.0f : y;  // NaN stays
}

inline float approximate_reciprocal(float x) {
  return static_cast<float>((1 + 0x1p-23) / static_cast<double>(x));
}

}  // namespace softcm
