// The pass over the samples that gives the sums of membership.h, and with its last block the counts
// or the loss.
#pragma once

#include <type_traits>

#include "finish.cuh"
#include "lookup_table.cuh"

namespace softcm {

// Sums of one threshold, in the order of Sums.
template <class T, class H>
__device__ __forceinline__ void add_sample(const H& h, const Sample<T>& s, T (&sums)[kSums]) {
  const T o = h.other(s.p, s.q);
  const T o1 = s.w1 * o, o0 = s.w0 * o;
  if (is_below(h, s.p)) {
    sums[0] += o1;
    sums[2] += o0;
    sums[4] += s.w1;
    sums[6] += s.w0;
  } else {
    sums[1] += o1;
    sums[3] += o0;
    sums[5] += s.w1;
    sums[7] += s.w0;
  }
}

// Moves sums of at most kTerms terms, in which float32 has its digits, to float64.
template <class T, int kCount>
__device__ __forceinline__ void flush(T (&lanes)[kCount], double (&totals)[kCount]) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    totals[k] += static_cast<double>(lanes[k]);
    lanes[k] = T(0);
  }
}

// The approximations at kCount thresholds.
template <class H, int kCount>
struct Group {
  H value[kCount];
};

// A thread's sums for kGroup thresholds.
template <class T, int kGroup>
struct Accumulators {
  T lanes[kGroup][kSums] = {}, of_sample[2] = {};
  double sums[kGroup][kSums] = {}, totals[2] = {};  // weight and cross-entropy
  Faults faults;

  template <class H, int kPack>
  __device__ __forceinline__ void add(const H (&h)[kGroup], const Sample<T> (&samples)[kPack]) {
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) add_sample(h[g], samples[i], lanes[g]);
    }
  }

  template <int kPack>
  __device__ __forceinline__ void add_totals(const Batch& batch, const Sample<T> (&samples)[kPack],
                                             bool with_cross_entropy) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const Sample<T>& x = samples[i];
      of_sample[0] += x.weight;
      if (!with_cross_entropy) continue;
      const T w0 = entropy_weight_of_negative(batch, x);
      of_sample[1] += batch.from_logits ? cross_entropy_of_logit(x.z, x.w1, w0)
                                        : cross_entropy_of_probability(x.p, x.q, x.w1, w0);
    }
  }

  __device__ __forceinline__ void flush_all() {
#pragma unroll
    for (int g = 0; g < kGroup; ++g) flush(lanes[g], sums[g]);
    flush(of_sample, totals);
  }
};

__device__ __forceinline__ double threshold_at(const Batch& batch, int64_t c, int64_t t) {
  const double tau = number(batch.threshold, t, c);
  if (!(tau > 0 && tau < 1)) SOFTCM_FAIL("softcm: threshold must lie in (0, 1)");
  return tau;
}

template <class T, class H>
__device__ __forceinline__ H make_heaviside(const Batch& batch, int64_t c, int64_t t) {
  const double tau = threshold_at(batch, c, t);
  if constexpr (std::is_same_v<H, Lookup<T>>) {
    return H::make(batch, c, t, tau);
  } else {
    return H::make(tau, batch.parameter);
  }
}

template <class T>
__device__ __forceinline__ T positive_weight(const Batch& batch, int64_t c) {
  if (batch.pos_weight.data == nullptr) return T(1);
  const double weight = number(batch.pos_weight, c);
  if (!(weight - weight == 0 && weight >= 0)) {
    SOFTCM_FAIL("softcm: pos_weight must be finite and >= 0");
  }
  return static_cast<T>(weight);
}

// Samples begin ... end - 1 of a thread's group; totals belong to the first kGroup thresholds.
template <int kPack, class T, class H, int kGroup>
__device__ __forceinline__ void sum_samples(const Batch& batch, const Share& share, int64_t begin,
                                            int64_t end, bool with_totals, bool with_cross_entropy,
                                            const H (&h)[kGroup],
                                            Accumulators<T, kGroup>& accumulators) {
  const T pos_weight = positive_weight<T>(batch, share.c);
  const int64_t step = int64_t{kPack} * share.rows;
  int terms = 0;
  for (int64_t s = begin + int64_t{kPack} * share.row; s < end; s += step) {
    Sample<T> samples[kPack];
    load_samples<kPack>(batch, Position(batch, share, s), pos_weight, samples, accumulators.faults);
    accumulators.add(h, samples);
    if (with_totals) accumulators.add_totals(batch, samples, with_cross_entropy);
    terms += kPack;
    if (terms == kTerms) {
      accumulators.flush_all();
      terms = 0;
    }
  }
  accumulators.flush_all();
}

