// Loss and gradient of a batch that one block can take, in one launch.
#include "gradient.cuh"

namespace softcm {
namespace {

template <template <class> class H, class T, int kGroup>
SOFTCM_KERNEL(1)
small_loss_kernel(const __grid_constant__ Batch batch, const __grid_constant__ Division division,
                  bool with_cross_entropy, const __grid_constant__ Workspace work,
                  const __grid_constant__ Result result, void* grad_input) {
  __shared__ Parameters<T, H<T>> parameters;
  const Share share(batch, division);
  sum_share<H, T, kGroup, 1>(batch, division, share, with_cross_entropy, work);
  finish_batch(batch, 1, work, result);
  __syncthreads();
  const Upstream upstream{result.grad_counts, result.grad_entropy, Array()};
  const AnyAccess<T> access(batch, share);
  write_all_gradients<1, T>(batch, division, share, upstream, parameters, access, grad_input);
}

template <template <class> class H>
auto choose_kernel(const Batch& batch) {
  return batch.input.dtype == ScalarType::Double ? small_loss_kernel<H, double, 1>
         : batch.thresholds == 1                 ? small_loss_kernel<H, float, 1>
                                                 : small_loss_kernel<H, float, 4>;
}

}  // namespace

cudaError_t launch_small_loss(const Batch& batch, bool with_cross_entropy, const Workspace& work,
                              const Result& result, void* grad_input, cudaStream_t stream) {
  const auto kernel = batch.kind == Kind::kLinear    ? choose_kernel<Linear>(batch)
                      : batch.kind == Kind::kSigmoid ? choose_kernel<Sigmoid>(batch)
                                                     : choose_kernel<Lookup>(batch);
  return launch(kernel, 1, stream, batch, divide(batch), with_cross_entropy, work, result,
                grad_input);
}

}  // namespace softcm
