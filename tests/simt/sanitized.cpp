// Kernels of every kind on a few thousand samples, for builds with a sanitizer, against sums in
// float64. Usage: sanitized plain|small|general|thresholds|composite|buckets|classes SEED; exit
// status 1 where they differ. Of these kinds there are those of which SIMT_PLAIN and so on are
// defined, as kernels take long to compile.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "cuda/bucket_gradient.cuh"
#include "cuda/histogram.cuh"
#include "cuda/small_loss.cuh"
#ifdef SIMT_CLASSES
#include "cuda/one_vs_rest.cu"
#endif

extern "C" void simt_seed(unsigned seed);

namespace softcm {
namespace {

constexpr int64_t kSamples = 2 * 4096 + 1003;  // three blocks, the last with a tail
constexpr int64_t kFewSamples = 1003;          // one block

// Memory of its own for every array: a red zone on both sides, and filled with NaN.
template <class T>
T* allocate(int64_t count) {
  static std::vector<std::unique_ptr<T[]>> all;
  all.emplace_back(new T[count]);
  std::memset(static_cast<void*>(all.back().get()), 0xff, count * sizeof(T));
  return all.back().get();
}

struct Example {
  Batch batch{};
  std::vector<double> tau, p, y;
  LossRule rule{
      {{2, 0, 0, 0}, 0, {2, 1, 1, 0}, 0}, true, Average::kMacro, 0, 0, false, nullptr};  // F1
  std::optional<Composite> composite;  // in the place of F1

  // offset: elements by which input begins off the alignment of a vector.
  Example(std::vector<double> thresholds, int64_t classes, int64_t offset,
          int64_t samples = kSamples)
      : tau(thresholds) {
    const int64_t count = samples / classes * classes;
    float* input = allocate<float>(count + offset) + offset;
    float* target = allocate<float>(count);
    std::mt19937 random(1);
    for (int64_t i = 0; i < count; ++i) {
      input[i] = static_cast<float>(random() % 10007) / 10007.0f;
      target[i] = random() % 3 == 0 ? 1.0f : 0.0f;
      p.push_back(input[i]);
      y.push_back(target[i]);
    }
    const Strides strides{classes, 1, classes == 1 ? 1 : classes};
    const int64_t thresholds_count = static_cast<int64_t>(tau.size());
    batch.n = 1;
    batch.groups = batch.classes = classes;
    batch.inner = count / classes;
    batch.thresholds = thresholds_count;
    batch.input = {input, ScalarType::Float, strides, 4};
    batch.target = {target, ScalarType::Float, strides, 4};
    batch.threshold = {tau.data(), ScalarType::Double, {0, 0, 1}, 8};
    batch.contiguous = strides;
    batch.parameter = 0.1;
  }

  // Each class has thresholds of its own.
  void set_thresholds_by_class() {
    for (int64_t c = 1; c < batch.classes; ++c) {
      for (int64_t t = 0; t < batch.thresholds; ++t) {
        tau.push_back(tau[t] + 0.03 * static_cast<double>(c));
      }
    }
    batch.own_thresholds = true;
    batch.threshold = {tau.data(), ScalarType::Double, {0, batch.thresholds, 1}, 8};
  }

  // The batch has n samples, each with counts of its own.
  void set_per_sample(int64_t n) {
    batch.per_sample = true;
    batch.groups = batch.classes * n;
    batch.inner /= n;
    for (Strides* s : {&batch.input.stride, &batch.target.stride, &batch.contiguous}) {
      s->sample = batch.classes * batch.inner;
    }
    p.resize(batch.groups * batch.inner);
    y.resize(p.size());
  }

  void set_ignore_nan() {
    batch.ignore_nan = true;
    float* target = const_cast<float*>(static_cast<const float*>(batch.target.data));
    for (size_t i = 0; i < y.size(); i += 5) y[i] = target[i] = NAN;
  }

  double threshold(int64_t group, int64_t t) const {
    return tau[batch.class_of(group) * batch.threshold.stride.c + t];
  }

  // Calls f(element, p, y) for the samples of a group that count.
  template <class F>
  void for_samples(int64_t group, const F& f) const {
    for (int64_t l = 0; l < batch.inner; ++l) {
      const int64_t i = batch.offset(batch.contiguous, group) + l * batch.contiguous.l;
      if (!std::isnan(y[i])) f(i, p[i], y[i]);
    }
  }

  Sums expected_sums(int64_t group, int64_t t) const {
    const auto h = Linear<double>::make(threshold(group, t), batch.parameter);
    Sums sums;
    for_samples(group, [&](int64_t, double p, double y) {
      const double o = h.other(p, 1 - p), w1 = y, w0 = 1 - y;
      if (p < h.tau) {
        sums += {w1 * o, 0, w0 * o, 0, w1, 0, w0, 0};
      } else {
        sums += {0, w1 * o, 0, w0 * o, 0, w1, 0, w0};
      }
    });
    return sums;
  }

