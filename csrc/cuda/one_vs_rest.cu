// Binary logits of each class against the rest, and back; cpu/one_vs_rest.cpp has the formulas.
//
// kLanes lanes of a warp share a sample: 1 where neighbouring samples are neighbours in memory, 32
// where neighbouring classes are.
#include <cmath>

#include "../sample.h"
#include "reduce.cuh"

namespace softcm {
namespace {

// The classes of a sample, stride apart, of which a lane takes every kLanes-th.
template <int kLanes>
struct Row {
  int64_t offset, classes, stride;
  int lane;

  template <class F>
  __device__ __forceinline__ void for_each(const F& f) const {
    for (int64_t c = lane; c < classes; c += kLanes) f(c, offset + c * stride);
  }

  // The sum over the lanes of the sample; 1 lane has it already.
  __device__ __forceinline__ double sum(double value) const {
    return kLanes == 1 ? value : sum_lanes(value, 1);
  }
};

template <class T>
struct Top {
  int64_t index;
  T largest, second;

  // The lower index where two are equal, whatever the order of the lanes.
  __device__ __forceinline__ void merge(int64_t other_index, T other_largest, T other_second) {
    const bool other = other_largest > largest || (other_largest == largest && other_index < index);
    const T loser = other ? largest : other_largest;
    second = second > other_second ? second : other_second;
    second = second > loser ? second : loser;
    index = other ? other_index : index;
    largest = other ? other_largest : largest;
  }
};

template <int kLanes, class T>
__device__ __forceinline__ Top<T> top_of(const Row<kLanes>& row, const T* z) {
  const T kNone = T(-INFINITY);
  Top<T> top{row.classes, kNone, kNone};
  row.for_each([&](int64_t c, int64_t at) { top.merge(c, z[at], kNone); });
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const int64_t index = __shfl_xor_sync(kAllLanes, top.index, distance);
    const T largest = __shfl_xor_sync(kAllLanes, top.largest, distance);
    const T second = __shfl_xor_sync(kAllLanes, top.second, distance);
    top.merge(index, largest, second);
  }
  return top;
}

// The sum of exp(z - shift) over the classes other than the top one.
template <int kLanes, class T>
__device__ __forceinline__ T sum_of_others(const Row<kLanes>& row, const T* z, const Top<T>& top,
                                           T shift) {
  double sum = 0;
  row.for_each([&](int64_t c, int64_t at) {
    if (c != top.index) sum += static_cast<double>(exp_nonpositive(z[at] - shift));
  });
  return static_cast<T>(row.sum(sum));
}

template <int kLanes, class T>
__device__ __forceinline__ void forward_row(const Row<kLanes>& row, const T* z, T* output) {
  const Top<T> top = top_of(row, z);
  const T above = top.largest - top.second;
  const T rest = sum_of_others(row, z, top, top.second);
  const T sum = T(1) + sum_of_others(row, z, top, top.largest);
  const T log_sum = log(sum);
  row.for_each([&](int64_t c, int64_t at) {
    const T distance = z[at] - top.largest;
    // With the others at -inf the top class is certain.
    const bool certain = top.second == T(-INFINITY);
    // A NaN among the others, which is larger than nothing, shows in the sum alone.
    const T of_numbers = certain ? above : above - log(rest);
    const T of_top = sum == sum ? of_numbers : sum;
    const T of_other = (distance - log_sum) + minus_log_one_minus(exp_nonpositive(distance) / sum);
    output[at] = c == top.index ? of_top : of_other;
  });
}

template <int kLanes, class T>
__device__ __forceinline__ void backward_row(const Row<kLanes>& row, const T* grad, const T* z,
                                             const T* output, T* grad_z) {
  const Top<T> top = top_of(row, z);
  // 1 / (1 - p) = 1 + exp(output)
  const auto ratio = [&](int64_t c, int64_t at) {
    return c == top.index ? T(0) : grad[at] / probability(output[at]).q;
  };
  double sum = 0;
  row.for_each([&](int64_t c, int64_t at) { sum += static_cast<double>(ratio(c, at)); });
  const T ratios = static_cast<T>(row.sum(sum));
  // The top class's output depends on the others by the softmax among them.
  const bool certain = top.second == T(-INFINITY);
  const T rest = sum_of_others(row, z, top, top.second);
  T of_top = T(0);
  row.for_each([&](int64_t c, int64_t at) { of_top += c == top.index ? grad[at] : T(0); });
  of_top = static_cast<T>(row.sum(static_cast<double>(of_top)));
  row.for_each([&](int64_t c, int64_t at) {
    T value = grad[at] - probability(output[at]).p * (ratios - ratio(c, at));
    if (c != top.index && !certain) {
      value -= of_top * (exp_nonpositive(z[at] - top.second) / rest);
    }
    grad_z[at] = value;
  });
}

template <int kLanes>
__device__ __forceinline__ Row<kLanes> row_of(const Rows& rows, int64_t sample) {
  const int64_t n = sample / rows.stride, l = sample % rows.stride;
  return {n * rows.classes * rows.stride + l, rows.classes, rows.stride,
          static_cast<int>(threadIdx.x % kLanes)};
}

// Runs f for the samples of a thread; a warp's lanes go through the loop together.
template <int kLanes, class F>
__device__ __forceinline__ void for_samples(const Rows& rows, const F& f) {
  const int64_t step = int64_t{gridDim.x} * (kThreads / kLanes);
  const int64_t first = int64_t{blockIdx.x} * (kThreads / kLanes) + threadIdx.x / kLanes;
  for (int64_t s = first; s < rows.n * rows.stride; s += step) f(row_of<kLanes>(rows, s));
}

template <class T, int kLanes>
SOFTCM_KERNEL(2)
one_vs_rest_kernel(const __grid_constant__ Rows rows, const void* z, void* output) {
  for_samples<kLanes>(rows, [&](const Row<kLanes>& row) {
    forward_row(row, static_cast<const T*>(z), static_cast<T*>(output));
  });
}

template <class T, int kLanes>
SOFTCM_KERNEL(2)
one_vs_rest_backward_kernel(const __grid_constant__ Rows rows, const void* grad, const void* z,
                            const void* output, void* grad_z) {
  for_samples<kLanes>(rows, [&](const Row<kLanes>& row) {
    backward_row(row, static_cast<const T*>(grad), static_cast<const T*>(z),
                 static_cast<const T*>(output), static_cast<T*>(grad_z));
  });
}

bool has_warps(const Rows& rows) { return rows.stride == 1 && rows.classes > 8; }

int64_t blocks_of(const Rows& rows) {
  const int64_t threads = rows.n * rows.stride * (has_warps(rows) ? 32 : 1);
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  return blocks < 1 << 20 ? blocks : 1 << 20;
}

}  // namespace

cudaError_t launch_one_vs_rest(const Rows& rows, bool float64, const void* z, void* output,
                               cudaStream_t stream) {
  const bool warps = has_warps(rows);
  const auto kernel = float64
                          ? (warps ? one_vs_rest_kernel<double, 32> : one_vs_rest_kernel<double, 1>)
                          : (warps ? one_vs_rest_kernel<float, 32> : one_vs_rest_kernel<float, 1>);
  return launch(kernel, blocks_of(rows), stream, rows, z, output);
}

cudaError_t launch_one_vs_rest_backward(const Rows& rows, bool float64, const void* grad,
                                        const void* z, const void* output, void* grad_z,
                                        cudaStream_t stream) {
  const bool warps = has_warps(rows);
  const auto kernel = float64 ? (warps ? one_vs_rest_backward_kernel<double, 32>
                                       : one_vs_rest_backward_kernel<double, 1>)
                              : (warps ? one_vs_rest_backward_kernel<float, 32>
                                       : one_vs_rest_backward_kernel<float, 1>);
  return launch(kernel, blocks_of(rows), stream, rows, grad, z, output, grad_z);
}

}  // namespace softcm
