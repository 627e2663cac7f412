// Any number of thresholds at nearly one price (segments.h): the Methods of passes.h for many of
// them.
#pragma once

#include <algorithm>
#include <iterator>
#include <vector>

#include "../heaviside.h"
#include "../segments.h"
#include "buckets.h"
#include "direct.h"

namespace softcm {
namespace {

// The memory of RunningSums.
class SumsOfLabel {
 public:
  // middle: the bucket that begins at 1/2. weight and small: members of BucketSums.
  SumsOfLabel(const BucketSums* sums, int64_t size, int64_t middle, double BucketSums::* weight,
              double BucketSums::* small)
      : weight_below_(size + 1), p_below_(size + 1), weight_above_(size + 1), q_above_(size + 1) {
    for (int64_t b = 0; b < size; ++b) {
      const double w = sums[b].*weight, s = sums[b].*small;
      weight_below_[b + 1] = weight_below_[b] + w;
      p_below_[b + 1] = p_below_[b] + (b < middle ? s : w - s);
    }
    for (int64_t b = size - 1; b >= 0; --b) {
      const double w = sums[b].*weight, s = sums[b].*small;
      weight_above_[b] = weight_above_[b + 1] + w;
      q_above_[b] = q_above_[b + 1] + (b < middle ? w - s : s);
    }
  }

  RunningSums running() const {
    return {weight_below_.data(), p_below_.data(), weight_above_.data(), q_above_.data()};
  }

 private:
  std::vector<double> weight_below_, p_below_, weight_above_, q_above_;
};

// What both of the following share: a histogram for each class.
template <class T>
class Bucketed {
 public:
  using Slope = BucketSlope<T>;
  static constexpr int64_t kStretch = kBlock;
  static constexpr bool kThresholdGradient = false;

  explicit Bucketed(std::vector<T> knots) : buckets_(std::move(knots)) {}

  int64_t size() const { return kNumbers * buckets_.size(); }
  int64_t scratch_size() const { return kBucketCopies * size(); }

  template <class Samples>
  bool add(const Samples& samples, int64_t count, double* scratch) const {
    if (look_at<T>(samples, count) == Values::kOutOfRange) return false;
    int32_t bucket[kBlock];
    find_buckets<T>(buckets_.search(), samples, count, bucket);
    add_to_buckets<T>(samples, count, bucket, buckets_.size(),
                      reinterpret_cast<BucketSums*>(scratch));
    return true;
  }

  void finish(const double* scratch, double* sums) const { fold_copies(scratch, size(), sums); }

  template <class Samples>
  void gradient(const Samples& samples, int64_t count, const Slope* slopes, T* grad) const {
    int32_t bucket[kBlock];
    find_buckets<T>(buckets_.search(), samples, count, bucket);
    bucket_gradient<T>(slopes, samples, count, bucket, grad);
  }

 protected:
  SumsOfLabel of_positives(const double* sums) const {
    return of_label(sums, &BucketSums::weight1, &BucketSums::small1);
  }
  SumsOfLabel of_negatives(const double* sums) const {
    return of_label(sums, &BucketSums::weight0, &BucketSums::small0);
  }

  Buckets<T> buckets_;

 private:
  static constexpr int64_t kNumbers = sizeof(BucketSums) / sizeof(double);

  SumsOfLabel of_label(const double* sums, double BucketSums::* weight,
                       double BucketSums::* small) const {
    return {reinterpret_cast<const BucketSums*>(sums), buckets_.size(), buckets_.at(T(0.5)), weight,
            small};
  }
};

// Eq. (5) at many thresholds.
template <class T>
class LinearBuckets : public Bucketed<T> {
 public:
  LinearBuckets(const std::vector<double>& thresholds, double delta)
      : Bucketed<T>(knots(thresholds, delta)) {
    for (const double tau : thresholds) {
      const auto rounded = Linear<T>::make(tau, delta);
      segments_.push_back({Linear<double>::make(inside<T>(tau), delta),
                           this->buckets_.at(rounded.low), this->buckets_.at(rounded.tau),
                           this->buckets_.at(next(rounded.high))});
    }
  }

  std::vector<Sums> evaluate(const double* sums) const {
    const SumsOfLabel positive = this->of_positives(sums), negative = this->of_negatives(sums);
    std::vector<Sums> all;
    for (const Segments& s : segments_) {
      all.push_back(s.sums(positive.running(), negative.running()));
    }
    return all;
  }

  std::vector<BucketSlope<T>> slopes(const Counts* partials, bool gated) const {
    // Where the slope of a threshold changes, the change is added up.
    std::vector<double> positive(this->buckets_.size() + 1), negative(positive);
    for (size_t t = 0; t < segments_.size(); ++t) {
      const Segments& s = segments_[t];
      const Slopes<double> k = softcm::slopes<double>(partials[t], gated);
      const auto add = [&](std::vector<double>& to, double below, double above) {
        const SlopeChanges changes = s.changes(below, above);
        to[0] += changes.at_zero;
        to[s.low] += changes.at_low;
        to[s.tau] += changes.at_tau;
        to[s.high] += changes.at_high;
      };
      add(positive, k.positive_below, k.positive_above);
      add(negative, k.negative_below, k.negative_above);
    }
    std::vector<BucketSlope<T>> all;
    double of_positive = 0, of_negative = 0;
    for (int64_t b = 0; b < this->buckets_.size(); ++b) {
      of_positive += positive[b];
      of_negative += negative[b];
      all.push_back({static_cast<T>(of_positive), static_cast<T>(of_negative)});
    }
    return all;
  }

