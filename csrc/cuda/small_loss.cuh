// Loss and gradient of a batch that one block can take, in one launch.
#pragma once

#include "gradient.cuh"

namespace softcm {

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

}  // namespace softcm
