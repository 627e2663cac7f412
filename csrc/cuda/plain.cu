// The launchers of the kernels for plain probabilities, at the memory's speed.
#include "gradient.cuh"

namespace softcm {
namespace {

// Calls f with a value of the dtype of input.
template <class F>
cudaError_t with_dtype(const Batch& batch, const F& f) {
  switch (batch.input.dtype) {
    case ScalarType::Half:
      return f(Half());
    case ScalarType::BFloat16:
      return f(BFloat16());
    default:
      return f(float());
  }
}

}  // namespace

bool is_plain(const Batch& batch, const Division& division) {
  return batch.thresholds == 1 && (batch.kind == Kind::kLinear || batch.kind == Kind::kSigmoid) &&
         has_plain_samples(batch, division);
}

cudaError_t launch_plain_soft_counts(const Batch& batch, const Division& division,
                                     const Workspace& work, const Result& result,
                                     cudaStream_t stream) {
  return with_dtype(batch, [&](auto element) {
    using In = decltype(element);
    const auto kernel = batch.kind == Kind::kLinear ? plain_counts_kernel<Linear, In>
                                                    : plain_counts_kernel<Sigmoid, In>;
    return launch(kernel, division.blocks(), stream, batch, division, work, result);
  });
}

cudaError_t launch_plain_gradient(const Batch& batch, const Division& division,
                                  const Upstream& upstream, void* grad_input, cudaStream_t stream) {
  return with_dtype(batch, [&](auto element) {
    using In = decltype(element);
    const auto kernel = batch.kind == Kind::kLinear ? plain_gradient_kernel<Linear, In>
                                                    : plain_gradient_kernel<Sigmoid, In>;
    return launch(kernel, division.blocks(), stream, batch, division, upstream, grad_input);
  });
}

}  // namespace softcm
