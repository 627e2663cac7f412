// The pass over the samples at many thresholds: sums of each bucket, exact in fixed point, and from
// them the counts at every threshold.
//
// Integers add up to the same in any order, so atomics may add them: native ones on 32 bits in
// shared memory, on 64 bits over the grid. The first and the last bucket, where predictions pile
// up and p or 1 - p can be as small as may be, are summed by each thread for itself, in floats.
#pragma once

#include "buckets.cuh"

namespace softcm {

constexpr int kBits = 17;          // of a limb; a number in [0, 1] has two of them
constexpr int64_t kRound = 16384;  // samples after which the limbs, in 32 bits, must be emptied
constexpr float kLimb = 1 << kBits;

// Of the samples of a block, by label and bucket: weights, and how far within the bucket they are.
struct Limbs {
  unsigned high[2][kBuckets], low[2][kBuckets];

  // value: in [0, 1], or NaN together with a fault
  __device__ __forceinline__ void add(int label, int bucket, float value) {
    const float scaled = value * kLimb;
    const unsigned whole = static_cast<unsigned>(scaled);
    const float rest = (scaled - static_cast<float>(whole)) * kLimb;
    atomicAdd(&high[label][bucket], whole);
    atomicAdd(&low[label][bucket], static_cast<unsigned>(rest + 0.5f));
  }

  __device__ __forceinline__ void add_one(int label, int bucket) {
    atomicAdd(&high[label][bucket], 1u << kBits);
  }

  __device__ __forceinline__ Fixed take(int label, int bucket) {
    const Fixed sum = (Fixed{high[label][bucket]} << kBits) + low[label][bucket];
    high[label][bucket] = low[label][bucket] = 0;
    return sum;
  }
};

// Where a bucket begins and how wide it is, in p below 1/2, in 1 - p above: there the small one of
// the two is what is summed.
struct Places {
  float begin[kBuckets], inverse[kBuckets];  // 1 / width

  __device__ __forceinline__ void build(const Knots<Linear>& knots) {
    // The 1 - p of a logit may lie off the bucket of its p by the rounding of p.
    constexpr float kMargin = 2.4e-7f;
    for (int b = 1 + threadIdx.x; b < knots.knots; b += kThreads) {
      const float low = knots.knot[b - 1], high = knots.knot[b];
      const bool above = b >= knots.half;
      const float width = (high - low) + (above ? 2 * kMargin : 0.0f);
      begin[b] = above ? (1.0f - high) - kMargin : low;
      inverse[b] = width > 3e-39f ? 1.0f / width : 0.0f;
    }
  }

  __device__ __forceinline__ float within(int b, float small) const {
    const float x = (small - begin[b]) * inverse[b];
    const float positive = x > 0 ? x : 0.0f;
    return positive < 1 ? positive : 1.0f;
  }

  // The sum of small over samples of the sum weight, of which within() has the weighted sum x.
  __device__ __forceinline__ double sum(int b, double weight, double x) const {
    return static_cast<double>(begin[b]) * weight +
           (inverse[b] > 0 ? x / static_cast<double>(inverse[b]) : 0.0);
  }
};

template <class Buckets>
struct Shared {
  static constexpr bool kHasPlaces = std::is_same_v<Buckets, Knots<Linear>>;

  Buckets buckets;
  Limbs weights;
  std::conditional_t<kHasPlaces, Limbs, char> within;
  std::conditional_t<kHasPlaces, Places, char> places;
  double edge[kSums];  // see add_to_buckets

  __device__ __forceinline__ void build(const Batch& batch, int64_t c, int64_t chunk) {
    buckets.build(batch, c, chunk);
    if constexpr (kHasPlaces) places.build(buckets);
    __syncthreads();
  }

  __device__ __forceinline__ void clear() {
    for (int i = threadIdx.x; i < 2 * kBuckets; i += kThreads) {
      weights.take(i / kBuckets, i % kBuckets);
      if constexpr (kHasPlaces) within.take(i / kBuckets, i % kBuckets);
    }
    __syncthreads();
  }

