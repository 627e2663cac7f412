// The quantised approximation (Section 4, "Computational efficiency"): a Method of passes.h.
//
// p is truncated to a level b / Q, and everything else follows from b alone. So the sums of weights
// of each level give all counts, and a sample's gradient is found by its level and label.
#pragma once

#include <limits>
#include <vector>

#include "../heaviside.h"
#include "buckets.h"

namespace softcm {
namespace {

struct LevelSums {
  double weight1 = 0, weight0 = 0;
};

// The levels of count samples.
template <class T, class Samples>
SOFTCM_CLONES void find_levels(const Truncation<T>& truncation, const Samples& s, int64_t count,
                               int32_t* __restrict level) {
  const Truncation<T> truncate = truncation;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) level[i] = truncate(s.p(i));
}

// Adds count samples, a multiple of kBucketCopies, to kBucketCopies x size sums.
template <class T, class Samples>
SOFTCM_CLONES void add_to_levels(const Samples& s, int64_t count, const int32_t* __restrict level,
                                 int64_t size, LevelSums* __restrict sums) {
  for (int64_t i = 0; i < count; i += kBucketCopies) {
    for (int64_t copy = 0; copy < kBucketCopies; ++copy) {
      LevelSums& to = sums[copy * size + level[i + copy]];
      to.weight1 += static_cast<double>(s.w1(i + copy));
      to.weight0 += static_cast<double>(s.w0(i + copy));
    }
  }
}

// Adds the sums of o, which is h at the levels below middle and 1 - h from there on.
SOFTCM_CLONES inline void add_others(const float* h, const double* weight1, const double* weight0,
                                     int64_t middle, int64_t levels, Sums& sums) {
  constexpr int64_t kSide = 8;
  alignas(64) double lanes[4][kSide] = {};
  const auto add = [&](int64_t b, int64_t l) __attribute__((always_inline)) {
    const bool below = b < middle;
    const double of_level = h[b];
    const double o = below ? of_level : 1 - of_level;
    const double of_positive = o * weight1[b], of_negative = o * weight0[b];
    double below1 = lanes[0][l], above1 = lanes[1][l], below0 = lanes[2][l], above0 = lanes[3][l];
    if (below) {
      below1 += of_positive;
      below0 += of_negative;
    } else {
      above1 += of_positive;
      above0 += of_negative;
    }
    lanes[0][l] = below1;
    lanes[1][l] = above1;
    lanes[2][l] = below0;
    lanes[3][l] = above0;
  };
  int64_t b = 0;
  for (; b + kSide <= levels; b += kSide) {
#pragma omp simd
    for (int64_t l = 0; l < kSide; ++l) add(b + l, l);
  }
  for (int64_t l = 0; b + l < levels; ++l) add(b + l, l);
  const auto total = [](const double* x) {
    return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
  };
  sums.other1_below += total(lanes[0]);
  sums.other1_above += total(lanes[1]);
  sums.other0_below += total(lanes[2]);
  sums.other0_above += total(lanes[3]);
}

// Adds the slopes of a threshold, of which middle is the first level at or above it.
SOFTCM_CLONES inline void add_slopes(const float* slope, const std::vector<int64_t>& middle,
                                     const std::vector<Slopes<double>>& k, int64_t levels,
                                     double* __restrict positive, double* __restrict negative) {
  for (size_t t = 0; t < k.size(); ++t, slope += levels) {
    const Slopes<double> of = k[t];
    const int64_t first_above = middle[t];
#pragma omp simd
    for (int64_t b = 0; b < levels; ++b) {
      const bool below = b < first_above;
      const double of_level = slope[b];
      positive[b] += of_level * (below ? of.positive_below : of.positive_above);
      negative[b] += of_level * (below ? of.negative_below : of.negative_above);
    }
  }
}

template <class T>
class LookupTable {
 public:
  using Slope = BucketSlope<T>;
  static constexpr int64_t kStretch = kBlock;
  static constexpr bool kThresholdGradient = false;

