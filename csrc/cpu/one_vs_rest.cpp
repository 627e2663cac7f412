// Binary logits of each class against the rest, z' with sigmoid(z'_c) = softmax(z)_c, and back.
//
//     z'_c = z_c - log(sum over j != c of exp(z_j))
//     dz'_c/dz_c = 1,  dz'_c/dz_j = -p_j / (1 - p_c)
// Nothing here loses digits where a probability is close to 0 or to 1: of a class other than the
// top one p <= 1/2, so that 1 - p is harmless, and the top one has a sum of its own.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <limits>
#include <vector>

#include "../arguments.h"
#include "../elementary.h"
#include "parallel.h"
#include "samples.h"
#include "vectorize.h"

namespace softcm {
namespace {

// The classes of one sample, padded to a multiple of kLanes with logits of -inf.
template <class T>
struct Row {
  explicit Row(int64_t classes)
      : z(padded(classes), -std::numeric_limits<T>::infinity()), other(z.size()), grad(z.size()) {}

  static int64_t padded(int64_t classes) { return (classes + kLanes - 1) / kLanes * kLanes; }

  std::vector<T> z;      // logits
  std::vector<T> other;  // z', or what is to be added to it
  std::vector<T> grad;   // dL/dz', 0 in the padding
};

// The largest logit, its class, and the largest of the others.
template <class T>
struct Top {
  int64_t index = 0;
  T largest, second = -std::numeric_limits<T>::infinity();

  explicit Top(const std::vector<T>& z) : largest(z[0]) {
    for (size_t j = 1; j < z.size(); ++j) {
      if (z[j] > largest) {
        second = largest;
        largest = z[j];
        index = static_cast<int64_t>(j);
      } else if (z[j] > second) {
        second = z[j];
      }
    }
  }
};

// exp(z - shift) into e, 0 at class skip; returns the sum.
template <class T>
SOFTCM_CLONES T exponentials(const T* __restrict z, int64_t count, T shift, int64_t skip,
                             T* __restrict e) {
  alignas(64) double totals[kLanes] = {};
  for (int64_t begin = 0; begin < count; begin += kTerms * kLanes) {
    const int64_t end = std::min(count, begin + kTerms * kLanes);
    alignas(64) T lanes[kLanes] = {};
    for (int64_t i = begin; i < end; i += kLanes) {
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) {
        const T value = exp_nonpositive(z[i + l] - shift);
        const T kept = i + l == skip ? T(0) : value;
        e[i + l] = kept;
        lanes[l] = lanes[l] + kept;
      }
    }
    for (int64_t l = 0; l < kLanes; ++l) totals[l] += static_cast<double>(lanes[l]);
  }
  return static_cast<T>(sum_lanes(totals));
}

// z' of the classes other than the top one, from e = exp(z - largest) and its sum.
template <class T>
SOFTCM_CLONES void others(const T* __restrict z, int64_t count, T largest, T sum, T log_sum,
                          T* __restrict e) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    e[i] = ((z[i] - largest) - log_sum) + minus_log_one_minus(e[i] / sum);
  }
}

template <class T>
void forward_row(Row<T>& row) {
  const Top<T> top(row.z);
  const int64_t count = static_cast<int64_t>(row.z.size());
  const T rest = exponentials(row.z.data(), count, top.second, top.index, row.other.data());
  // With the others at -inf the top class is certain.
  const T of_top = top.second == -std::numeric_limits<T>::infinity()
                       ? top.largest - top.second
                       : (top.largest - top.second) - std::log(rest);
  const T sum = T(1) + exponentials(row.z.data(), count, top.largest, top.index, row.other.data());
  others(row.z.data(), count, top.largest, sum, std::log(sum), row.other.data());
  // A NaN among the others, which is larger than nothing, shows in the sum alone.
  row.other[top.index] = sum == sum ? of_top : sum;
}

// g_c / (1 - p_c) into ratio, 0 at the top class, and p into p; returns the sum of ratio.
template <class T>
SOFTCM_CLONES T ratios(const T* __restrict output, const T* __restrict grad, int64_t count,
                       int64_t top, T* __restrict p, T* __restrict ratio) {
  alignas(64) double totals[kLanes] = {};
  for (int64_t begin = 0; begin < count; begin += kTerms * kLanes) {
    const int64_t end = std::min(count, begin + kTerms * kLanes);
    alignas(64) T lanes[kLanes] = {};
    for (int64_t i = begin; i < end; i += kLanes) {
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) {
        const T z = output[i + l];
        const T e = exp_nonpositive(z < T(0) ? z : -z);
        const T large = T(1) / (T(1) + e), small = e * large;
        const T value = grad[i + l] * (T(1) + e);  // 1 - p = 1 / (1 + e) where p <= 1/2
        const T kept = i + l == top ? T(0) : value;
        p[i + l] = z < T(0) ? small : large;
        ratio[i + l] = kept;
        lanes[l] = lanes[l] + kept;
      }
    }
    for (int64_t l = 0; l < kLanes; ++l) totals[l] += static_cast<double>(lanes[l]);
  }
  return static_cast<T>(sum_lanes(totals));
}

