// exp and logarithms that a compiler can vectorise, with the same bits on every instruction set.
//
// The float versions are straight-line code: selects, no branches, no table. Float64 takes the
// library's functions, which no vector loop waits for. A GPU has instructions of its own for 2^x
// and 1 / x, without which exp and a division would be most of what a sample takes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define SOFTCM_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define SOFTCM_HD __attribute__((always_inline)) inline
#else
#define SOFTCM_HD inline
#endif

// SOFTCM_EMULATED: a build of the CUDA part for the CPU, with approximations of its own.
#if defined(__CUDA_ARCH__) || defined(SOFTCM_EMULATED)
#define SOFTCM_APPROXIMATIONS
#include "cuda/approximations.h"
#endif

namespace softcm {

SOFTCM_HD int32_t float_bits(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

SOFTCM_HD uint64_t double_bits(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

SOFTCM_HD double double_from_bits(uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

SOFTCM_HD float float_from_bits(int32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// exp(r) for |r| <= ln(2) / 2, by Taylor's series to r^7: what is left out is below 6e-9.
SOFTCM_HD float exp_series(float r) {
  float series = 1.98412698e-4f;
  series = series * r + 1.38888889e-3f;
  series = series * r + 8.33333333e-3f;
  series = series * r + 4.16666667e-2f;
  series = series * r + 1.66666667e-1f;
  series = series * r + 0.5f;
  return (series * (r * r) + r) + 1.0f;
}

// exp(x) for x <= 0; below -87 the result stays at exp(-87), which is far below any rounding here.
SOFTCM_HD float exp_nonpositive(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
#if defined(SOFTCM_APPROXIMATIONS)
  const float power = clamped * 1.44269504f;
  const float rest = fmaf(power, -0.693147182f, clamped);  // what power has lost by its rounding
  const float rounded = approximate_exp2(power);
  return fmaf(rounded, rest, rounded);
#else
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  const float shifted = clamped * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  const int32_t exponent = float_bits(shifted) - 0x4b400000;
  return exp_series(r) * float_from_bits((exponent + 127) << 23);
#endif
}

SOFTCM_HD double exp_nonpositive(double x) { return std::exp(x); }

// x / y for y in [1, 2], within 2 units in the last place.
SOFTCM_HD float ratio(float x, float y) {
#if defined(SOFTCM_APPROXIMATIONS)
  return x * approximate_reciprocal(y);
#else
  return x / y;
#endif
}

SOFTCM_HD double ratio(double x, double y) { return x / y; }

// exp(x) for |x| <= 87, of an x with more digits than float has.
SOFTCM_HD float exp_of_double(double x) {
  const double shifted = x * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52
  const double n = shifted - 6755399441055744.0;
  const float r = static_cast<float>(x - n * 0.6931471805599453);
  const uint32_t exponent = static_cast<uint32_t>(double_bits(shifted));
  return exp_series(r) * float_from_bits(static_cast<int32_t>((exponent + 127) << 23));
}

// 2 atanh(s) for 0 <= s <= 1/3, to s^17.
SOFTCM_HD float twice_atanh(float s) {
  const float square = s * s;
  float series = 2.0f / 17.0f;
  series = series * square + 2.0f / 15.0f;
  series = series * square + 2.0f / 13.0f;
  series = series * square + 2.0f / 11.0f;
  series = series * square + 2.0f / 9.0f;
  series = series * square + 2.0f / 7.0f;
  series = series * square + 2.0f / 5.0f;
  series = series * square + 2.0f / 3.0f;
  return (series * square) * s + (s + s);
}

// log(1 + x) for 0 <= x <= 1.
SOFTCM_HD float log_one_plus(float x) { return twice_atanh(x / (2.0f + x)); }
SOFTCM_HD double log_one_plus(double x) { return std::log1p(x); }

// -log(1 - x) for 0 <= x <= 1/2.
SOFTCM_HD float minus_log_one_minus(float x) { return twice_atanh(x / (2.0f - x)); }
SOFTCM_HD double minus_log_one_minus(double x) { return -std::log1p(-x); }

// -log(x) for 0 <= x <= 1/2, at most 100, as torch.nn.functional.binary_cross_entropy bounds it.
SOFTCM_HD float minus_log(float x) {
  const bool subnormal = x < 1.17549435e-38f;
  const float normal = subnormal ? x * 16777216.0f : x;
  const float shift = subnormal ? 24.0f : 0.0f;
  // x = 2^e m with m in [1/sqrt(2), sqrt(2)); 0x3f3504f3 is 1/sqrt(2). Unsigned, for -0.
  const uint32_t bits = static_cast<uint32_t>(float_bits(normal));
  const int32_t offset = static_cast<int32_t>(bits - 0x3f3504f3u);
  const int32_t e = offset >> 23;
  const float m = float_from_bits((offset & 0x007fffff) + 0x3f3504f3);
  const float s = (m - 1.0f) / (m + 1.0f);
  const float n = static_cast<float>(e) - shift;
  const float value = -(n * 0.693359375f + (twice_atanh(s) - n * 2.12194440e-4f));
  const float bounded = value > 100.0f ? 100.0f : value;
  const float at_zero = x == 0.0f ? 100.0f : bounded;
  return x != x ? x : at_zero;
}

SOFTCM_HD double minus_log(double x) {
  const double value = -std::log(x);
  return value > 100.0 ? 100.0 : value;
}

}  // namespace softcm
