// Starting kernels, and what a thread finds out about its place.
#pragma once

#include "kernels.h"

// Ends the kernel with an error, as assert does, but in every build.
#define SOFTCM_FAIL(message) __assert_fail(message, __FILE__, __LINE__, __func__)

// With 2 blocks on a multiprocessor the compiler may use 128 registers, with 1 all 255.
#define SOFTCM_KERNEL(blocks) __global__ void __launch_bounds__(kThreads, blocks)

namespace softcm {

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, cudaStream_t stream,
                   Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  const cudaError_t error =
      cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  return error == cudaSuccess ? cudaGetLastError() : error;
}

// What a thread has of its block's share.
struct Share {
  int64_t part, first_group, group, begin, end;
  int64_t sample, c;  // of the group: its place in N with per_sample (otherwise 0), and its class
  int row, rows;      // rows of threads, each of which takes one sample, or pack, of every group
  bool active;        // false beyond the last group

  __device__ __forceinline__ Share(const Batch& batch, const Division& d)
      : part(blockIdx.x / d.tiles),
        first_group(blockIdx.x % d.tiles * d.tile),
        group(first_group + threadIdx.x % d.tile),
        begin(part * d.size),
        end(begin + d.size),
        row(threadIdx.x / d.tile),
        rows(kThreads / d.tile),
        active(group < batch.groups) {
    if (end > batch.samples()) end = batch.samples();
    if (!active) group = 0;
    sample = batch.per_sample ? group / batch.classes : 0;
    c = batch.class_of(group);
  }

  // The end of the whole packs of kPack samples.
  template <int kPack>
  __device__ __forceinline__ int64_t end_of_packs() const {
    return begin + (end - begin) / kPack * kPack;
  }
};

}  // namespace softcm