  // h and slope: (T, Q), h and dh/dp.
  LookupTable(const std::vector<double>& thresholds, const float* h, const float* slope,
              int64_t levels)
      : thresholds_(thresholds),
        levels_(levels),
        h_(h),
        slope_(slope),
        truncation_(Truncation<T>::make(levels)) {
    std::vector<double> values;
    for (int64_t b = 0; b < levels_; ++b) {
      values.push_back(static_cast<double>(b) / static_cast<double>(levels_));
    }
    for (const double tau : thresholds_) {
      const auto first = std::lower_bound(values.begin(), values.end(), tau);
      first_above_.push_back(first - values.begin());
    }
  }

  int64_t size() const { return kNumbers * entries(); }
  int64_t scratch_size() const { return kBucketCopies * size(); }

  template <class Samples>
  bool add(const Samples& samples, int64_t count, double* scratch) const {
    const Values values = look_at<T>(samples, count);
    if (values == Values::kOutOfRange) return false;
    int32_t level[kBlock];
    find_levels<T>(truncation_, samples, count, level);
    LevelSums* sums = reinterpret_cast<LevelSums*>(scratch);
    add_to_levels<T>(samples, count, level, entries(), sums);
    if (values == Values::kNaN) sums[levels_].weight1 = std::numeric_limits<double>::quiet_NaN();
    return true;
  }

  void finish(const double* scratch, double* sums) const { fold_copies(scratch, size(), sums); }

  template <class Samples>
  void gradient(const Samples& samples, int64_t count, const Slope* slopes, T* grad) const {
    int32_t level[kBlock];
    find_levels<T>(truncation_, samples, count, level);
    bucket_gradient<T>(slopes, samples, count, level, grad);
  }

  std::vector<Sums> evaluate(const double* sums) const {
    const LevelSums* of_level = reinterpret_cast<const LevelSums*>(sums);
    std::vector<double> weight1(levels_), weight0(levels_);
    std::vector<LevelSums> below(entries()), above(entries());  // of the levels below, from, b
    for (int64_t b = 0; b < levels_; ++b) {
      weight1[b] = of_level[b].weight1;
      weight0[b] = of_level[b].weight0;
      below[b + 1] = {below[b].weight1 + weight1[b], below[b].weight0 + weight0[b]};
    }
    for (int64_t b = levels_ - 1; b >= 0; --b) {
      above[b] = {above[b + 1].weight1 + weight1[b], above[b + 1].weight0 + weight0[b]};
    }
    const double nan = of_level[levels_].weight1;  // or 0
    std::vector<Sums> all;
    for (size_t t = 0; t < thresholds_.size(); ++t) {
      const int64_t middle = first_above_[t];
      Sums s{nan,
             nan,
             nan,
             nan,
             below[middle].weight1,
             above[middle].weight1,
             below[middle].weight0,
             above[middle].weight0};
      add_others(h_ + t * levels_, weight1.data(), weight0.data(), middle, levels_, s);
      all.push_back(s);
    }
    return all;
  }

  std::vector<BucketSlope<T>> slopes(const Counts* partials, bool gated) const {
    std::vector<Slopes<double>> k;
    for (size_t t = 0; t < thresholds_.size(); ++t) {
      k.push_back(softcm::slopes<double>(partials[t], gated));
    }
    std::vector<double> positive(levels_), negative(levels_);
    add_slopes(slope_, first_above_, k, levels_, positive.data(), negative.data());
    std::vector<BucketSlope<T>> all;
    for (int64_t b = 0; b < levels_; ++b) {
      all.push_back({static_cast<T>(positive[b]), static_cast<T>(negative[b])});
    }
    return all;
  }

 private:
  static constexpr int64_t kNumbers = sizeof(LevelSums) / sizeof(double);
  int64_t entries() const { return levels_ + 1; }  // the last tells of NaN

  std::vector<double> thresholds_;
  int64_t levels_;
  const float *h_, *slope_;  // (T, Q)
  Truncation<T> truncation_;
  std::vector<int64_t> first_above_;  // level at or above each threshold
};

}  // namespace
}  // namespace softcm