  // Adds what is there to a histogram (2, 2, kBuckets) in global memory.
  __device__ __forceinline__ void flush(Fixed* histogram) {
    const auto add = [&](Limbs& limbs, int i, Fixed* to) {
      const Fixed sum = limbs.take(i / kBuckets, i % kBuckets);
      if (sum != 0) atomicAdd(to + i, sum);
    };
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * kBuckets; i += kThreads) {
      add(weights, i, histogram);
      if constexpr (kHasPlaces) add(within, i, histogram + 2 * kBuckets);
    }
    __syncthreads();
  }
};

// weight: in (0, 1].
template <class Buckets>
__device__ __forceinline__ void add_row(Shared<Buckets>& shared, int label, int b, float weight,
                                        float within) {
  if (weight == 1) {
    shared.weights.add_one(label, b);
  } else {
    shared.weights.add(label, b, weight);
  }
  if constexpr (Shared<Buckets>::kHasPlaces) shared.within.add(label, b, weight * within);
}

// To the first and the last bucket as if they were the sides of a threshold, with small in the
// place of other; to those between in fixed point.
template <class Buckets, int kPack>
__device__ __forceinline__ void add_to_buckets(Shared<Buckets>& shared,
                                               const Sample<float> (&samples)[kPack],
                                               Accumulators<float, 1>& edges) {
  const int last = shared.buckets.buckets() - 1;
  float (&lanes)[kSums] = edges.lanes[0];
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const Sample<float>& s = samples[i];
    const int b = shared.buckets.find(s.p);
    if (b == 0) {
      lanes[0] += s.w1 * s.p;
      lanes[2] += s.w0 * s.p;
      lanes[4] += s.w1;
      lanes[6] += s.w0;
    } else if (b == last) {
      lanes[1] += s.w1 * s.q;
      lanes[3] += s.w0 * s.q;
      lanes[5] += s.w1;
      lanes[7] += s.w0;
    } else {
      [[maybe_unused]] float within = 0;
      if constexpr (Shared<Buckets>::kHasPlaces) {
        within = shared.places.within(b, b < shared.buckets.half ? s.p : s.q);
      }
      // Of most samples only one row has weight.
      const bool positive = s.w1 > s.w0;
      float weight = positive ? s.w1 : s.w0;
#pragma unroll 1
      for (int row = 0; row < 2 && weight > 0; ++row) {
        add_row(shared, positive != (row == 1), b, weight, within);
        weight = positive ? s.w0 : s.w1;
      }
    }
  }
}

// What is known of a bucket and a label when all blocks are done.
struct OfBucket {
  double weight, small;
};

template <class Buckets>
__device__ __forceinline__ OfBucket of_bucket(const Shared<Buckets>& shared, const Fixed* histogram,
                                              int label, int b) {
  constexpr double kUnit = 1.0 / (int64_t{1} << (2 * kBits));
  const double* edge = shared.edge + (label == 1 ? 0 : 2);
  if (b == 0) return {edge[4], edge[0]};
  if (b == shared.buckets.buckets() - 1) return {edge[5], edge[1]};
  const int at = label * kBuckets + b;
  const double weight = static_cast<double>(__ldcg(histogram + at)) * kUnit;
  if constexpr (Shared<Buckets>::kHasPlaces) {
    const double within = static_cast<double>(__ldcg(histogram + 2 * kBuckets + at)) * kUnit;
    return {weight, shared.places.sum(b, weight, within)};
  } else {
    return {weight, 0};
  }
}

// The memory of a group's running sums of a label: those of weight from below, of p from below, of
// weight from above, of 1 - p from above.
__device__ __forceinline__ double* running_sums(const Workspace& work, int64_t group, int label,
                                                int which) {
  return work.running + ((group * 2 + label) * 4 + which) * (kBuckets + 1);
}

__device__ __forceinline__ RunningSums of_label(const Workspace& work, int64_t group, int label) {
  return {running_sums(work, group, label, 0), running_sums(work, group, label, 1),
          running_sums(work, group, label, 2), running_sums(work, group, label, 3)};
}

