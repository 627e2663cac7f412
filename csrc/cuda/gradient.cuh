// From the gradients in the counts to those in the input, elementwise, and in the thresholds.
#pragma once

#include "soft_counts.cuh"

namespace softcm {

__device__ __forceinline__ double grad_loss(const Upstream& upstream, int64_t group) {
  return upstream.loss.data == nullptr ? 1 : number(upstream.loss, group);
}

template <class T>
__device__ __forceinline__ Slopes<T> slopes_at(const Batch& batch, const Upstream& upstream,
                                               int64_t group, int64_t t) {
  const double scale = grad_loss(upstream, group);
  const Counts& g = upstream.counts[group * batch.thresholds + t];
  return slopes<T>({scale * g.tp, scale * g.fn, scale * g.fp, scale * g.tn}, batch.gated);
}

// What a sample's gradient is found from, for some thresholds at a time and the groups of a tile,
// in shared memory.
template <class T, class H>
struct Parameters {
  static constexpr int kChunk = 16;

  int thresholds;
  H heaviside[kChunk];
  Slopes<T> slopes[kChunk][kTile];

  __device__ __forceinline__ static int64_t chunks(const Batch& batch) {
    return (batch.thresholds + kChunk - 1) / kChunk;
  }

  // By all threads of the block, which may read what is there until it is called, and what comes
  // when it returns.
  __device__ __forceinline__ void fill(const Batch& batch, const Division& division,
                                       const Share& share, const Upstream& upstream,
                                       int64_t chunk) {
    const int64_t first = chunk * kChunk, left = batch.thresholds - first;
    const int count = left < kChunk ? static_cast<int>(left) : kChunk;
    __syncthreads();
    if (threadIdx.x == 0) thresholds = count;
    if (threadIdx.x < count) {
      heaviside[threadIdx.x] = make_heaviside<T, H>(batch, share.c, first + threadIdx.x);
    }
    for (int i = threadIdx.x; i < count * division.tile; i += kThreads) {
      const int t = i / division.tile, of_tile = i % division.tile;
      const int64_t group = share.first_group + of_tile;
      if (group >= batch.groups) continue;
      slopes[t][of_tile] = slopes_at<T>(batch, upstream, group, first + t);
    }
    __syncthreads();
  }

  template <int kPack>
  __device__ __forceinline__ void add(const Sample<T> (&samples)[kPack], int of_tile,
                                      T (&grad)[kPack]) const {
    for (int t = 0; t < thresholds; ++t) {
      add_gradients(heaviside[t], slopes[t][of_tile], samples, grad);
    }
  }
};

template <int kCount, class To, class T>
__device__ __forceinline__ void store_to(void* data, int64_t offset, const T (&from)[kCount]) {
  Pack<To, kCount> pack;
#pragma unroll
  for (int i = 0; i < kCount; ++i) pack.value[i] = static_cast<To>(from[i]);
  *reinterpret_cast<Pack<To, kCount>*>(static_cast<To*>(data) + offset) = pack;
}

template <int kCount, class T>
__device__ __forceinline__ void store(void* data, ScalarType dtype, int64_t offset,
                                      const T (&from)[kCount]) {
  switch (dtype) {
    case ScalarType::Double:
      return store_to<kCount, double>(data, offset, from);
    case ScalarType::Half:
      return store_to<kCount, Half>(data, offset, from);
    case ScalarType::BFloat16:
      return store_to<kCount, BFloat16>(data, offset, from);
    default:
      return store_to<kCount, float>(data, offset, from);
  }
}

template <class T, class H, int kPack>
__device__ __forceinline__ void add_gradients(const H& h, const Slopes<T>& k,
                                              const Sample<T> (&samples)[kPack], T (&grad)[kPack]) {
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const Sample<T>& s = samples[i];
    grad[i] += h.slope(s.p, s.q) * k(is_below(h, s.p), s.w1, s.w0);
  }
}