// Adds up a block's sums for items first, first + 1, ... of the count that a group has, such as
// thresholds, and leaves them in the workspace.
template <int kMostTile = kTile, class T, int kGroup>
__device__ __forceinline__ void store_sums(const Batch& batch, const Division& division,
                                           const Share& share, int64_t first, int64_t count,
                                           Accumulators<T, kGroup>& accumulators,
                                           const Workspace& work) {
  const int64_t of_part = share.part * batch.groups + share.first_group;
  const int64_t groups_left = batch.groups - share.first_group;
#pragma unroll
  for (int g = 0; g < kGroup; ++g) {
    if (first + g >= count) break;
    sum_block<kMostTile>(accumulators.sums[g], division.tile, [&](int k, int of_tile, double sum) {
      const int64_t item = (of_part + of_tile) * count + first + g;
      if (of_tile < groups_left) work.sums[item * kSums + k] = sum;
    });
  }
  if (first > 0) return;
  sum_block<kMostTile>(accumulators.totals, division.tile, [&](int k, int of_tile, double sum) {
    if (of_tile < groups_left) work.totals[(of_part + of_tile) * 2 + k] = sum;
  });
}

// A block's share of any input. kGroup thresholds stand in registers; for more of them the samples
// are read again.
template <template <class> class H, class T, int kGroup, int kPack>
__device__ __forceinline__ void sum_share(const Batch& batch, const Division& division,
                                          const Share& share, bool with_cross_entropy,
                                          const Workspace& work) {
  __shared__ Group<H<T>, kGroup> shared;
  for (int64_t first = 0; first < batch.thresholds; first += kGroup) {
    if (threadIdx.x < kGroup) {
      // Where fewer than kGroup are left, the last one repeats, and its sums are forgotten.
      const int64_t t = first + threadIdx.x, last = batch.thresholds - 1;
      shared.value[threadIdx.x] = make_heaviside<T, H<T>>(batch, share.c, t < last ? t : last);
    }
    __syncthreads();
    const Group<H<T>, kGroup> group = shared;
    Accumulators<T, kGroup> accumulators;
    if (share.active) {
      const int64_t whole = share.end_of_packs<kPack>();
      sum_samples<kPack>(batch, share, share.begin, whole, first == 0, with_cross_entropy,
                         group.value, accumulators);
      if (kPack > 1) {
        sum_samples<1>(batch, share, whole, share.end, first == 0, with_cross_entropy, group.value,
                       accumulators);
      }
      accumulators.faults.raise();
    }
    store_sums(batch, division, share, first, batch.thresholds, accumulators, work);
  }
}

template <template <class> class H, class T, int kGroup, int kPack>
SOFTCM_KERNEL(kGroup == 1 ? 2 : 1)
soft_counts_kernel(const __grid_constant__ Batch batch, const __grid_constant__ Division division,
                   bool with_cross_entropy, const __grid_constant__ Workspace work,
                   const __grid_constant__ Result result) {
  const Share share(batch, division);
  sum_share<H, T, kGroup, kPack>(batch, division, share, with_cross_entropy, work);
  if (is_last_block(work.ticket, gridDim.x)) finish_batch(batch, division.parts, work, result);
}

// Probabilities and labels of one floating dtype In, each in one run of memory for a group, at one
// threshold, with no other option set.
template <template <class> class H, class In>
SOFTCM_KERNEL(2)
plain_counts_kernel(const __grid_constant__ Batch batch, const __grid_constant__ Division division,
                    const __grid_constant__ Workspace work, const __grid_constant__ Result result) {
  constexpr int kPack = 16 / sizeof(In), kPacks = kTerms / kPack;
  __shared__ H<float> shared;
  const Share share(batch, division);
  if (threadIdx.x == 0) shared = make_heaviside<float, H<float>>(batch, share.c, 0);
  __syncthreads();
  const H<float> h[1] = {shared};
  Accumulators<float, 1> accumulators;
  const int64_t of_input = batch.offset(batch.input.stride, share.group);
  const int64_t of_target = batch.offset(batch.target.stride, share.group);
  const int64_t step = int64_t{kThreads} * kPack;
  int64_t s = share.begin + threadIdx.x * kPack;
  // All loads of a round come first, as many as the memory's latency asks for.
  for (; s + (kPacks - 1) * step + kPack <= share.end; s += kPacks * step) {
    Sample<float> samples[kPacks][kPack];
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int64_t at = s + i * step;
      load_plain<In>(batch, of_input + at, of_target + at, samples[i], accumulators.faults);
    }
#pragma unroll
    for (int i = 0; i < kPacks; ++i) accumulators.add(h, samples[i]);
    accumulators.flush_all();
  }
  for (; s < share.end; s += step) {
    for (int64_t at = s; at < s + kPack && at < share.end; ++at) {
      Sample<float> samples[1];
      load_plain<In>(batch, of_input + at, of_target + at, samples, accumulators.faults);
      accumulators.add(h, samples);
    }
    accumulators.flush_all();
  }
  accumulators.faults.raise();
  if (threadIdx.x == 0) accumulators.totals[0] = static_cast<double>(share.end - share.begin);
  store_sums<1>(batch, division, share, 0, 1, accumulators, work);
  if (is_last_block(work.ticket, gridDim.x)) finish_batch(batch, division.parts, work, result);
}

}  // namespace softcm
