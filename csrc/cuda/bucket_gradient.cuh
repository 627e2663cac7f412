// Gradients at many thresholds: that of a sample depends on its bucket and label alone.
#pragma once

#include "buckets.cuh"
#include "gradient.cuh"

namespace softcm {

// What adds to the slope from a bucket on, before a warp has summed it up.
struct Changes {
  double of_label[2][kBuckets];
};

// The slopes of a group's buckets: what write_gradients() wants to know.
template <class Buckets>
struct BucketSlopes {
  Buckets buckets;
  float slope[2][kBuckets];
  Changes changes;

  __device__ __forceinline__ static int64_t chunks(const Batch& batch) {
    return Buckets::chunks(batch);
  }

  __device__ __forceinline__ void fill(const Batch& batch, const Division&, const Share& share,
                                       const Upstream& upstream, int64_t chunk) {
    buckets.build(batch, share.c, chunk);
    find_slopes(buckets, batch, share, upstream, chunk);
    __syncthreads();
  }

  template <int kPack>
  __device__ __forceinline__ void add(const Sample<float> (&samples)[kPack], int,
                                      float (&grad)[kPack]) const {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const Sample<float>& s = samples[i];
      const int b = buckets.find(s.p);
      grad[i] += s.w1 * slope[1][b] + s.w0 * slope[0][b];
    }
  }

 private:
  // Each knot belongs to one threshold, so that none of them meets another one's change.
  __device__ __forceinline__ void find_slopes(const Knots<Linear>& knots, const Batch& batch,
                                              const Share& share, const Upstream& upstream,
                                              int64_t chunk) {
    const int t = threadIdx.x, warp = threadIdx.x / 32;
    double at_zero[2] = {0, 0};
    if (t < knots.thresholds) {
      const auto k = slopes_at<double>(batch, upstream, share.group, chunk * kTogether + t);
      const Segments segments = knots.segments(batch, t);
      const SlopeChanges of_label[2] = {segments.changes(k.negative_below, k.negative_above),
                                        segments.changes(k.positive_below, k.positive_above)};
      for (int label = 0; label < 2; ++label) {
        at_zero[label] = of_label[label].at_zero;
        changes.of_label[label][segments.low] = of_label[label].at_low;
        changes.of_label[label][segments.tau] = of_label[label].at_tau;
        changes.of_label[label][segments.high] = of_label[label].at_high;
      }
    } else if (t == kTogether) {
      changes.of_label[0][knots.half] = changes.of_label[1][knots.half] = 0;
    }
    sum_block<1>(at_zero, 1, [&](int label, int, double sum) { changes.of_label[label][0] = sum; });
    __syncthreads();
    if (warp >= 2) return;
    const double* of_warp = changes.of_label[warp];
    sum_up(
        knots.buckets(), [&](int b) { return of_warp[b]; },
        [&](int b, double sum) {
          if (b > 0) slope[warp][b - 1] = static_cast<float>(sum);
        });
  }

  __device__ __forceinline__ void find_slopes(const Levels& levels, const Batch& batch,
                                              const Share& share, const Upstream& upstream,
                                              int64_t) {
    for (int b = threadIdx.x; b < levels.levels; b += kThreads) {
      double sum[2] = {0, 0};
      for (int64_t t = 0; t < batch.thresholds; ++t) {
        const auto h = Lookup<float>::make(batch, share.c, t, threshold_at(batch, share.c, t));
        const auto k = slopes_at<double>(batch, upstream, share.group, t);
        const double derivative = static_cast<double>(h.derivative[b]);
        const bool below = b < h.middle;
        sum[0] += derivative * (below ? k.negative_below : k.negative_above);
        sum[1] += derivative * (below ? k.positive_below : k.positive_above);
      }
      for (int label = 0; label < 2; ++label) slope[label][b] = static_cast<float>(sum[label]);
    }
  }
};

// For float32 input of which has_plain_samples() holds.
struct PlainAccess {
  static constexpr bool kPlain = true;
  const Batch& batch;
  int64_t of_input, of_target, of_grad;

  __device__ __forceinline__ PlainAccess(const Batch& batch, const Share& share)
      : batch(batch),
        of_input(batch.offset(batch.input.stride, share.group)),
        of_target(batch.offset(batch.target.stride, share.group)),
        of_grad(batch.offset(batch.contiguous, share.group)) {}

  template <int kCount>
  __device__ __forceinline__ void load(const Position& at, Sample<float> (&to)[kCount]) const {
    Faults ignored;
    load_plain<float>(batch, of_input + at.l, of_target + at.l, to, ignored);
  }

  template <int kCount>
  __device__ __forceinline__ void store(void* data, const Position& at,
                                        const float (&from)[kCount]) const {
    store_to<kCount, float>(data, of_grad + at.l, from);
  }
};

template <class Buckets, int kPack, class Access>
SOFTCM_KERNEL(2)
bucket_gradient_kernel(const __grid_constant__ Batch batch,
                       const __grid_constant__ Division division,
                       const __grid_constant__ Upstream upstream, void* grad_input) {
  __shared__ BucketSlopes<Buckets> slopes;
  const Share share(batch, division);
  const Access access(batch, share);
  write_all_gradients<kPack, float>(batch, division, share, upstream, slopes, access, grad_input);
}

}  // namespace softcm
