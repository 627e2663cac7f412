// A loop over the thresholds for each block of samples: the Method of passes.h for few of them.
#pragma once

#include <vector>

#include "kernels.h"
#include "samples.h"

namespace softcm {
namespace {

template <class T, class H>
struct Direct {
  using Slope = Slopes<T>;
  // A stretch is read once for each threshold: it should stay in the first cache.
  static constexpr int64_t kStretch = 8 * kBlock;
  static constexpr bool kThresholdGradient = true;

  std::vector<H> heavisides;  // one a threshold

  int64_t thresholds() const { return static_cast<int64_t>(heavisides.size()); }
  int64_t size() const { return kNumbers * thresholds(); }
  int64_t scratch_size() const { return size(); }

  template <class Samples>
  bool add(const Samples& samples, int64_t count, double* scratch) const {
    Sums* sums = reinterpret_cast<Sums*>(scratch);
    for (int64_t t = 0; t < thresholds(); ++t) {
      // At t = 0 or never.
      if (!add_sums<T>(heavisides[t], samples, count, sums[t])) return false;
    }
    return true;
  }

  void finish(const double* scratch, double* sums) const { std::copy_n(scratch, size(), sums); }

  std::vector<Sums> evaluate(const double* sums) const {
    const Sums* first = reinterpret_cast<const Sums*>(sums);
    return {first, first + thresholds()};
  }

  std::vector<Slope> slopes(const Counts* partials, bool gated) const {
    std::vector<Slope> all;
    for (int64_t t = 0; t < thresholds(); ++t) {
      all.push_back(softcm::slopes<T>(partials[t], gated));
    }
    return all;
  }

  template <class Samples>
  void gradient(const Samples& samples, int64_t count, const Slope* slopes, T* grad) const {
    softcm::gradient<T, H, Samples, false>(heavisides[0], slopes[0], samples, count, grad);
    for (int64_t t = 1; t < thresholds(); ++t) {
      softcm::gradient<T, H, Samples, true>(heavisides[t], slopes[t], samples, count, grad);
    }
  }

  template <class Samples>
  void add_threshold_gradient(const Samples& samples, int64_t count, const Slope* slopes,
                              double* grad) const {
    for (int64_t t = 0; t < thresholds(); ++t) {
      grad[t] += threshold_gradient<T>(heavisides[t], slopes[t], samples, count);
    }
  }

 private:
  static constexpr int64_t kNumbers = sizeof(Sums) / sizeof(double);
};

}  // namespace
}  // namespace softcm
