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
  const auto launch_chosen = [&](auto kernel) {
    return launch(kernel, 1, stream, batch, divide(batch), with_cross_entropy, work, result,
                  grad_input);
  };
  switch (batch.kind) {
    case Kind::kLinear:
      return launch_chosen(choose_kernel<Linear>(batch));
    case Kind::kSigmoid:
      return launch_chosen(choose_kernel<Sigmoid>(batch));
    case Kind::kTable:
      return launch_chosen(choose_kernel<Lookup>(batch));
    case Kind::kStep:
      break;  // is_small() has kept it away
  }
  return cudaErrorInvalidValue;
}

}  // namespace softcm