// Each warp makes one of the eight running sums.
template <template <class> class H>
__device__ __forceinline__ void sum_up_buckets(const Shared<Knots<H>>& shared,
                                               const Fixed* histogram, const Workspace& work,
                                               int64_t group) {
  static_assert(kWarps == 8);
  const int label = threadIdx.x / 32 / 4, which = threadIdx.x / 32 % 4;
  const int size = shared.buckets.buckets();
  const bool from_below = which < 2, of_weight = which % 2 == 0;
  double* to = running_sums(work, group, label, which);
  const auto value = [&](int i) {
    const int b = from_below ? i : size - 1 - i;
    const OfBucket x = of_bucket(shared, histogram, label, b);
    const bool is_small = (b < shared.buckets.half) == from_below;
    return of_weight ? x.weight : (is_small ? x.small : x.weight - x.small);
  };
  sum_up(size, value, [&](int i, double sum) { to[from_below ? i : size - i] = sum; });
  __syncthreads();
}

// The sums at threshold t of the chunk.
__device__ __forceinline__ Sums sums_at(const Shared<Knots<Linear>>& shared, const Batch& batch,
                                        const Workspace& work, const Fixed*, int64_t group,
                                        int64_t t) {
  return shared.buckets.segments(batch, static_cast<int>(t))
      .sums(of_label(work, group, 1), of_label(work, group, 0));
}

__device__ __forceinline__ Sums sums_at(const Shared<Knots<Step>>& shared, const Batch&,
                                        const Workspace& work, const Fixed*, int64_t group,
                                        int64_t t) {
  const RunningSums positive = of_label(work, group, 1), negative = of_label(work, group, 0);
  const int b = shared.buckets.begin[0][t];
  // 0, or NaN if there is one in the input.
  const double other1 = 0 * positive.p_below[1], other0 = 0 * negative.p_below[1];
  return {other1,
          other1,
          other0,
          other0,
          positive.weight_below[b],
          positive.weight_above[b],
          negative.weight_below[b],
          negative.weight_above[b]};
}

__device__ __forceinline__ Sums sums_at(const Shared<Levels>& shared, const Batch& batch,
                                        const Workspace&, const Fixed* histogram, int64_t group,
                                        int64_t t) {
  const int64_t c = batch.class_of(group);
  const auto h = Lookup<float>::make(batch, c, t, threshold_at(batch, c, t));
  const double nan1 = 0 * shared.edge[0], nan0 = 0 * shared.edge[2];
  Sums sums{nan1, nan1, nan0, nan0};
  for (int b = 0; b < shared.buckets.levels; ++b) {
    const double w1 = of_bucket(shared, histogram, 1, b).weight;
    const double w0 = of_bucket(shared, histogram, 0, b).weight;
    const double o = static_cast<double>(h.other_at(b));
    if (b < h.middle) {
      sums += {w1 * o, 0, w0 * o, 0, w1, 0, w0, 0};
    } else {
      sums += {0, w1 * o, 0, w0 * o, 0, w1, 0, w0};
    }
  }
  return sums;
}

// A group's counts, by the last of its blocks. A call: see finish_batch.
template <class Buckets>
__device__ __attribute__((noinline)) void finish_group(Shared<Buckets>& shared, const Batch& batch,
                                                       int64_t parts, int64_t group,
                                                       const Workspace& work, Counts* of_all) {
  const int64_t chunks = Buckets::chunks(batch), c = batch.class_of(group);
  const double pos_weight = batch.pos_weight.data == nullptr ? 1 : number(batch.pos_weight, c);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const Fixed* histogram = work.histogram + (group * chunks + chunk) * 4 * kBuckets;
    shared.build(batch, c, chunk);
    if (threadIdx.x < 32) {
      double v[kSums];
      sum_rows(work.sums + (group * chunks + chunk) * kSums, parts, batch.groups * chunks * kSums,
               v);
      if (threadIdx.x == 0) {
        for (int k = 0; k < kSums; ++k) shared.edge[k] = v[k];
      }
    }
    __syncthreads();
    if constexpr (!std::is_same_v<Buckets, Levels>) {
      sum_up_buckets(shared, histogram, work, group);
    }
    const int64_t first = chunk * kTogether;
    const int64_t count = shared.buckets.thresholds_of(batch);
    for (int64_t t = threadIdx.x; t < count; t += kThreads) {
      Sums sums = sums_at(shared, batch, work, histogram, group, t);
      sums.weigh_positives(pos_weight);
      of_all[group * batch.thresholds + first + t] = counts(sums, batch.gated);
      if (first + t == 0) store_rows(sums, work.of_all[group]);
    }
    __syncthreads();
  }
  if (threadIdx.x >= 32) return;
  double v[2];
  sum_rows(work.totals + group * 2, parts, batch.groups * 2, v);
  if (threadIdx.x == 0) {
    work.of_all[group].weight = v[0];
    work.of_all[group].cross_entropy = v[1];
  }
}

