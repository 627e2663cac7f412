// One sample: the probability of a logit, its cross-entropy, and the last step of its gradient.
//
// w1 and w0 are the weights of the rows of a positive and of a negative, q = 1 - p. All are selects
// between values, never branches, so that a loop over them vectorises.
#pragma once

#include "elementary.h"

namespace softcm {

template <class T>
struct Probability {
  T p, q;
};

// Of a logit: both p and 1 - p with all their digits.
template <class T>
SOFTCM_HD Probability<T> probability(T z) {
  const T e = exp_nonpositive(z < T(0) ? z : -z);
  const T large = T(1) / (T(1) + e), small = e * large;
  return {z < T(0) ? small : large, z < T(0) ? large : small};
}

template <class T>
SOFTCM_HD T cross_entropy_of_logit(T z, T w1, T w0) {
  const T rest = log_one_plus(exp_nonpositive(z < T(0) ? z : -z));
  const T positive = w1 * ((z < T(0) ? -z : T(0)) + rest);
  const T negative = w0 * ((z < T(0) ? T(0) : z) + rest);
  // A row without weight adds nothing, even where its logarithm is infinite.
  return (w1 == T(0) ? T(0) : positive) + (w0 == T(0) ? T(0) : negative);
}

template <class T>
SOFTCM_HD T cross_entropy_of_probability(T p, T q, T w1, T w0) {
  const T small = p < q ? p : q;
  const T of_small = minus_log(small), of_large = minus_log_one_minus(small);
  const T of_p = p < q ? of_small : of_large, of_q = p < q ? of_large : of_small;
  return w1 * of_p + w0 * of_q;
}

// From dL/dp of the counts to dL/dinput, the cross-entropy's part included.
template <class T>
SOFTCM_HD T input_gradient(T grad_p, T p, T q, T w1, T w0, T grad_cross_entropy, bool from_logits) {
  const T variance = p * q;
  const T bounded = variance < T(1e-12) ? T(1e-12) : variance;
  const T residual = grad_cross_entropy * (w0 * p - w1 * q);
  const T of_counts = from_logits ? grad_p * variance : grad_p;
  const T of_entropy = from_logits ? residual : residual / bounded;
  return grad_cross_entropy == T(0) ? of_counts : of_counts + of_entropy;
}

}  // namespace softcm