template <class T>
void backward_row(Row<T>& row, int64_t classes, std::vector<T>& p, std::vector<T>& ratio) {
  const Top<T> top(row.z);
  const int64_t count = static_cast<int64_t>(row.z.size());
  const T sum = ratios(row.other.data(), row.grad.data(), count, top.index, p.data(), ratio.data());
  const T of_top = row.grad[top.index];
  for (int64_t j = 0; j < classes; ++j) row.grad[j] -= p[j] * (sum - ratio[j]);
  // The top class's z' depends on the others by the softmax among them.
  if (top.second == -std::numeric_limits<T>::infinity()) return;
  T* among_others = row.other.data();
  const T rest = exponentials(row.z.data(), count, top.second, top.index, among_others);
  for (int64_t j = 0; j < classes; ++j) row.grad[j] -= of_top * (among_others[j] / rest);
}

// Runs f(offset of a sample's first class) in parallel.
template <class F>
void for_samples(const Rows& rows, const F& f) {
  constexpr int64_t kGrain = 4096;  // elements that are worth a task
  const int64_t grain = std::max<int64_t>(1, kGrain / rows.classes);
  for_parts(rows.n * rows.stride, grain, [&](int64_t first, int64_t last) {
    f([&](const auto& body) {
      for (int64_t s = first; s < last; ++s) {
        body(s / rows.stride * rows.classes * rows.stride + s % rows.stride);
      }
    });
  });
}

template <class T>
void forward_as(const Rows& rows, const T* z, T* output) {
  for_samples(rows, [&](const auto& each) {
    Row<T> row(rows.classes);
    each([&](int64_t offset) {
      for (int64_t c = 0; c < rows.classes; ++c) row.z[c] = z[offset + c * rows.stride];
      forward_row(row);
      for (int64_t c = 0; c < rows.classes; ++c) output[offset + c * rows.stride] = row.other[c];
    });
  });
}

template <class T>
void backward_as(const Rows& rows, const T* grad, const T* z, const T* output, T* grad_z) {
  for_samples(rows, [&](const auto& each) {
    Row<T> row(rows.classes);
    std::vector<T> p(row.z.size()), ratio(row.z.size());
    each([&](int64_t offset) {
      for (int64_t c = 0; c < rows.classes; ++c) {
        const int64_t i = offset + c * rows.stride;
        row.z[c] = z[i];
        row.other[c] = output[i];
        row.grad[c] = grad[i];
      }
      backward_row(row, rows.classes, p, ratio);
      for (int64_t c = 0; c < rows.classes; ++c) grad_z[offset + c * rows.stride] = row.grad[c];
    });
  });
}

Tensor one_vs_rest_logits(const Tensor& input) {
  const Rows rows = rows_of(input, input);
  const Tensor z = to_contiguous(input);
  Tensor output = empty_contiguous_like(z);
  if (z.scalar_type() == ScalarType::Double) {
    forward_as(rows, z.const_data_ptr<double>(), output.mutable_data_ptr<double>());
  } else {
    forward_as(rows, z.const_data_ptr<float>(), output.mutable_data_ptr<float>());
  }
  return output;
}

Tensor one_vs_rest_logits_backward(const Tensor& grad_output, const Tensor& input,
                                   const Tensor& output) {
  rows_of(input, output);
  const Rows rows = rows_of(input, grad_output);
  const Tensor g = to_contiguous(grad_output), z = to_contiguous(input), y = to_contiguous(output);
  Tensor grad = empty_contiguous_like(z);
  if (z.scalar_type() == ScalarType::Double) {
    backward_as(rows, g.const_data_ptr<double>(), z.const_data_ptr<double>(),
                y.const_data_ptr<double>(), grad.mutable_data_ptr<double>());
  } else {
    backward_as(rows, g.const_data_ptr<float>(), z.const_data_ptr<float>(),
                y.const_data_ptr<float>(), grad.mutable_data_ptr<float>());
  }
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(softcm, CPU, m) {
  m.impl("one_vs_rest_logits", TORCH_BOX(&one_vs_rest_logits));
  m.impl("one_vs_rest_logits_backward", TORCH_BOX(&one_vs_rest_logits_backward));
}

}  // namespace softcm
