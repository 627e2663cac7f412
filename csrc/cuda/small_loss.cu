// The launcher of the kernel for small batches.
#include "small_loss.cuh"

namespace softcm {
namespace {

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
