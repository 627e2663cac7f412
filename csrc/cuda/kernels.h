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
constexpr int kTile = 32;   // groups that a block takes at most

// A block takes a part of the samples of a tile of groups, which share their thresholds.
struct Division {
  int64_t size;  // samples of a part
  int64_t parts;
  int tile;  // groups, a power of 2; 1 where the samples of a group are neighbours in memory
  int64_t tiles;

  int64_t blocks() const { return parts * tiles; }
};

// By the shape of the batch alone, never by the device, so that sums come out the same everywhere.
inline Division divide(const Batch& batch) {
  constexpr int64_t kFewest = kThreads * kTerms, kBlocks = 1024;
  const int64_t samples = batch.samples();
  Division d{0, 0, 1, 0};
  // Neighbouring threads take neighbours in memory: samples, or groups where these come first. With
  // thresholds by class a block takes one group, as it has room for one set of approximations.
  if (batch.threshold_rows() == 1 && (batch.input.stride.l != 1 || batch.inner == 1)) {
    while (d.tile < kTile && d.tile < batch.groups) d.tile *= 2;
  }
  d.tiles = (batch.groups + d.tile - 1) / d.tile;
  const int64_t fewest = kFewest / d.tile;
  const int64_t most = kBlocks / d.tiles > 0 ? kBlocks / d.tiles : 1;
  const int64_t wanted = (samples + fewest - 1) / fewest;
  const int64_t parts = wanted < most ? wanted : most;
  d.size = ((samples + parts - 1) / parts + fewest - 1) / fewest * fewest;
  d.parts = (samples + d.size - 1) / d.size;
  return d;
}

// Whether all groups begin at multiples of count elements.
inline bool has_aligned_groups(const Strides& stride, const Batch& batch, int64_t count) {
  return (batch.classes == 1 || stride.c % count == 0) && stride.sample % count == 0;
}

// Whether count elements of every sample's run can be loaded at once.
inline bool is_aligned(const Array& x, const Batch& batch, int64_t count) {
  if (x.data == nullptr) return true;
  const int64_t bytes = x.element_size * count, together = bytes < 16 ? bytes : 16;
  return x.stride.l == 1 && reinterpret_cast<uintptr_t>(x.data) % together == 0 &&
         has_aligned_groups(x.stride, batch, count) &&
         (batch.n == 1 || (x.stride.n % count == 0 && batch.inner % count == 0));
}

// Whether there are probabilities and labels of one floating dtype of 32 bits or less, each in one
// run of memory for a group, and no other option.
inline bool has_plain_samples(const Batch& batch, const Division& division) {
  const int64_t pack = batch.input.dtype == ScalarType::Float ? 4 : 8;
  return batch.input.dtype != ScalarType::Double && batch.input.dtype == batch.target.dtype &&
         batch.n == 1 && division.tile == 1 && is_aligned(batch.input, batch, pack) &&
         is_aligned(batch.target, batch, pack) && batch.contiguous.l == 1 &&
         has_aligned_groups(batch.contiguous, batch, pack) && batch.weight.data == nullptr &&
         batch.pos_weight.data == nullptr && !batch.ignore && !batch.ignore_nan &&
         !batch.class_indices && !batch.from_logits;
}

constexpr int kSums = sizeof(Sums) / sizeof(double);

// Whether the kernels for any input can take four samples at a time.
inline bool has_packs(const Batch& batch, const Division& division) {
  const auto aligned = [&](const Array& x) { return is_aligned(x, batch, 4); };
  return division.tile == 1 && aligned(batch.input) && aligned(batch.target) &&
         aligned(batch.weight) && batch.contiguous.l == 1 &&
         has_aligned_groups(batch.contiguous, batch, 4);
}

// Of many thresholds so many at a time are turned into buckets: a thread for each, and one for 1/2.
constexpr int kTogether = kThreads - 1;
constexpr int kBuckets = 3 * kTogether + 2;

// The buckets of a table are its levels, whatever the thresholds.
SOFTCM_HD int64_t bucket_chunks(const Batch& batch) {
  return batch.kind == Kind::kTable ? 1 : (batch.thresholds + kTogether - 1) / kTogether;
}

