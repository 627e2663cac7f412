// The launchers of the kernels for many thresholds and for tables.
#include "bucket_gradient.cuh"
#include "histogram.cuh"

namespace softcm {
namespace {

// Samples in packs of four where they are neighbours in memory.
template <class Buckets>
auto choose_histogram(const Batch& batch, const Division& division) {
  return has_packs(batch, division) ? histogram_kernel<Buckets, 4, false>
                                    : histogram_kernel<Buckets, 1, false>;
}

template <class Buckets>
auto choose_gradient(const Batch& batch, const Division& division) {
  return has_packs(batch, division) ? bucket_gradient_kernel<Buckets, 4, AnyAccess<float>>
                                    : bucket_gradient_kernel<Buckets, 1, AnyAccess<float>>;
}

bool is_plain_linear(const Batch& batch, const Division& division) {
  return batch.kind == Kind::kLinear && batch.input.dtype == ScalarType::Float &&
         has_plain_samples(batch, division);
}

}  // namespace

cudaError_t launch_histogram(const Batch& batch, const Division& division, bool with_cross_entropy,
                             const Workspace& work, const Result& result, cudaStream_t stream) {
  const auto choose = [&] {
    if (is_plain_linear(batch, division) && !with_cross_entropy) {
      return histogram_kernel<Knots<Linear>, 4, true>;
    }
    // Speed is not what hard counts are asked for.
    return batch.kind == Kind::kStep    ? histogram_kernel<Knots<Step>, 1, false>
           : batch.kind == Kind::kTable ? choose_histogram<Levels>(batch, division)
                                        : choose_histogram<Knots<Linear>>(batch, division);
  };
  return launch(choose(), division.blocks(), stream, batch, division, with_cross_entropy, work,
                result);
}

cudaError_t launch_bucket_gradient(const Batch& batch, const Division& division,
                                   const Upstream& upstream, void* grad_input,
                                   cudaStream_t stream) {
  const auto kernel =
      is_plain_linear(batch, division) ? bucket_gradient_kernel<Knots<Linear>, 4, PlainAccess>
      : batch.kind == Kind::kTable     ? choose_gradient<Levels>(batch, division)
                                       : choose_gradient<Knots<Linear>>(batch, division);
  return launch(kernel, division.blocks(), stream, batch, division, upstream, grad_input);
}

}  // namespace softcm
