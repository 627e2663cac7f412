// An emulator of CUDA's execution model: enough of cuda_runtime.h to compile csrc/cuda with a host
// compiler and to run its kernels on a CPU.
//
// Every CUDA thread is a fiber with a stack of its own; the fibers of a block take turns in random
// order, and so do the blocks of a grid. Shared memory is filled with NaN before each block. What
// hardware leaves undefined ends the program: threads at different barriers, lanes missing from a
// shuffle, reading from a lane outside the mask. There are no weak memory effects to be seen here,
// nor time; races are found by building with ThreadSanitizer, to which each fiber is a thread.
//
// simt.cpp holds the scheduler. It is compiled without sanitizers, which are told of what goes on.
#pragma once

#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
// In the build with AddressSanitizer blocks share one OS thread, and only plain variables get red
// zones. In that with ThreadSanitizer every block has an OS thread and so its own shared memory.
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Of the CUDA thread that is running.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

// Runs body as every thread of every block. False after a failed assert.
bool launch(dim3 grid, dim3 block, const std::function<void()>& body);

void barrier(const char* file, int line);
// Waits for the lanes of mask, all with the same mask and line; returns what lane source has given.
uint64_t exchange(unsigned mask, uint64_t value, int source, const char* file, int line);
void fence();
// Around an atomic operation: fences on both sides of one order what others write.
void before_atomic(void* address);
void after_atomic(void* address);

template <class T>
T shuffle(unsigned mask, T value, int source, const char* file, int line) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(mask, bits, source, file, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline int lane() { return static_cast<int>(threadIdx.x % 32); }

}  // namespace simt

#define __syncthreads() simt::barrier(__FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, distance) \
  simt::shuffle(mask, value, simt::lane() ^ (distance), __FILE__, __LINE__)

#define __shfl_sync(mask, value, source) simt::shuffle(mask, value, source, __FILE__, __LINE__)
// The lanes below distance get their own value.
#define __shfl_up_sync(mask, value, distance)                                             \
  simt::shuffle(mask, value, simt::lane() - (simt::lane() < (distance) ? 0 : (distance)), \
                __FILE__, __LINE__)

inline void __threadfence() { simt::fence(); }

template <class T>
T __ldcg(const T* address) {
  return *address;
}

template <class T>
T atomicAdd(T* address, T value) {
  simt::before_atomic(address);
  const T before = __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
  simt::after_atomic(address);
  return before;
}

// The host's side.

using cudaStream_t = void*;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorAssert = 710 };

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const bool good = simt::launch(config->gridDim, config->blockDim, [&] { kernel(arguments...); });
  return good ? cudaSuccess : cudaErrorAssert;
}
