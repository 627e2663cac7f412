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
  const auto launch_chosen = [&](auto kernel) {
    return launch(kernel, division.blocks(), stream, batch, division, with_cross_entropy, work,
                  result);
  };
  switch (batch.kind) {
    case Kind::kLinear:
      if (is_plain_linear(batch, division) && !with_cross_entropy) {
        return launch_chosen(histogram_kernel<Knots<Linear>, 4, true>);
      }
      return launch_chosen(choose_histogram<Knots<Linear>>(batch, division));
    case Kind::kStep:  // speed is not what hard counts are asked for
      return launch_chosen(histogram_kernel<Knots<Step>, 1, false>);
    case Kind::kTable:
      return launch_chosen(choose_histogram<Levels>(batch, division));
    case Kind::kSigmoid:
      break;  // has_buckets() has kept it away
  }
  return cudaErrorInvalidValue;
}

cudaError_t launch_bucket_gradient(const Batch& batch, const Division& division,
                                   const Upstream& upstream, void* grad_input,
                                   cudaStream_t stream) {
  const auto launch_chosen = [&](auto kernel) {
    return launch(kernel, division.blocks(), stream, batch, division, upstream, grad_input);
  };
  switch (batch.kind) {
    case Kind::kLinear:
      if (is_plain_linear(batch, division)) {
        return launch_chosen(bucket_gradient_kernel<Knots<Linear>, 4, PlainAccess>);
      }
      return launch_chosen(choose_gradient<Knots<Linear>>(batch, division));
    case Kind::kTable:
      return launch_chosen(choose_gradient<Levels>(batch, division));
    case Kind::kStep:
    case Kind::kSigmoid:
      break;  // launch_gradient() has kept them away
  }
  return cudaErrorInvalidValue;
}

}  // namespace softcm