// Samples begin ... end - 1 of a round.
template <int kPack, bool kPlain, class Buckets>
__device__ __forceinline__ void add_samples(Shared<Buckets>& shared, const Batch& batch,
                                            const Share& share, int64_t begin, int64_t end,
                                            bool with_totals, bool with_cross_entropy,
                                            Accumulators<float, 1>& edges) {
  const int64_t of_input = batch.offset(batch.input.stride, share.group);
  const int64_t of_target = batch.offset(batch.target.stride, share.group);
  const float pos_weight = positive_weight<float>(batch, share.c);
  int terms = 0;
  for (int64_t s = begin + int64_t{kPack} * threadIdx.x; s < end; s += kPack * kThreads) {
    Sample<float> samples[kPack];
    if constexpr (kPlain) {
      load_plain<float>(batch, of_input + s, of_target + s, samples, edges.faults);
      add_to_buckets(shared, samples, edges);
    } else {
      load_samples<kPack>(batch, Position(batch, share, s), 1.0f, samples, edges.faults);
      add_to_buckets(shared, samples, edges);
      if (with_totals) {
#pragma unroll
        for (int i = 0; i < kPack; ++i) samples[i].w1 *= pos_weight;
        edges.add_totals(batch, samples, with_cross_entropy);
      }
    }
    terms += kPack;
    if (terms == kTerms) {
      edges.flush_all();
      terms = 0;
    }
  }
  edges.flush_all();
}

// kPlain: float32 input of which has_plain_samples() holds, and no cross-entropy.
template <class Buckets, int kPack, bool kPlain>
SOFTCM_KERNEL(2)
histogram_kernel(const __grid_constant__ Batch batch, const __grid_constant__ Division division,
                 bool with_cross_entropy, const __grid_constant__ Workspace work,
                 const __grid_constant__ Result result) {
  __shared__ Shared<Buckets> shared;
  const Share share(batch, division);
  const int64_t chunks = Buckets::chunks(batch);
  shared.clear();
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    Fixed* histogram = work.histogram + (share.group * chunks + chunk) * 4 * kBuckets;
    Accumulators<float, 1> edges;
    shared.build(batch, share.c, chunk);
    for (int64_t begin = share.begin; begin < share.end; begin += kRound) {
      const int64_t end = begin + kRound < share.end ? begin + kRound : share.end;
      const int64_t whole = begin + (end - begin) / kPack * kPack;
      add_samples<kPack, kPlain>(shared, batch, share, begin, whole, chunk == 0, with_cross_entropy,
                                 edges);
      if (kPack > 1 && whole < end) {
        add_samples<1, kPlain>(shared, batch, share, whole, end, chunk == 0, with_cross_entropy,
                               edges);
      }
      shared.flush(histogram);
    }
    edges.faults.raise();
    if (kPlain && threadIdx.x == 0) edges.totals[0] = static_cast<double>(share.end - share.begin);
    store_sums<1>(batch, division, share, chunk, chunks, edges, work);
  }
  if (!is_last_block(work.ticket + 1 + share.group, static_cast<unsigned>(division.parts))) return;
  finish_group(shared, batch, division.parts, share.group, work, result.counts);
  if (!is_last_block(work.ticket, static_cast<unsigned>(batch.groups))) return;
  conclude(batch, work, result);
}

}  // namespace softcm
