// The backward kernels' launchers.
#include "gradient.cuh"

namespace softcm {
namespace {

template <template <class> class H>
cudaError_t launch_general(const Batch& batch, const Division& division, const Upstream& upstream,
                           void* grad_input, cudaStream_t stream) {
  const auto kernel = batch.input.dtype == ScalarType::Double ? gradient_kernel<H, double, 1>
                      : has_packs(batch, division)            ? gradient_kernel<H, float, 4>
                                                              : gradient_kernel<H, float, 1>;
  return launch(kernel, division.blocks(), stream, batch, division, upstream, grad_input);
}

template <template <class> class H>
cudaError_t launch_thresholds(const Batch& batch, const Upstream& upstream, double* partial,
                              unsigned* ticket, double* grad_threshold, cudaStream_t stream) {
  const Division division = divide(batch);
  const auto kernel = batch.input.dtype == ScalarType::Double ? threshold_gradient_kernel<H, double>
                                                              : threshold_gradient_kernel<H, float>;
  return launch(kernel, division.blocks(), stream, batch, division, upstream, partial, ticket,
                grad_threshold);
}

}  // namespace

cudaError_t launch_gradient(const Batch& batch, const Upstream& upstream, void* grad_input,
                            cudaStream_t stream) {
  // Hard counts have no gradient to be fast at.
  if (has_buckets(batch) && batch.kind != Kind::kStep) {
    return launch_bucket_gradient(batch, divide_for_buckets(batch), upstream, grad_input, stream);
  }
  const Division division = divide(batch);
  if (is_plain(batch, division)) {
    return launch_plain_gradient(batch, division, upstream, grad_input, stream);
  }
  switch (batch.kind) {
    case Kind::kLinear:
      return launch_general<Linear>(batch, division, upstream, grad_input, stream);
    case Kind::kSigmoid:
      return launch_general<Sigmoid>(batch, division, upstream, grad_input, stream);
    case Kind::kTable:
      return launch_general<Lookup>(batch, division, upstream, grad_input, stream);
    case Kind::kStep:
      return launch_general<Step>(batch, division, upstream, grad_input, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t launch_threshold_gradient(const Batch& batch, const Upstream& upstream, double* partial,
                                      unsigned* ticket, double* grad_threshold,
                                      cudaStream_t stream) {
  switch (batch.kind) {
    case Kind::kLinear:
      return launch_thresholds<Linear>(batch, upstream, partial, ticket, grad_threshold, stream);
    case Kind::kSigmoid:
      return launch_thresholds<Sigmoid>(batch, upstream, partial, ticket, grad_threshold, stream);
    case Kind::kStep:
      return launch_thresholds<Step>(batch, upstream, partial, ticket, grad_threshold, stream);
    case Kind::kTable:
      break;  // has no gradient in its thresholds
  }
  return cudaErrorInvalidValue;
}

}  // namespace softcm