 private:
  static std::vector<T> knots(std::vector<double> thresholds, double delta) {
    std::sort(thresholds.begin(), thresholds.end());
    std::vector<T> low, tau, high;  // each of them ascending
    for (const double threshold : thresholds) {
      const auto h = Linear<T>::make(threshold, delta);
      low.push_back(h.low);
      tau.push_back(h.tau);
      high.push_back(next(h.high));
    }
    std::vector<T> two, all;
    std::merge(low.begin(), low.end(), tau.begin(), tau.end(), std::back_inserter(two));
    std::merge(two.begin(), two.end(), high.begin(), high.end(), std::back_inserter(all));
    return all;
  }

  std::vector<Segments> segments_;
};

// Eq. (1) at many thresholds.
template <class T>
class StepBuckets : public Bucketed<T> {
 public:
  explicit StepBuckets(const std::vector<double>& thresholds) : Bucketed<T>(knots(thresholds)) {
    for (const double tau : thresholds) begins_.push_back(this->buckets_.at(static_cast<T>(tau)));
  }

  std::vector<Sums> evaluate(const double* sums) const {
    const SumsOfLabel of_positives = this->of_positives(sums);
    const SumsOfLabel of_negatives = this->of_negatives(sums);
    const RunningSums positive = of_positives.running(), negative = of_negatives.running();
    // 0, or NaN if there is one in the input.
    const double other1 = 0 * positive.p_below[1], other0 = 0 * negative.p_below[1];
    std::vector<Sums> all;
    for (const int64_t b : begins_) {
      all.push_back({other1, other1, other0, other0, positive.weight_below[b],
                     positive.weight_above[b], negative.weight_below[b], negative.weight_above[b]});
    }
    return all;
  }

  std::vector<BucketSlope<T>> slopes(const Counts*, bool) const {
    return std::vector<BucketSlope<T>>(this->buckets_.size(), {T(0), T(0)});
  }

 private:
  static std::vector<T> knots(std::vector<double> thresholds) {
    std::sort(thresholds.begin(), thresholds.end());
    return {thresholds.begin(), thresholds.end()};
  }

  std::vector<int64_t> begins_;
};

// Samples with a power in the place of 1 - p, which a sigmoid does not need.
template <class T, class Samples>
struct WithPower {
  const Samples& samples;
  const T* __restrict power;

  SOFTCM_HD T p(int64_t i) const { return samples.p(i); }
  SOFTCM_HD T q(int64_t i) const { return power[i]; }
  SOFTCM_HD T w1(int64_t i) const { return samples.w1(i); }
  SOFTCM_HD T w0(int64_t i) const { return samples.w0(i); }
  SOFTCM_HD auto unchecked_bits(int64_t i) const { return samples.unchecked_bits(i); }
};

template <class T, class Samples>
SOFTCM_CLONES void find_powers(double k, const Samples& s, int64_t count, T* __restrict power) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) power[i] = SigmoidOfPower<T>::power(s.p(i), k);
}

// The sigmoid at several thresholds: the loop over them, with one exponential a sample.
template <class T>
class SigmoidPowers {
 public:
  using Slope = Slopes<T>;
  static constexpr int64_t kStretch = kBlock;
  static constexpr bool kThresholdGradient = true;

  SigmoidPowers(const std::vector<double>& thresholds, double k) : k_(k) {
    for (const double tau : thresholds) {
      direct_.heavisides.push_back(SigmoidOfPower<T>::make(tau, k));
    }
  }

  int64_t size() const { return direct_.size(); }
  int64_t scratch_size() const { return direct_.scratch_size(); }
  void finish(const double* scratch, double* sums) const { direct_.finish(scratch, sums); }
  std::vector<Sums> evaluate(const double* sums) const { return direct_.evaluate(sums); }
  std::vector<Slope> slopes(const Counts* g, bool gated) const { return direct_.slopes(g, gated); }

  template <class Samples>
  bool add(const Samples& samples, int64_t count, double* scratch) const {
    alignas(64) T power[kBlock];
    find_powers(k_, samples, count, power);
    return direct_.add(WithPower<T, Samples>{samples, power}, count, scratch);
  }

  template <class Samples>
  void gradient(const Samples& samples, int64_t count, const Slope* slopes, T* grad) const {
    alignas(64) T power[kBlock];
    find_powers(k_, samples, count, power);
    direct_.gradient(WithPower<T, Samples>{samples, power}, count, slopes, grad);
  }

  void add_threshold_gradient(const Staged<T>& samples, int64_t count, const Slope* slopes,
                              double* grad) const {
    alignas(64) T power[kBlock];
    find_powers(k_, samples, count, power);
    direct_.add_threshold_gradient(WithPower<T, Staged<T>>{samples, power}, count, slopes, grad);
  }

 private:
  Direct<T, SigmoidOfPower<T>> direct_;
  double k_;
};

}  // namespace
}  // namespace softcm