// Samples begin ... end - 1, which all threads of a block go through in step, since the chunks of
// more thresholds than fit into shared memory pass through it in turn (kInTurn).
template <int kPack, bool kInTurn, bool kWithEntropy, class T, class Access, class P>
__device__ __forceinline__ void write_gradients(const Batch& batch, const Division& division,
                                                const Share& share, int64_t begin, int64_t end,
                                                const Upstream& upstream, P& parameters,
                                                const Access& access, void* grad_input) {
  const T of_entropy =
      static_cast<T>(upstream.cross_entropy[share.group] * grad_loss(upstream, share.group));
  const bool from_logits = !Access::kPlain && batch.from_logits;
  const int of_tile = threadIdx.x % division.tile;
  const int64_t chunks = kInTurn ? P::chunks(batch) : 1;
  for (int64_t base = begin; base < end; base += int64_t{kPack} * share.rows) {
    const int64_t s = base + int64_t{kPack} * share.row;
    const bool inside = share.active && s < end;
    const Position at(batch, share, inside ? s : begin);
    Sample<T> samples[kPack];
    T grad[kPack] = {};
    access.load(at, samples);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      if (kInTurn) parameters.fill(batch, division, share, upstream, chunk);
      parameters.add(samples, of_tile, grad);
    }
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const Sample<T>& x = samples[i];
      const T w0 = Access::kPlain ? x.w0 : entropy_weight_of_negative(batch, x);
      const T value = kWithEntropy
                          ? input_gradient(grad[i], x.p, x.q, x.w1, w0, of_entropy, from_logits)
                          : grad[i];
      grad[i] = x.counted ? value : T(0);
    }
    if (inside) access.store(grad_input, at, grad);
  }
}

template <int kPack, class T, class Access, class P>
__device__ __forceinline__ void write_all_gradients(const Batch& batch, const Division& division,
                                                    const Share& share, const Upstream& upstream,
                                                    P& parameters, const Access& access,
                                                    void* grad_input) {
  const int64_t whole = share.end_of_packs<kPack>();
  const auto write = [&](auto in_turn, auto with_entropy) {
    constexpr bool kInTurn = in_turn.value, kEntropy = with_entropy.value;
    write_gradients<kPack, kInTurn, kEntropy, T>(batch, division, share, share.begin, whole,
                                                 upstream, parameters, access, grad_input);
    if (kPack == 1) return;
    write_gradients<1, kInTurn, kEntropy, T>(batch, division, share, whole, share.end, upstream,
                                             parameters, access, grad_input);
  };
  if (P::chunks(batch) > 1) return write(std::true_type(), std::true_type());
  parameters.fill(batch, division, share, upstream, 0);
  if constexpr (Access::kPlain) {
    const bool no_entropy = upstream.cross_entropy[share.group] == 0;
    if (no_entropy) return write(std::false_type(), std::false_type());
  }
  write(std::false_type(), std::true_type());
}

// How samples are read and gradients written, one or several at a time; in general.
template <class T>
struct AnyAccess {
  static constexpr bool kPlain = false;
  const Batch& batch;
  T pos_weight;

  __device__ __forceinline__ AnyAccess(const Batch& batch, const Share& share)
      : batch(batch), pos_weight(positive_weight<T>(batch, share.c)) {}

  template <int kCount>
  __device__ __forceinline__ void load(const Position& at, Sample<T> (&to)[kCount]) const {
    Faults ignored;  // the forward pass has looked at them
    load_samples<kCount>(batch, at, pos_weight, to, ignored);
  }

  template <int kCount>
  __device__ __forceinline__ void store(void* data, const Position& at,
                                        const T (&from)[kCount]) const {
    softcm::store(data, batch.input.dtype, at.offset(batch.contiguous), from);
  }
};

// Any input.
template <template <class> class H, class T, int kPack>
SOFTCM_KERNEL(2)
gradient_kernel(const __grid_constant__ Batch batch, const __grid_constant__ Division division,
                const __grid_constant__ Upstream upstream, void* grad_input) {
  __shared__ Parameters<T, H<T>> parameters;
  const Share share(batch, division);
  const AnyAccess<T> access(batch, share);
  write_all_gradients<kPack, T>(batch, division, share, upstream, parameters, access, grad_input);
}

