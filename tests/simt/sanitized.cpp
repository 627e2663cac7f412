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
  LossRule rule{{{2, 0, 0, 0}, 0, {2, 1, 1, 0}, 0}, true, Average::kMacro, 0, 0};  // F1
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
    batch.classes = classes;
    batch.inner = count / classes;
    batch.thresholds = thresholds_count;
    batch.input = {input, ScalarType::Float, strides, 4};
    batch.target = {target, ScalarType::Float, strides, 4};
    batch.threshold = {tau.data(), ScalarType::Double, {0, 0, 1}, 8};
    batch.contiguous = strides;
    batch.parameter = 0.1;
  }

  Counts expected(int64_t c, int64_t t) const {
    const auto h = Linear<double>::make(tau[t], batch.parameter);
    Sums sums;
    for (size_t i = c; i < p.size(); i += batch.classes) {
      const double o = h.other(p[i], 1 - p[i]), w1 = y[i], w0 = 1 - y[i];
      if (p[i] < h.tau) {
        sums += {w1 * o, 0, w0 * o, 0, w1, 0, w0, 0};
      } else {
        sums += {0, w1 * o, 0, w0 * o, 0, w1, 0, w0};
      }
    }
    return counts(sums, batch.gated);
  }

  // The mean over the classes, or of all of them as one.
  double expected_loss() const {
    const bool micro = rule.average == Average::kMicro;
    double loss = 0;
    std::vector<Counts> of_class(tau.size()), partials(tau.size());
    for (int64_t c = 0; c < batch.classes; ++c) {
      for (size_t t = 0; t < tau.size(); ++t) {
        of_class[t] = micro && c > 0 ? of_class[t] : Counts{0, 0, 0, 0};
        of_class[t] += expected(c, static_cast<int64_t>(t));
      }
      const double of_one = expected_loss(of_class, partials);
      loss = micro ? of_one : loss + of_one / static_cast<double>(batch.classes);
    }
    return loss;
  }

  double expected_loss(const std::vector<Counts>& counts, std::vector<Counts>& partials) const {
    const int64_t thresholds = static_cast<int64_t>(counts.size());
    if (!composite) return class_loss(rule, counts.data(), thresholds, partials.data());
    const LossRuleOf<Composite> of_composite{*composite, true, rule.average, 0, 0};
    return class_loss(of_composite, counts.data(), thresholds, partials.data());
  }
};

struct Outputs {
  Workspace work{};
  Result result{};
  float* loss = allocate<float>(1);

  Outputs(const Example& example, const Division& division) {
    const Batch& batch = example.batch;
    const int64_t items = batch.classes * batch.thresholds;
    work.sums = allocate<double>(division.parts * items * kSums);
    work.totals = allocate<double>(division.parts * batch.classes * 2);
    work.of_all = reinterpret_cast<ClassTotals*>(allocate<double>(3 * (batch.classes + 1)));
    work.merged = reinterpret_cast<Counts*>(allocate<double>(4 * batch.thresholds));
    work.running = allocate<double>(batch.classes * 8 * (kBuckets + 1));
    const int64_t of_buckets = batch.classes * bucket_chunks(batch) * 4 * kBuckets;
    work.histogram = allocate<Fixed>(of_buckets);
    std::memset(work.histogram, 0, of_buckets * sizeof(Fixed));
    work.ticket = allocate<unsigned>(1 + batch.classes);
    std::memset(work.ticket, 0, (1 + batch.classes) * sizeof(unsigned));
    result.counts = reinterpret_cast<Counts*>(allocate<double>(4 * items));
    static const double f1[10] = {2, 0, 0, 0, 0, 2, 1, 1, 0, 0};
    result.metric = example.composite ? nullptr : f1;
    result.composite = example.composite.value_or(Composite{});
    result.rule = example.rule;
    result.loss = {loss, false};
    result.grad_counts = reinterpret_cast<Counts*>(allocate<double>(4 * items));
    result.grad_entropy = allocate<double>(batch.classes);
  }
};

bool near(double actual, double expected, double tolerance) {
  return std::abs(actual - expected) <= tolerance * std::abs(expected);
}

// Counts, and the sum over all elements of grad * input against the same from the counts' gradient.
bool agrees(const Example& example, const Outputs& outputs, const float* grad) {
  bool good = near(*outputs.loss, example.expected_loss(), 1e-6);
  const Batch& batch = example.batch;
  double sum = 0, largest = 0;
  for (int64_t c = 0; c < batch.classes; ++c) {
    for (int64_t t = 0; t < batch.thresholds; ++t) {
      const Counts expected = example.expected(c, t);
      const int64_t item = c * batch.thresholds + t;
      const Counts& actual = outputs.result.counts[item];
      good = good && near(actual.tp, expected.tp, 1e-6) && near(actual.fn, expected.fn, 1e-6) &&
             near(actual.fp, expected.fp, 1e-6) && near(actual.tn, expected.tn, 1e-6);
      const auto h = Linear<double>::make(example.tau[t], batch.parameter);
      const auto k = slopes<double>(outputs.result.grad_counts[item], batch.gated);
      for (size_t i = c; i < example.p.size(); i += batch.classes) {
        const double p = example.p[i], y = example.y[i];
        sum += p * h.slope(p, 1 - p) * k(p < h.tau, y, 1 - y);
      }
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
  float* grad = allocate<float>(batch.classes * batch.inner);
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
  float* grad = allocate<float>(batch.inner);
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
  float* grad = allocate<float>(batch.classes * batch.inner);
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
  float* grad = allocate<float>(batch.classes * batch.inner);
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
  const int64_t blocks = divide(batch).blocks();
  double* of_counts = allocate<double>(4 * batch.thresholds);
  for (int64_t i = 0; i < 4 * batch.thresholds; ++i) of_counts[i] = static_cast<double>(i % 4);
  const double of_entropy = 0;
  unsigned ticket = 0;
  double* grad = allocate<double>(batch.thresholds);
  const Upstream upstream{reinterpret_cast<Counts*>(of_counts), &of_entropy, Array()};
  launch(threshold_gradient_kernel<Linear, float>, blocks, nullptr, batch, divide(batch), upstream,
         allocate<double>(blocks * batch.thresholds), &ticket, grad);
  bool good = true;
  for (int64_t t = 0; t < batch.thresholds; ++t) good = good && std::isfinite(grad[t]);
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
  if (name == "plain") return run_plain({{0.5}, 1, 0});
#endif
#ifdef SIMT_SMALL
  if (name == "small") {
    Example composite({0.5}, 1, 0, kFewSamples);
    composite.composite = Composite{CompositeKind::kKappa};
    return run_small<4>({several, 1, 0, kFewSamples}) && run_small<1>(composite);
  }
#endif
#ifdef SIMT_GENERAL
  if (name == "general") return run_general({several, 1, 0}) && run_general({several, 1, 1});
#endif
#ifdef SIMT_THRESHOLDS
  if (name == "thresholds") return run_general({several, 5, 0}) && run_thresholds({several, 1, 0});
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
    return run_buckets<4, true, PlainAccess>({several, 1, 0}) &&
           run_buckets<1, false, AnyAccess<float>>({several, 3, 0}) &&
           run_buckets<4, false, AnyAccess<float>>({many, 1, 0});
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