// Blocks take one group each, and more samples than for one threshold, as each has to make buckets.
inline Division divide_for_buckets(const Batch& batch) {
  constexpr int64_t kBlocks = 512, kFewest = kThreads * kTerms;
  const int64_t samples = batch.samples();
  const int64_t most = kBlocks / batch.groups > 0 ? kBlocks / batch.groups : 1;
  Division d{0, 0, 1, batch.groups};
  d.size = ((samples + most - 1) / most + kFewest - 1) / kFewest * kFewest;
  d.parts = (samples + d.size - 1) / d.size;
  return d;
}

// Whether the kernels for buckets know an approximation.
inline bool fits_buckets(const Batch& batch) {
  switch (batch.kind) {
    case Kind::kLinear:
    case Kind::kStep:
      return true;
    case Kind::kTable:
      return batch.parameter >= 2 && batch.parameter <= kBuckets;
    case Kind::kSigmoid:
      return false;
  }
  return false;
}

// Whether the kernels for buckets can serve a batch, and should do so by the instructions of a
// thread: 25 a sample and threshold otherwise, here 70 a sample and 3,000 for the buckets. More
// groups than kMost would ask for gigabytes of buckets.
inline bool has_buckets(const Batch& batch) {
  constexpr int64_t kMost = 1 << 14;
  const int64_t samples = batch.samples(), size = divide_for_buckets(batch).size;
  const int64_t of_thread = (samples < size ? samples : size) / kThreads;
  return (batch.thresholds - 3) * of_thread > 120 && batch.groups <= kMost &&
         samples <= int64_t{1} << 30 && batch.input.dtype != ScalarType::Double &&
         batch.weight.data == nullptr && fits_buckets(batch);
}

using Fixed = unsigned long long;  // a sum in fixed point, as atomics take it

// What a block leaves behind for the last one. G: the groups.
struct Workspace {
  double* sums;         // (parts, G, T, kSums)
  double* totals;       // (parts, G, 2): weight and cross-entropy
  ClassTotals* of_all;  // (G + 1); the last for average = "micro"
  Counts* merged;       // (T), for average = "micro"
  unsigned* ticket;

  // With buckets, sums is (parts, G, chunks, kSums), and there are G further tickets.
  Fixed* histogram;  // (G, chunks, 2, 2, kBuckets), 0 at the launch
  double* running;   // (G, 2, 4, kBuckets + 1)
};

struct Result {
  Counts* counts;         // (G, T)
  double* totals;         // (G, 3), or null where a loss is asked for
  double* cross_entropy;  // (G), or null
  LossRuleOf<NoMetric> rule;
  const double* metric;  // a, a0, b, b0, on the device; or null
  Composite composite;   // where there is no such metric
  LossOutput loss;
  Counts* grad_counts;
  double* grad_entropy;
};

// Whether launch_small_loss() serves: where one block takes all samples.
inline bool is_small(const Batch& batch) {
  return !has_buckets(batch) && batch.kind != Kind::kStep && divide(batch).blocks() == 1;
}

// dL/dcounts (G, T) and dL/dcross_entropy (G), both times grad_loss, of which there is one or one a
// group, or none.
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

// Loss and gradient of a small batch at once.
cudaError_t launch_small_loss(const Batch& batch, bool with_cross_entropy, const Workspace& work,
                              const Result& result, void* grad_input, cudaStream_t stream);

// partial: (blocks, T).
cudaError_t launch_threshold_gradient(const Batch& batch, const Upstream& upstream, double* partial,
                                      unsigned* ticket, double* grad_threshold,
                                      cudaStream_t stream);

cudaError_t launch_one_vs_rest(const Rows& rows, bool float64, const void* z, void* output,
                               cudaStream_t stream);
cudaError_t launch_one_vs_rest_backward(const Rows& rows, bool float64, const void* grad,
                                        const void* z, const void* output, void* grad_z,
                                        cudaStream_t stream);

// The kernels for many thresholds.
cudaError_t launch_histogram(const Batch& batch, const Division& division, bool with_cross_entropy,
                             const Workspace& work, const Result& result, cudaStream_t stream);
cudaError_t launch_bucket_gradient(const Batch& batch, const Division& division,
                                   const Upstream& upstream, void* grad_input, cudaStream_t stream);

// The kernels for plain probabilities at one threshold, and whether they serve the batch.
bool is_plain(const Batch& batch, const Division& division);
cudaError_t launch_plain_soft_counts(const Batch& batch, const Division& division,
                                     const Workspace& work, const Result& result,
                                     cudaStream_t stream);
cudaError_t launch_plain_gradient(const Batch& batch, const Division& division,
                                  const Upstream& upstream, void* grad_input, cudaStream_t stream);

}  // namespace softcm
