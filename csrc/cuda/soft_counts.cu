// The forward kernels' launcher.
#include "soft_counts.cuh"

namespace softcm {
namespace {

template <template <class> class H, class T, int kGroup, int kPack>
cudaError_t launch_kernel(const Batch& batch, const Division& division, bool with_cross_entropy,
                          const Workspace& work, const Result& result, cudaStream_t stream) {
  return launch(soft_counts_kernel<H, T, kGroup, kPack>, division.blocks(), stream, batch, division,
                with_cross_entropy, work, result);
}

template <template <class> class H>
auto choose_kernel(const Batch& batch, const Division& division) {
  if (batch.input.dtype == ScalarType::Double) return launch_kernel<H, double, 1, 1>;
  const bool packs = has_packs(batch, division);
  if (batch.thresholds == 1)
    return packs ? launch_kernel<H, float, 1, 4> : launch_kernel<H, float, 1, 1>;
  return packs ? launch_kernel<H, float, 4, 4> : launch_kernel<H, float, 4, 1>;
}

// Speed is not what hard counts are asked for.
template <>
auto choose_kernel<Step>(const Batch& batch, const Division&) {
  return batch.input.dtype == ScalarType::Double ? launch_kernel<Step, double, 1, 1>
                                                 : launch_kernel<Step, float, 1, 1>;
}

}  // namespace

cudaError_t launch_soft_counts(const Batch& batch, bool with_cross_entropy, const Workspace& work,
                               const Result& result, cudaStream_t stream) {
  if (has_buckets(batch)) {
    return launch_histogram(batch, divide_for_buckets(batch), with_cross_entropy, work, result,
                            stream);
  }
  const Division division = divide(batch);
  if (is_plain(batch, division) && !with_cross_entropy) {
    return launch_plain_soft_counts(batch, division, work, result, stream);
  }
  const auto choose = [&] {
    switch (batch.kind) {
      case Kind::kLinear:
        return choose_kernel<Linear>(batch, division);
      case Kind::kSigmoid:
        return choose_kernel<Sigmoid>(batch, division);
      case Kind::kTable:
        return choose_kernel<Lookup>(batch, division);
      case Kind::kStep:
        break;
    }
    return choose_kernel<Step>(batch, division);
  };
  const auto launch_chosen = choose();
  return launch_chosen(batch, division, with_cross_entropy, work, result, stream);
}

}  // namespace softcm
