// The quantised approximation at one threshold: h and dh/dp stand in a table, by the level of p.
#pragma once

#include "../heaviside.h"
#include "../layout.h"

namespace softcm {

template <class T>
struct Lookup {
  const float *h, *derivative;
  Truncation<T> level;
  int32_t middle;  // the first level that is not below tau

  SOFTCM_HD static Lookup make(const Batch& batch, int64_t c, int64_t t, double tau) {
    const int64_t levels = static_cast<int64_t>(batch.parameter);
    const double size = batch.parameter;
    int64_t middle = static_cast<int64_t>(tau * size);
    while (middle > 0 && static_cast<double>(middle - 1) / size >= tau) --middle;
    while (middle < levels && static_cast<double>(middle) / size < tau) ++middle;
    const int64_t rows = batch.threshold_rows(), row = rows == 1 ? 0 : c;
    const float* h = batch.table + (row * batch.thresholds + t) * levels;
    return {h, h + rows * batch.thresholds * levels, Truncation<T>::make(levels),
            static_cast<int32_t>(middle)};
  }

  SOFTCM_HD T other_at(int32_t b) const { return b < middle ? T(h[b]) : T(1) - T(h[b]); }
  SOFTCM_HD T other(T p, T) const { return p != p ? p : other_at(level(p)); }

  SOFTCM_HD T slope(T p, T) const { return T(derivative[level(p)]); }
};

// Whether p counts as below the threshold.
template <class T, class H>
SOFTCM_HD bool is_below(const H& h, T p) {
  return p < h.tau;
}

template <class T>
SOFTCM_HD bool is_below(const Lookup<T>& h, T p) {
  return h.level(p) < h.middle;
}

}  // namespace softcm