// For plain_counts_kernel's input.
template <template <class> class H, class In>
SOFTCM_KERNEL(2)
plain_gradient_kernel(const __grid_constant__ Batch batch,
                      const __grid_constant__ Division division,
                      const __grid_constant__ Upstream upstream, void* grad_input) {
  constexpr int kPack = 16 / sizeof(In);
  __shared__ Parameters<float, H<float>> parameters;
  const Share share(batch, division);
  parameters.fill(batch, division, share, upstream, 0);
  const H<float> h = parameters.heaviside[0];
  const Slopes<float> k = parameters.slopes[0][0];
  const int64_t of_input = batch.offset(batch.input.stride, share.group);
  const int64_t of_target = batch.offset(batch.target.stride, share.group);
  const int64_t of_grad = batch.offset(batch.contiguous, share.group);
  const float of_entropy =
      static_cast<float>(upstream.cross_entropy[share.group] * grad_loss(upstream, share.group));
  Faults ignored;
  const int64_t whole = share.end_of_packs<kPack>();
  const auto write = [&](auto count, auto with_entropy, int64_t at) {
    Sample<float> samples[count.value];
    float grad[count.value] = {};
    load_plain<In>(batch, of_input + at, of_target + at, samples, ignored);
    add_gradients(h, k, samples, grad);
#pragma unroll
    for (int i = 0; i < count.value && with_entropy.value; ++i) {
      const Sample<float>& x = samples[i];
      grad[i] = input_gradient(grad[i], x.p, x.q, x.w1, x.w0, of_entropy, false);
    }
    store_to<count.value, In>(grad_input, of_grad + at, grad);
  };
  const auto write_all = [&](auto with_entropy) {
    const int64_t step = int64_t{kThreads} * kPack;
#pragma unroll 4
    for (int64_t s = share.begin + threadIdx.x * kPack; s < whole; s += step) {
      write(Constant<kPack>(), with_entropy, s);
    }
    const int64_t s = whole + threadIdx.x;
    if (s < share.end) write(Constant<1>(), with_entropy, s);
  };
  if (of_entropy == 0) {
    write_all(Constant<0>());
  } else {
    write_all(Constant<1>());
  }
}

// dL/dthreshold in the shape of the thresholds, (T) or (C, T): sums over the groups that share
// them. partial holds a row (T) of every block.
template <template <class> class H, class T>
SOFTCM_KERNEL(2)
threshold_gradient_kernel(const __grid_constant__ Batch batch,
                          const __grid_constant__ Division division,
                          const __grid_constant__ Upstream upstream, double* partial,
                          unsigned* ticket, double* grad_threshold) {
  const Share share(batch, division);
  const T pos_weight = positive_weight<T>(batch, share.c);
  Faults ignored;
  for (int64_t t = 0; t < batch.thresholds; ++t) {
    const auto h = make_heaviside<T, H<T>>(batch, share.c, t);
    const Slopes<T> k = slopes_at<T>(batch, upstream, share.group, t);
    double sum[1] = {0};
    if (share.active) {
      for (int64_t s = share.begin + share.row; s < share.end; s += share.rows) {
        Sample<T> x[1];
        load_samples<1>(batch, Position(batch, share, s), pos_weight, x, ignored);
        const T slope = h.slope_threshold(x[0].p, x[0].q);
        sum[0] += static_cast<double>(slope * k(is_below(h, x[0].p), x[0].w1, x[0].w0));
      }
    }
    sum_block<1>(sum, 1, [&](int, int, double of_block) {
      partial[blockIdx.x * batch.thresholds + t] = of_block;
    });
  }
  if (!is_last_block(ticket, gridDim.x)) return;
  // With rows by class each block has one group, and the blocks' classes repeat themselves.
  const int64_t rows = batch.threshold_rows(), items = rows * batch.thresholds;
  for (int64_t item = threadIdx.x / 32; item < items; item += kWarps) {
    double sum[1];
    sum_rows(partial + item, gridDim.x / rows, items, sum);
    if (threadIdx.x % 32 == 0) grad_threshold[item] = sum[0];
  }
}

}  // namespace softcm
