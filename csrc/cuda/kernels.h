// What the CUDA part's files share: how a batch is divided among blocks, what the kernels are
// given, and the launchers, which choose a kernel and start it.
#pragma once

#include <cuda_runtime_api.h>

#include "../layout.h"
#include "../loss.h"

namespace softcm {

constexpr int kThreads = 256;  // of a block
constexpr int kWarps = kThreads / 32;
constexpr int kTerms = 16;  // that a thread adds up before float64 takes over: error < 1e-6
constexpr int kTile = 32;   // classes that a block takes at most

// A block takes a part of the samples of a tile of classes.
struct Division {
  int64_t size;  // samples of a part
  int64_t parts;
  int tile;  // classes, a power of 2; 1 where the samples of a class are neighbours in memory
  int64_t tiles;

  int64_t blocks() const { return parts * tiles; }
};

// By the shape of the batch alone, never by the device, so that sums come out the same everywhere.
inline Division divide(const Batch& batch) {
  constexpr int64_t kFewest = kThreads * kTerms, kBlocks = 1024;
  const int64_t samples = batch.n * batch.inner;
  Division d{0, 0, 1, 0};
  // Neighbouring threads take neighbours in memory: samples, or classes where these come first.
  if (batch.input.stride.l != 1 || batch.inner == 1) {
    while (d.tile < kTile && d.tile < batch.classes) d.tile *= 2;
  }
  d.tiles = (batch.classes + d.tile - 1) / d.tile;
  const int64_t fewest = kFewest / d.tile;
  const int64_t most = kBlocks / d.tiles > 0 ? kBlocks / d.tiles : 1;
  const int64_t wanted = (samples + fewest - 1) / fewest;
  const int64_t parts = wanted < most ? wanted : most;
  d.size = ((samples + parts - 1) / parts + fewest - 1) / fewest * fewest;
  d.parts = (samples + d.size - 1) / d.size;
  return d;
}

// Whether count elements of every sample's run can be loaded at once.
inline bool is_aligned(const Array& x, const Batch& batch, int64_t count) {
  if (x.data == nullptr) return true;
  const int64_t bytes = x.element_size * count, together = bytes < 16 ? bytes : 16;
  return x.stride.l == 1 && reinterpret_cast<uintptr_t>(x.data) % together == 0 &&
         (batch.classes == 1 || x.stride.c % count == 0) &&
         (batch.n == 1 || (x.stride.n % count == 0 && batch.inner % count == 0));
}

constexpr int kSums = sizeof(Sums) / sizeof(double);

// Whether the kernels for any input can take four samples at a time.
inline bool has_packs(const Batch& batch, const Division& division) {
  const auto aligned = [&](const Array& x) { return is_aligned(x, batch, 4); };
  const Strides& c = batch.contiguous;
  return division.tile == 1 && aligned(batch.input) && aligned(batch.target) &&
         aligned(batch.weight) && c.l == 1 && (batch.classes == 1 || c.c % 4 == 0);
}

// What a block leaves behind for the last one.
struct Workspace {
  double* sums;         // (parts, C, T, kSums)
  double* totals;       // (parts, C, 2): weight and cross-entropy
  ClassTotals* of_all;  // (C + 1); the last for average = "micro"
  Counts* merged;       // (T), for average = "micro"
  unsigned* ticket;
};

struct Result {
  Counts* counts;         // (C, T)
  double* totals;         // (C, 2), or null where a loss is asked for
  double* cross_entropy;  // (C), or null
  LossRule rule;          // all but the metric, which stands in a vector on the device
  const double* metric;   // a, a0, b, b0
  LossOutput loss;
  Counts* grad_counts;
  double* grad_entropy;
};

// dL/dcounts (C, T) and dL/dcross_entropy (C), both times grad_loss, of which there is one or one a
// class, or none.
struct Upstream {
  const Counts* counts;
  const double* cross_entropy;
  Array loss;
};

// Arithmetic is in float64 for float64 input, in float32 otherwise. Tickets must be 0.
cudaError_t launch_soft_counts(const Batch& batch, bool with_cross_entropy, const Workspace& work,
                               const Result& result, cudaStream_t stream);

// Into a contiguous tensor of the shape and dtype of input.
cudaError_t launch_gradient(const Batch& batch, const Upstream& upstream, void* grad_input,
                            cudaStream_t stream);

// partial: (blocks, T).
cudaError_t launch_threshold_gradient(const Batch& batch, const Upstream& upstream, double* partial,
                                      unsigned* ticket, double* grad_threshold,
                                      cudaStream_t stream);

cudaError_t launch_one_vs_rest(const Rows& rows, bool float64, const void* z, void* output,
                               cudaStream_t stream);
cudaError_t launch_one_vs_rest_backward(const Rows& rows, bool float64, const void* grad,
                                        const void* z, const void* output, void* grad_z,
                                        cudaStream_t stream);

// The kernels for plain probabilities; false where they do not serve the batch.
bool is_plain(const Batch& batch, const Division& division);
cudaError_t launch_plain_soft_counts(const Batch& batch, const Division& division,
                                     const Workspace& work, const Result& result,
                                     cudaStream_t stream);
cudaError_t launch_plain_gradient(const Batch& batch, const Division& division,
                                  const Upstream& upstream, void* grad_input, cudaStream_t stream);

}  // namespace softcm
