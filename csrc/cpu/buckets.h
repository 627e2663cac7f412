// Buckets of probabilities between sorted knots, and the sums of the samples of each bucket.
//
// Bucket b holds the p with knots[b - 1] <= p < knots[b]. NaN falls into bucket 0, whose sums of
// small it spoils.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels.h"
#include "samples.h"

namespace softcm {
namespace {

// What is summed up for each bucket, of both labels: the weight, and weight times the smaller of p
// and 1 - p. The smaller one, as a sum of nearly equal p close to 1 would not tell 1 - p.
struct BucketSums {
  double weight1 = 0, weight0 = 0, small1 = 0, small0 = 0;
};

// The gradient of a sample is weight of its positive row * positive + the same of its negative row.
template <class T>
struct BucketSlope {
  T positive, negative;
};

// How find reaches the bucket of a probability: the first one of a cell of a regular grid, and from
// there a binary search among the knots within the cell, of which there are few or none.
template <class T>
struct BucketSearch {
  const T* knots;
  const int32_t* first;  // bucket in which each cell begins
  T cells;
  int32_t step;  // power of two; a cell has less than 2 * step knots
};

template <class T>
class Buckets {
 public:
  // Ascending knots in [0, 1]; 1/2 is added, at which the smaller of p and 1 - p changes.
  explicit Buckets(std::vector<T> knots) : knots_(std::move(knots)) {
    knots_.insert(std::upper_bound(knots_.begin(), knots_.end(), T(0.5)), T(0.5));
    knots_.erase(std::unique(knots_.begin(), knots_.end()), knots_.end());
    size_ = static_cast<int64_t>(knots_.size()) + 1;

    // Cells for about half a knot each. More would not help: upper breakpoints often stand next to
    // other knots, as close as two numbers can.
    int64_t cells = 64;
    while (cells < 2 * size_ && cells < kMostCells) cells *= 2;
    std::vector<int32_t> inside(cells + 1);
    for (const T knot : knots_) ++inside[static_cast<int64_t>(knot * static_cast<T>(cells))];
    const int32_t most = *std::max_element(inside.begin(), inside.end());
    cells_ = static_cast<T>(cells);
    first_.assign(1, 0);
    for (int64_t c = 0; c < cells; ++c) first_.push_back(first_[c] + inside[c]);
    while (2 * step_ <= most) step_ *= 2;
    knots_.resize(knots_.size() + 2 * step_, std::numeric_limits<T>::quiet_NaN());
  }

  int64_t size() const { return size_; }
  BucketSearch<T> search() const { return {knots_.data(), first_.data(), cells_, step_}; }

  // The bucket of p, which begins at p if that is a knot.
  int64_t at(T p) const {
    int32_t bucket = first_[static_cast<int64_t>(p * cells_)];
    for (int32_t step = step_; step > 0; step /= 2) {
      if (knots_[bucket + step - 1] <= p) bucket += step;
    }
    return bucket;
  }

 private:
  static constexpr int64_t kMostCells = 8192;  // 32 KiB
  std::vector<T> knots_;  // followed by NaN, which no p of the search reaches, not even infinity
  std::vector<int32_t> first_;
  int64_t size_;
  T cells_;
  int32_t step_ = 1;
};

// What there is among the p and the labels of a block. kOutOfRange: a value that nobody has checked
// may be out of [0, 1].
enum class Values { kNumbers, kNaN, kOutOfRange };

template <class T, class Samples>
SOFTCM_CLONES Values look_at(const Samples& s, int64_t count) {
  alignas(64) decltype(s.unchecked_bits(0)) largest[kLanes] = {};
  alignas(64) T nan[kLanes] = {};  // or 0
  for (int64_t i = 0; i < count; i += kLanes) {
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) {
      const auto bits = s.unchecked_bits(i + l), before = largest[l];
      largest[l] = bits > before ? bits : before;
      nan[l] = nan[l] + (s.p(i + l) - s.p(i + l));
    }
  }
  for (int64_t l = 1; l < kLanes; ++l) largest[0] = std::max(largest[0], largest[l]);
  if (largest[0] > ordered_bits(T(1))) return Values::kOutOfRange;
  const double sum = sum_lanes(nan);
  return sum == sum ? Values::kNumbers : Values::kNaN;
}

// The buckets of count samples, whatever their p: what is no probability is told of afterwards.
template <class T, class Samples>
SOFTCM_CLONES void find_buckets(const BucketSearch<T>& search, const Samples& s, int64_t count,
                                int32_t* __restrict bucket) {
  const T* __restrict knots = search.knots;
  const int32_t* __restrict first = search.first;
  const T cells = search.cells;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const T p = s.p(i);
    const T positive = p > T(0) ? p : T(0);  // NaN as 0
    const T bounded = positive < T(1) ? positive : T(1);
    bucket[i] = first[static_cast<int32_t>(bounded * cells)];
  }
  for (int32_t step = search.step; step > 0; step /= 2) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const int32_t b = bucket[i];
      bucket[i] = knots[b + step - 1] <= s.p(i) ? b + step : b;
    }
  }
}

// Sums side by side, so that samples which all fall into one bucket need not wait for each other.
constexpr int64_t kBucketCopies = 4;

// From kBucketCopies x count numbers to count.
inline void fold_copies(const double* copies, int64_t count, double* sums) {
  static_assert(kBucketCopies == 4);
  for (int64_t i = 0; i < count; ++i) {
    sums[i] = (copies[i] + copies[count + i]) + (copies[2 * count + i] + copies[3 * count + i]);
  }
}

// Adds count samples, a multiple of kBucketCopies, to kBucketCopies x size sums.
template <class T, class Samples>
SOFTCM_CLONES void add_to_buckets(const Samples& s, int64_t count, const int32_t* __restrict bucket,
                                  int64_t size, BucketSums* __restrict sums) {
  for (int64_t i = 0; i < count; i += kBucketCopies) {
    for (int64_t copy = 0; copy < kBucketCopies; ++copy) {
      const T p = s.p(i + copy), w1 = s.w1(i + copy), w0 = s.w0(i + copy);
      const T small = p < T(0.5) ? p : s.q(i + copy);
      BucketSums& to = sums[copy * size + bucket[i + copy]];
      to.weight1 += static_cast<double>(w1);
      to.weight0 += static_cast<double>(w0);
      to.small1 += static_cast<double>(w1 * small);
      to.small0 += static_cast<double>(w0 * small);
    }
  }
}

template <class T, class Samples>
SOFTCM_CLONES void bucket_gradient(const BucketSlope<T>* __restrict slopes, const Samples& s,
                                   int64_t count, const int32_t* __restrict bucket,
                                   T* __restrict grad) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const BucketSlope<T> slope = slopes[bucket[i]];
    grad[i] = s.w1(i) * slope.positive + s.w0(i) * slope.negative;
  }
}

}  // namespace
}  // namespace softcm
