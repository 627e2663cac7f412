// What the last block does: from the sums of all blocks to counts, and on to the loss.
#pragma once

#include "reduce.cuh"
#include "samples.cuh"

namespace softcm {

// The weights of both rows, which are the same at every threshold.
__device__ __forceinline__ void store_rows(const Sums& sums, ClassTotals& totals) {
  totals.positives = sums.weight1_below + sums.weight1_above;
  totals.negatives = sums.weight0_below + sums.weight0_above;
}

__device__ __forceinline__ void count_all(const Batch& batch, int64_t parts, const Workspace& work,
                                          Counts* of_all) {
  const int64_t items = batch.groups * batch.thresholds;
  const int warp = threadIdx.x / 32;
  const bool first = threadIdx.x % 32 == 0;
  for (int64_t item = warp; item < items; item += kWarps) {
    double v[kSums];
    sum_rows(work.sums + item * kSums, parts, items * kSums, v);
    if (!first) continue;
    Sums sums;
    sums += {v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]};
    of_all[item] = counts(sums, batch.gated);
    if (item % batch.thresholds == 0) {
      store_rows(sums, work.of_all[item / batch.thresholds]);
    }
  }
  for (int64_t group = warp; group < batch.groups; group += kWarps) {
    double v[2];
    sum_rows(work.totals + group * 2, parts, batch.groups * 2, v);
    if (!first) continue;
    work.of_all[group].weight = v[0];
    work.of_all[group].cross_entropy = v[1];
  }
  __syncthreads();
}

// For average = "micro": all classes as one.
__device__ __forceinline__ void merge_classes(const Batch& batch, const Counts* of_all,
                                              const Workspace& work) {
  for (int64_t t = threadIdx.x; t < batch.thresholds; t += kThreads) {
    Counts sum = {0, 0, 0, 0};
    for (int64_t c = 0; c < batch.groups; ++c) sum += of_all[c * batch.thresholds + t];
    work.merged[t] = sum;
  }
  if (threadIdx.x == 0) {
    ClassTotals sum;
    for (int64_t c = 0; c < batch.groups; ++c) sum += work.of_all[c];
    work.of_all[batch.groups] = sum;
  }
  __syncthreads();
}

template <class Metric>
__device__ __forceinline__ void write_loss(const Batch& batch, const Workspace& work,
                                           const Result& result, const Metric& metric) {
  // Not in registers, of which the sums over classes leave too few.
  __shared__ LossRuleOf<Metric> rule;
  if (threadIdx.x == 0) rule = result.rule.with(metric);
  __syncthreads();
  const bool micro = rule.average == Average::kMicro;
  if (micro) merge_classes(batch, result.counts, work);
  const LossArrays arrays{micro ? 1 : batch.groups,
                          batch.thresholds,
                          micro ? work.merged : result.counts,
                          micro ? work.of_all + batch.groups : work.of_all,
                          result.loss,
                          result.grad_counts,
                          result.grad_entropy};
  const LossSums of_thread = accumulate(rule, arrays, threadIdx.x, kThreads);
  __shared__ double of_block[5];
  const double values[5] = {of_thread.shares, of_thread.losses, of_thread.weight,
                            of_thread.cross_entropy, of_thread.entropy_weight};
  sum_block<1>(values, 1, [&](int k, int, double sum) { of_block[k] = sum; });
  const LossSums sums{of_block[0], of_block[1], of_block[2], of_block[3], of_block[4]};
  finish(rule, arrays, sums, threadIdx.x, kThreads);
  if (!micro) return;
  __syncthreads();
  const int64_t items = batch.groups * batch.thresholds;
  for (int64_t i = batch.thresholds + threadIdx.x; i < items; i += kThreads) {
    result.grad_counts[i] = result.grad_counts[i % batch.thresholds];
  }
  for (int64_t c = 1 + threadIdx.x; c < batch.groups; c += kThreads) {
    result.grad_entropy[c] = result.grad_entropy[0];
  }
}

// From the counts of all groups, and what each has beside them, to what is asked for.
__device__ __forceinline__ void conclude(const Batch& batch, const Workspace& work,
                                         const Result& result) {
  if (result.totals == nullptr) {
    const double* m = result.metric;
    if (m == nullptr) return write_loss(batch, work, result, result.composite);
    const LinearFractional metric{{m[0], m[1], m[2], m[3]}, m[4], {m[5], m[6], m[7], m[8]}, m[9]};
    return write_loss(batch, work, result, metric);
  }
  for (int64_t group = threadIdx.x; group < batch.groups; group += kThreads) {
    const ClassTotals& totals = work.of_all[group];
    result.totals[3 * group] = totals.weight;
    result.totals[3 * group + 1] = totals.positives;
    result.totals[3 * group + 2] = totals.negatives;
    result.cross_entropy[group] = totals.cross_entropy;
  }
}

// A call, so that its registers are not those of the loop over the samples.
__device__ inline __attribute__((noinline)) void finish_batch(const Batch& batch, int64_t parts,
                                                              const Workspace& work,
                                                              const Result& result) {
  count_all(batch, parts, work, result.counts);
  conclude(batch, work, result);
}

}  // namespace softcm
