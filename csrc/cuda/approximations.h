// 2^x and 1 / x as a GPU has them, one instruction each: within 2 and 1 units in the last place
// (CUDA C++ Programming Guide, exp2f and division without -prec-div, which are made of them). 2^0
// is exactly 1, and what is below 2^-126 comes as 0.
#pragma once

namespace softcm {

__device__ __forceinline__ float approximate_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float approximate_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace softcm