  Counts expected(int64_t group, int64_t t) const {
    return counts(expected_sums(group, t), batch.gated);
  }

  // The mean over the classes, or of all of them as one.
  double expected_loss() const {
    const bool micro = rule.average == Average::kMicro;
    double loss = 0;
    std::vector<Counts> of_class(batch.thresholds), partials(batch.thresholds);
    for (int64_t c = 0; c < batch.classes; ++c) {
      for (int64_t t = 0; t < batch.thresholds; ++t) {
        of_class[t] = micro && c > 0 ? of_class[t] : Counts{0, 0, 0, 0};
        of_class[t] += expected(c, t);
      }
      const double of_one = expected_loss(of_class, partials);
      loss = micro ? of_one : loss + of_one / static_cast<double>(batch.classes);
    }
    return loss;
  }

  double expected_loss(const std::vector<Counts>& counts, std::vector<Counts>& partials) const {
    if (!composite) return class_loss(rule, counts.data(), batch.thresholds, partials.data());
    return class_loss(rule.with(*composite), counts.data(), batch.thresholds, partials.data());
  }
};

// A loss and its gradients; per sample the totals, and gradients made up.
struct Outputs {
  Workspace work{};
  Result result{};
  float* loss = allocate<float>(1);

  Outputs(const Example& example, const Division& division) {
    const Batch& batch = example.batch;
    const int64_t groups = batch.groups, items = groups * batch.thresholds;
    work.sums = allocate<double>(division.parts * items * kSums);
    work.totals = allocate<double>(division.parts * groups * 2);
    work.of_all = reinterpret_cast<ClassTotals*>(allocate<double>(4 * (groups + 1)));
    work.merged = reinterpret_cast<Counts*>(allocate<double>(4 * batch.thresholds));
    work.running = allocate<double>(groups * 8 * (kBuckets + 1));
    const int64_t of_buckets = groups * bucket_chunks(batch) * 4 * kBuckets;
    work.histogram = allocate<Fixed>(of_buckets);
    std::memset(work.histogram, 0, of_buckets * sizeof(Fixed));
    work.ticket = allocate<unsigned>(1 + groups);
    std::memset(work.ticket, 0, (1 + groups) * sizeof(unsigned));
    result.counts = reinterpret_cast<Counts*>(allocate<double>(4 * items));
    static const double f1[10] = {2, 0, 0, 0, 0, 2, 1, 1, 0, 0};
    result.metric = example.composite ? nullptr : f1;
    result.composite = example.composite.value_or(Composite{});
    result.rule = example.rule.with(NoMetric());
    result.loss = {loss, false};
    result.grad_counts = reinterpret_cast<Counts*>(allocate<double>(4 * items));
    result.grad_entropy = allocate<double>(groups);
    if (!batch.per_sample) return;
    result.totals = allocate<double>(3 * groups);
    result.cross_entropy = allocate<double>(groups);
    double* of_counts = reinterpret_cast<double*>(result.grad_counts);
    for (int64_t i = 0; i < 4 * items; ++i) of_counts[i] = static_cast<double>(i % 7);
    for (int64_t i = 0; i < groups; ++i) result.grad_entropy[i] = 0;
  }
};

bool near(double actual, double expected, double tolerance) {
  return std::abs(actual - expected) <= tolerance * std::abs(expected);
}

bool has_totals(const Example& example, const Outputs& outputs) {
  bool good = true;
  for (int64_t group = 0; group < example.batch.groups; ++group) {
    const Sums sums = example.expected_sums(group, 0);
    const double positives = sums.weight1_below + sums.weight1_above;
    const double negatives = sums.weight0_below + sums.weight0_above;
    const double* actual = outputs.result.totals + 3 * group;
    good = good && near(actual[0], positives + negatives, 1e-6) &&
           near(actual[1], positives, 1e-6) && near(actual[2], negatives, 1e-6);
  }
  return good;
}

// Counts, loss or totals, and the sum over all elements of grad * input against the same from the
// counts' gradient.
bool agrees(const Example& example, const Outputs& outputs, const float* grad) {
  const Batch& batch = example.batch;
  bool good = batch.per_sample ? has_totals(example, outputs)
                               : near(*outputs.loss, example.expected_loss(), 1e-6);
  double sum = 0, largest = 0;
  for (int64_t group = 0; group < batch.groups; ++group) {
    for (int64_t t = 0; t < batch.thresholds; ++t) {
      const Counts expected = example.expected(group, t);
      const int64_t item = group * batch.thresholds + t;
      const Counts& actual = outputs.result.counts[item];
      good = good && near(actual.tp, expected.tp, 1e-6) && near(actual.fn, expected.fn, 1e-6) &&
             near(actual.fp, expected.fp, 1e-6) && near(actual.tn, expected.tn, 1e-6);
      const auto h = Linear<double>::make(example.threshold(group, t), batch.parameter);
      const auto k = slopes<double>(outputs.result.grad_counts[item], batch.gated);
      example.for_samples(group, [&](int64_t, double p, double y) {
        sum += p * h.slope(p, 1 - p) * k(p < h.tau, y, 1 - y);
      });
    }
  }
  for (size_t i = 0; i < example.p.size(); ++i) {
    sum -= example.p[i] * static_cast<double>(grad[i]);
    largest += std::abs(static_cast<double>(grad[i]));
  }
  return good && std::abs(sum) <= 1e-5 * largest;
}

template <class Forward, class Backward>
bool run(const Example& example, const Forward& forward, const Backward& backward) {
  const Batch& batch = example.batch;
  const Division division = divide(batch);
  const Outputs outputs(example, division);
  const Upstream upstream{outputs.result.grad_counts, outputs.result.grad_entropy, Array()};
  float* grad = allocate<float>(batch.groups * batch.inner);
  launch(forward, division.blocks(), nullptr, batch, division, false, outputs.work, outputs.result);
  launch(backward, division.blocks(), nullptr, batch, division, upstream, grad);
  return agrees(example, outputs, grad);
}

bool run_general(const Example& example) {
  const Batch& batch = example.batch;
  if (has_packs(batch, divide(batch))) {
    return run(example, soft_counts_kernel<Linear, float, 4, 4>, gradient_kernel<Linear, float, 4>);
  }
  return run(example, soft_counts_kernel<Linear, float, 4, 1>, gradient_kernel<Linear, float, 1>);
}

#ifdef SIMT_PLAIN
bool run_plain(const Example& example) {
  const Batch& batch = example.batch;
  const Division division = divide(batch);
  const Outputs outputs(example, division);
  const Upstream upstream{outputs.result.grad_counts, outputs.result.grad_entropy, Array()};
  float* grad = allocate<float>(batch.groups * batch.inner);
  launch(plain_counts_kernel<Linear, float>, division.blocks(), nullptr, batch, division,
         outputs.work, outputs.result);
  launch(plain_gradient_kernel<Linear, float>, division.blocks(), nullptr, batch, division,
         upstream, grad);
  return agrees(example, outputs, grad);
}

#endif

#ifdef SIMT_SMALL
template <int kGroup>
bool run_small(const Example& example) {
  const Batch& batch = example.batch;
  const Division division = divide(batch);
  const Outputs outputs(example, division);
  float* grad = allocate<float>(batch.groups * batch.inner);
  launch(small_loss_kernel<Linear, float, kGroup>, 1, nullptr, batch, division, false, outputs.work,
         outputs.result, grad);
  return division.blocks() == 1 && agrees(example, outputs, grad);
}
#endif

#ifdef SIMT_COMPOSITE
bool run_composite(CompositeKind kind, Average average) {
  Example example({0.2, 0.35, 0.5, 0.65, 0.8}, 3, 0);
  example.composite = Composite{kind};
  example.rule.average = average;
  return run_general(example);
}
#endif

#ifdef SIMT_BUCKETS
template <int kPack, bool kPlain, class Access>
bool run_buckets(const Example& example) {
  const Batch& batch = example.batch;
  const Division division = divide_for_buckets(batch);
  const Outputs outputs(example, division);
  const Upstream upstream{outputs.result.grad_counts, outputs.result.grad_entropy, Array()};
  float* grad = allocate<float>(batch.groups * batch.inner);
  launch(histogram_kernel<Knots<Linear>, kPack, kPlain>, division.blocks(), nullptr, batch,
         division, false, outputs.work, outputs.result);
  launch(bucket_gradient_kernel<Knots<Linear>, kPack, Access>, division.blocks(), nullptr, batch,
         division, upstream, grad);
  return agrees(example, outputs, grad);
}

#endif

#ifdef SIMT_THRESHOLDS
bool run_thresholds(const Example& example) {
  const Batch& batch = example.batch;
  const int64_t blocks = divide(batch).blocks(), items = batch.groups * batch.thresholds;
  const int64_t count = batch.threshold_rows() * batch.thresholds;
  double* of_counts = allocate<double>(4 * items);
  for (int64_t i = 0; i < 4 * items; ++i) of_counts[i] = static_cast<double>(i % 7);
  const double of_entropy = 0;
  unsigned ticket = 0;
  double* grad = allocate<double>(count);
  const Upstream upstream{reinterpret_cast<Counts*>(of_counts), &of_entropy, Array()};
  launch(threshold_gradient_kernel<Linear, float>, blocks, nullptr, batch, divide(batch), upstream,
         allocate<double>(blocks * batch.thresholds), &ticket, grad);
  std::vector<double> sum(count), largest(count);
  for (int64_t item = 0; item < items; ++item) {
    const int64_t group = item / batch.thresholds, t = item % batch.thresholds;
    const auto h = Linear<double>::make(example.threshold(group, t), batch.parameter);
    const auto k = slopes<double>(upstream.counts[item], batch.gated);
    example.for_samples(group, [&](int64_t, double p, double y) {
      const double value = h.slope_threshold(p, 1 - p) * k(p < h.tau, y, 1 - y);
      sum[item % count] += value;
      largest[item % count] += std::abs(value);
    });
  }
  bool good = true;
  for (int64_t i = 0; i < count; ++i) {
    good = good && std::abs(grad[i] - sum[i]) <= 1e-6 * largest[i];
  }
  return good;
}

#endif

#ifdef SIMT_CLASSES
// Softmax over classes: sigmoid(output) sums to 1.
bool run_classes(int64_t n, int64_t classes, int64_t stride) {
  const int64_t count = n * classes * stride;
  float *z = allocate<float>(count), *output = allocate<float>(count);
  for (int64_t i = 0; i < count; ++i) z[i] = static_cast<float>(i * 7 % 11);
  const Rows rows{n, classes, stride};
  bool good = launch_one_vs_rest(rows, false, z, output, nullptr) == cudaSuccess;
  float* grad = allocate<float>(count);
  good =
      good && launch_one_vs_rest_backward(rows, false, z, z, output, grad, nullptr) == cudaSuccess;
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += probability(static_cast<double>(output[i])).p;
  return good && near(sum, static_cast<double>(n * stride), 1e-5);
}

#endif

bool run_named(const std::string& name) {
  const std::vector<double> several = {0.2, 0.35, 0.5, 0.65, 0.8};
#ifdef SIMT_PLAIN
  if (name == "plain") {
    Example per_sample({0.5}, 1, 0, 3 * 3064);  // each begins at a multiple of a pack
    per_sample.set_per_sample(3);
    return run_plain({{0.5}, 1, 0}) && run_plain(per_sample);
  }
#endif
#ifdef SIMT_SMALL
  if (name == "small") {
    Example composite({0.5}, 1, 0, kFewSamples);
    composite.composite = Composite{CompositeKind::kKappa};
    return run_small<4>({several, 1, 0, kFewSamples}) && run_small<1>(composite);
  }
#endif
#ifdef SIMT_GENERAL
  if (name == "general") {
    Example by_class(several, 3, 0), per_sample(several, 3, 0);
    by_class.set_thresholds_by_class();
    by_class.set_ignore_nan();
    per_sample.set_per_sample(14);
    per_sample.set_ignore_nan();
    return run_general({several, 1, 0}) && run_general({several, 1, 1}) && run_general(by_class) &&
           run_general(per_sample);
  }
#endif
#ifdef SIMT_THRESHOLDS
  if (name == "thresholds") {
    Example by_class(several, 3, 0), per_sample(several, 3, 0);
    by_class.set_thresholds_by_class();
    per_sample.set_thresholds_by_class();
    per_sample.set_per_sample(4);
    return run_general({several, 5, 0}) && run_thresholds({several, 1, 0}) &&
           run_thresholds(by_class) && run_thresholds(per_sample);
  }
#endif
#ifdef SIMT_COMPOSITE
  if (name == "composite") {
    return run_composite(CompositeKind::kMcc, Average::kMacro) &&
           run_composite(CompositeKind::kAuroc, Average::kMicro);
  }
#endif
#ifdef SIMT_BUCKETS
  if (name == "buckets") {
    // More than go together, unordered.
    std::vector<double> many;
    for (int i = 1; i <= 300; ++i) many.push_back(i * 11 % 301 / 301.0);
    Example by_class(several, 3, 0);
    by_class.set_thresholds_by_class();
    by_class.set_per_sample(2);
    by_class.set_ignore_nan();
    return run_buckets<4, true, PlainAccess>({several, 1, 0}) &&
           run_buckets<1, false, AnyAccess<float>>({several, 3, 0}) &&
           run_buckets<4, false, AnyAccess<float>>({many, 1, 0}) &&
           run_buckets<1, false, AnyAccess<float>>(by_class);
  }
#endif
#ifdef SIMT_CLASSES
  if (name == "classes") return run_classes(40, 33, 1) && run_classes(2, 3, 300);
#endif
  return false;
}

}  // namespace
}  // namespace softcm

int main(int, char** arguments) {
  simt_seed(static_cast<unsigned>(std::atoi(arguments[2])));
  const bool good = softcm::run_named(arguments[1]);
  std::printf("%s\n", good ? "agrees" : "differs");
  return good ? 0 : 1;
}
