// From the gradients in the counts to those in the input, elementwise, and in the thresholds.
#pragma once

#include "soft_counts.cuh"

namespace softcm {

__device__ __forceinline__ double grad_loss(const Upstream& upstream, int64_t c) {
  return upstream.loss.data == nullptr ? 1 : number(upstream.loss, c);
}

// Thresholds at a time, for the classes of a tile, in shared memory.
constexpr int kChunk = 16;

template <class T, class H>
struct Parameters {
  H heaviside[kChunk];
  Slopes<T> slopes[kChunk][kTile];

  // For thresholds first ... first + count - 1; the block has to wait before and after.
  __device__ __forceinline__ void fill(const Batch& batch, const Division& division,
                                       const Share& share, const Upstream& upstream, int64_t first,
                                       int count) {
    if (threadIdx.x < count) {
      heaviside[threadIdx.x] = make_heaviside<T, H>(batch, first + threadIdx.x);
    }
    for (int i = threadIdx.x; i < count * division.tile; i += kThreads) {
      const int t = i / division.tile, of_tile = i % division.tile;
      const int64_t c = share.first_class + of_tile;
      if (c >= batch.classes) continue;
      const double scale = grad_loss(upstream, c);
      const Counts& g = upstream.counts[c * batch.thresholds + first + t];
      slopes[t][of_tile] =
          softcm::slopes<T>({scale * g.tp, scale * g.fn, scale * g.fp, scale * g.tn}, batch.gated);
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

// Samples begin ... end - 1, which all threads of a block go through in step, since more than
// kChunk thresholds pass through shared memory in turn.
template <int kPack, class T, class H>
__device__ __forceinline__ void write_gradients(const Batch& batch, const Division& division,
                                                const Share& share, int64_t begin, int64_t end,
                                                const Upstream& upstream,
                                                Parameters<T, H>& parameters, void* grad_input) {
  const T pos_weight = positive_weight<T>(batch, share.c);
  const T of_entropy =
      static_cast<T>(upstream.cross_entropy[share.c] * grad_loss(upstream, share.c));
  const int of_tile = threadIdx.x % division.tile;
  const bool refill = batch.thresholds > kChunk;
  Faults ignored;  // the forward pass has looked at them
  for (int64_t base = begin; base < end; base += int64_t{kPack} * share.rows) {
    const int64_t s = base + int64_t{kPack} * share.row;
    const bool inside = share.active && s < end;
    const Position at(batch, inside ? s : begin);
    Sample<T> samples[kPack];
    T grad[kPack] = {};
    load_samples<kPack>(batch, at, share.c, pos_weight, samples, ignored);
    for (int64_t first = 0; first < batch.thresholds; first += kChunk) {
      const int64_t left = batch.thresholds - first;
      const int count = left < kChunk ? static_cast<int>(left) : kChunk;
      if (refill) {
        __syncthreads();
        parameters.fill(batch, division, share, upstream, first, count);
        __syncthreads();
      }
      for (int t = 0; t < count; ++t) {
        add_gradients(parameters.heaviside[t], parameters.slopes[t][of_tile], samples, grad);
      }
    }
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const Sample<T>& x = samples[i];
      const T value = input_gradient(grad[i], x.p, x.q, x.w1, x.w0, of_entropy, batch.from_logits);
      grad[i] = x.counted ? value : T(0);
    }
    if (inside) {
      store(grad_input, batch.input.dtype, at.offset(batch.contiguous, share.c), grad);
    }
  }
}

// Any input.
template <template <class> class H, class T, int kPack>
SOFTCM_KERNEL(2)
gradient_kernel(const __grid_constant__ Batch batch, const __grid_constant__ Division division,
                const __grid_constant__ Upstream upstream, void* grad_input) {
  __shared__ Parameters<T, H<T>> parameters;
  const Share share(batch, division);
  if (batch.thresholds <= kChunk) {
    parameters.fill(batch, division, share, upstream, 0, static_cast<int>(batch.thresholds));
    __syncthreads();
  }
  const int64_t whole = share.end_of_packs<kPack>();
  write_gradients<kPack>(batch, division, share, share.begin, whole, upstream, parameters,
                         grad_input);
  if (kPack > 1) {
    write_gradients<1>(batch, division, share, whole, share.end, upstream, parameters, grad_input);
  }
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
  parameters.fill(batch, division, share, upstream, 0, 1);
  __syncthreads();
  const H<float> h = parameters.heaviside[0];
  const Slopes<float> k = parameters.slopes[0][0];
  const int64_t of_input = share.c * batch.input.stride.c;
  const int64_t of_target = share.c * batch.target.stride.c;
  const int64_t of_grad = share.c * batch.contiguous.c;
  const float of_entropy =
      static_cast<float>(upstream.cross_entropy[share.c] * grad_loss(upstream, share.c));
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

// dL/dthreshold (T): sums over all classes; partial holds a row (T) of every block.
template <template <class> class H, class T>
SOFTCM_KERNEL(2)
threshold_gradient_kernel(const __grid_constant__ Batch batch,
                          const __grid_constant__ Division division,
                          const __grid_constant__ Upstream upstream, double* partial,
                          unsigned* ticket, double* grad_threshold) {
  __shared__ Parameters<T, H<T>> parameters;
  const Share share(batch, division);
  const T pos_weight = positive_weight<T>(batch, share.c);
  const int of_tile = threadIdx.x % division.tile;
  Faults ignored;
  for (int64_t t = 0; t < batch.thresholds; ++t) {
    __syncthreads();
    parameters.fill(batch, division, share, upstream, t, 1);
    __syncthreads();
    const H<T> h = parameters.heaviside[0];
    const Slopes<T> k = parameters.slopes[0][of_tile];
    double sum[1] = {0};
    if (share.active) {
      for (int64_t s = share.begin + share.row; s < share.end; s += share.rows) {
        Sample<T> x[1];
        load_samples<1>(batch, Position(batch, s), share.c, pos_weight, x, ignored);
        const T slope = h.slope_threshold(x[0].p, x[0].q);
        sum[0] += static_cast<double>(slope * k(is_below(h, x[0].p), x[0].w1, x[0].w0));
      }
    }
    sum_block(sum, 1, [&](int, int, double of_block) {
      partial[blockIdx.x * batch.thresholds + t] = of_block;
    });
  }
  if (!is_last_block(ticket)) return;
  for (int64_t t = threadIdx.x / 32; t < batch.thresholds; t += kWarps) {
    double sum[1];
    sum_rows(partial + t, gridDim.x, batch.thresholds, sum);
    if (threadIdx.x % 32 == 0) grad_threshold[t] = sum[0];
  }
}

}  // namespace softcm
