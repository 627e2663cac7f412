// The arguments of the operators: one list each, from which schemas, parameters and structs are
// made. To give all operators one more argument, add a line to SOFTCM_ARGUMENTS (or, for all
// losses, to SOFTCM_LOSS_ARGUMENTS) and read it in arguments.cpp.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "layout.h"
#include "loss.h"

namespace softcm {

using torch::stable::Tensor;

// X(type in the schema, type in C++, name)
#define SOFTCM_ARGUMENTS(X)                       \
  X("Tensor", Tensor, input)                      \
  X("Tensor", Tensor, target)                     \
  X("Tensor", Tensor, threshold)                  \
  X("Tensor?", std::optional<Tensor>, weight)     \
  X("Tensor?", std::optional<Tensor>, pos_weight) \
  X("Tensor?", std::optional<Tensor>, table)      \
  X("int?", std::optional<int64_t>, ignore_index) \
  X("bool", bool, ignore_nan)                     \
  X("str", std::string, heaviside)                \
  X("float", double, parameter)                   \
  X("str", std::string, membership)               \
  X("bool", bool, per_sample)                     \
  X("bool", bool, from_logits)

#define SOFTCM_LOSS_ARGUMENTS(X)                    \
  X("Tensor?", std::optional<Tensor>, class_weight) \
  X("bool", bool, maximize)                         \
  X("str", std::string, average)                    \
  X("float", double, zero_division)                 \
  X("float", double, ce_weight)

#define SOFTCM_FIELD(schema, type, name) type name;
#define SOFTCM_PARAMETER(schema, type, name) type name,
#define SOFTCM_NAME(schema, type, name) std::move(name),
#define SOFTCM_SCHEMA(schema, type, name) schema " " #name ", "

struct Arguments {
  SOFTCM_ARGUMENTS(SOFTCM_FIELD)
};

struct LossArguments {
  SOFTCM_LOSS_ARGUMENTS(SOFTCM_FIELD)
};

// Turns a function of these structs, and of arguments of its own, into one that an operator can be
// registered with: m.impl("name", TORCH_BOX(&Operator<&function>::call)).
template <auto kFunction>
struct Operator;

template <class R, class... Own, R (*kFunction)(const Arguments&, Own...)>
struct Operator<kFunction> {
  static R call(SOFTCM_ARGUMENTS(SOFTCM_PARAMETER) Own... own) {
    return kFunction(Arguments{SOFTCM_ARGUMENTS(SOFTCM_NAME)}, own...);
  }
};

template <class R, class... Own, R (*kFunction)(const LossArguments&, const Arguments&, Own...)>
struct Operator<kFunction> {
  static R call(SOFTCM_ARGUMENTS(SOFTCM_PARAMETER) SOFTCM_LOSS_ARGUMENTS(SOFTCM_PARAMETER)
                    Own... own) {
    return kFunction(LossArguments{SOFTCM_LOSS_ARGUMENTS(SOFTCM_NAME)},
                     Arguments{SOFTCM_ARGUMENTS(SOFTCM_NAME)}, own...);
  }
};

// A batch, and the tensors whose memory it points to.
struct Prepared {
  Batch batch;
  std::vector<Tensor> tensors;
};

// Checks the arguments and brings them to the form of the kernels. The rules of shapes, dtypes and
// devices stand here and nowhere else in C++; the values are checked where they are read.
Prepared prepare(const Arguments& arguments);

// The rule of a loss but for its metric, and the tensor that it points to.
struct PreparedRule {
  LossRuleOf<NoMetric> rule;
  std::optional<Tensor> class_weight;
};

PreparedRule prepare_rule(const LossArguments& arguments, const Tensor& input, const Batch& batch);

// What is given to soft_counts_backward beside the batch.
void check_gradients(const Batch& batch, const Tensor& grad_counts,
                     const Tensor& grad_cross_entropy, const std::optional<Tensor>& grad_loss,
                     bool threshold_grad);

// Checks logits, and a tensor that must be like them.
Rows rows_of(const Tensor& logits, const Tensor& like);

CompositeKind to_composite(const std::string& metric);

// For the loss: a scalar, or (C,) for average = "none", in the accumulation dtype.
Tensor empty_loss_of(const Batch& batch, Average average, const Tensor& device_of);

// The values of a small floating-point tensor on the CPU.
std::vector<double> to_doubles(const Tensor& tensor);

Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& device_of);
Tensor empty_contiguous_like(const Tensor& tensor);
Tensor empty_float64_like(const Tensor& tensor);

// The tensor itself where it is contiguous, which saves a call of the dispatcher.
Tensor to_contiguous(const Tensor& tensor);

}  // namespace softcm
