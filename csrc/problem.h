// One call in the form that the kernels take: operands with three strides, options, thresholds.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "layout.h"
#include "loss.h"

namespace softcm {

using torch::stable::Tensor;

struct Operand {
  Tensor tensor;  // keeps the data alive
  ScalarType dtype;
  Strides stride;
};

struct Problem {
  // (N, C, L), where N is 1 wherever the samples of a class have one stride in every operand.
  int64_t n, classes, inner;
  Operand input, target;
  std::optional<Operand> weight;
  Strides contiguous;  // of a contiguous tensor of the shape of input
  // Read on the CPU only: elsewhere that would mean to wait for the device.
  std::vector<double> threshold;
  std::vector<double> pos_weight;  // empty, or one a class
  std::optional<Tensor> table;     // of kTable: (2, T, Q) float32, h and dh/dp at each level of p
  std::optional<int64_t> ignore_index;
  bool class_indices;  // target holds a class for each sample, not a label for each class
  Kind kind;
  double parameter;
  bool gated;
  bool from_logits;

  int64_t samples() const { return n * inner; }
  bool float64() const { return input.dtype == ScalarType::Double; }
};

// Checks the arguments and builds the problem; the input rules stand here and nowhere else in C++.
Problem make_problem(const Tensor& input, const Tensor& target, const Tensor& threshold,
                     const std::optional<Tensor>& weight, const std::optional<Tensor>& pos_weight,
                     const std::optional<Tensor>& table, std::optional<int64_t> ignore_index,
                     const std::string& heaviside, double parameter, const std::string& membership,
                     bool from_logits);

// What is given to soft_counts_backward beside a problem of so many thresholds.
void check_gradients(const Problem& problem, int64_t thresholds, const Tensor& grad_counts,
                     const Tensor& grad_cross_entropy, const std::optional<Tensor>& grad_loss,
                     bool threshold_grad);

// Checks logits, and a tensor that must be like them.
Rows rows_of(const Tensor& logits, const Tensor& like);

Average to_average(const std::string& average);
CompositeKind to_composite(const std::string& metric);

// For the loss: a scalar, or (C,) for average = "none", in the accumulation dtype.
Tensor empty_loss_of(const Problem& problem, Average average, const Tensor& device_of);

// The values of a small floating-point tensor on the CPU.
std::vector<double> to_doubles(const Tensor& tensor);

Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& device_of);
Tensor empty_contiguous_like(const Tensor& tensor);

// The tensor itself where it is contiguous, which saves a call of the dispatcher.
Tensor to_contiguous(const Tensor& tensor);

}  // namespace softcm
