// The rules of the operators' arguments.
//
// A message that begins with "softcm: " tells of a bad value and becomes a ValueError in Python.
#include "problem.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <limits>

namespace softcm {
namespace {

bool is_float(ScalarType t) {
  return t == ScalarType::Float || t == ScalarType::Double || t == ScalarType::Half ||
         t == ScalarType::BFloat16;
}

bool is_index(ScalarType t) {
  return t == ScalarType::Byte || t == ScalarType::Char || t == ScalarType::Short ||
         t == ScalarType::Int || t == ScalarType::Long;
}

bool is_label(ScalarType t) { return is_float(t) || is_index(t) || t == ScalarType::Bool; }

// The stride of dimensions first ... last - 1 taken as one, if they can be.
std::optional<int64_t> merged_stride(const Tensor& t, int64_t first, int64_t last) {
  std::optional<int64_t> inner;  // stride of the innermost dimension that is larger than 1
  int64_t expected = 0;
  for (int64_t d = last - 1; d >= first; --d) {
    if (t.size(d) == 1) continue;
    if (!inner) {
      inner = t.stride(d);
    } else if (t.stride(d) != expected) {
      return std::nullopt;
    }
    expected = t.stride(d) * t.size(d);
  }
  return inner.value_or(0);
}

Operand operand(const Tensor& given, bool has_classes) {
  const int64_t first_inner = has_classes ? 2 : 1;
  Tensor t = given;
  std::optional<int64_t> stride_l = merged_stride(t, first_inner, t.dim());
  if (!stride_l) {
    t = torch::stable::contiguous(given);
    stride_l = merged_stride(t, first_inner, t.dim());
  }
  return {t, t.scalar_type(), {t.stride(0), has_classes ? t.stride(1) : 0, *stride_l}};
}

// Whether t has the sizes of like, but for a dimension that it leaves out (-1: none).
bool has_sizes_of(const Tensor& like, const Tensor& t, int64_t without = -1) {
  if (t.dim() != like.dim() - (without < 0 ? 0 : 1)) return false;
  for (int64_t d = 0, own = 0; d < like.dim(); ++d) {
    if (d != without && t.size(own++) != like.size(d)) return false;
  }
  return true;
}

int64_t product(const Tensor& t, int64_t first) {
  int64_t product = 1;
  for (int64_t d = first; d < t.dim(); ++d) product *= t.size(d);
  return product;
}

// Makes one dimension of N and L where every operand allows it, so that runs are long.
void merge_samples(Problem& problem) {
  std::vector<Strides*> all = {&problem.contiguous, &problem.input.stride, &problem.target.stride};
  if (problem.weight) all.push_back(&problem.weight->stride);
  if (problem.inner == 1) {
    for (Strides* s : all) s->l = s->n;
  } else {
    for (const Strides* s : all) {
      if (problem.n > 1 && s->n != problem.inner * s->l) return;
    }
  }
  problem.inner *= problem.n;
  problem.n = 1;
}

Kind kind_of(const std::string& heaviside) {
  if (heaviside == "linear") return Kind::kLinear;
  if (heaviside == "sigmoid") return Kind::kSigmoid;
  if (heaviside == "table") return Kind::kTable;
  STD_TORCH_CHECK(heaviside == "step", "softcm: unknown heaviside ", heaviside);
  return Kind::kStep;
}

void read_values(Problem& problem, const Tensor& threshold,
                 const std::optional<Tensor>& pos_weight) {
  problem.threshold = to_doubles(threshold);
  for (const double tau : problem.threshold) {
    STD_TORCH_CHECK(tau > 0 && tau < 1, "softcm: threshold must lie in (0, 1), got ", tau);
  }
  if (!pos_weight) return;
  problem.pos_weight = to_doubles(*pos_weight);
  for (const double w : problem.pos_weight) {
    STD_TORCH_CHECK(w >= 0 && w <= std::numeric_limits<double>::max(),
                    "softcm: pos_weight must be finite and >= 0, got ", w);
  }
}

}  // namespace

Average to_average(const std::string& average) {
  if (average == "macro") return Average::kMacro;
  if (average == "micro") return Average::kMicro;
  if (average == "weighted") return Average::kWeighted;
  STD_TORCH_CHECK(average == "none", "softcm: unknown average ", average);
  return Average::kNone;
}

CompositeKind to_composite(const std::string& metric) {
  if (metric == "balanced_accuracy") return CompositeKind::kBalancedAccuracy;
  if (metric == "gmean") return CompositeKind::kGMean;
  if (metric == "informedness") return CompositeKind::kInformedness;
  if (metric == "mcc") return CompositeKind::kMcc;
  if (metric == "kappa") return CompositeKind::kKappa;
  if (metric == "auroc") return CompositeKind::kAuroc;
  STD_TORCH_CHECK(metric == "auprc", "softcm: unknown metric ", metric);
  return CompositeKind::kAuprc;
}

Tensor empty_loss_of(const Problem& problem, Average average, const Tensor& device_of) {
  std::vector<int64_t> sizes;
  if (average == Average::kNone) sizes.push_back(problem.classes);
  return empty(sizes, problem.float64() ? ScalarType::Double : ScalarType::Float, device_of);
}

std::vector<double> to_doubles(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.is_cpu(), "softcm: expected a tensor on the CPU");
  const Tensor t = to_contiguous(tensor);
  std::vector<double> values(t.numel());
  const auto copy = [&](auto element) {
    const auto* data = t.const_data_ptr<decltype(element)>();
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(data[i]);
  };
  switch (t.scalar_type()) {
    case ScalarType::Double:
      copy(double());
      break;
    case ScalarType::Float:
      copy(float());
      break;
    case ScalarType::Half:
      copy(torch::headeronly::Half());
      break;
    case ScalarType::BFloat16:
      copy(torch::headeronly::BFloat16());
      break;
    default:
      STD_TORCH_CHECK(false, "softcm: expected a floating-point tensor");
  }
  return values;
}

Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& device_of) {
  // The C shim itself: torch::stable::empty goes through the boxed dispatcher, 10 us a step.
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= sizes[d] > 0 ? sizes[d] : 1;
  }
  int32_t device = 0;
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(device_of.get(), &device));
  const auto shim_dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sizes.size(), sizes.data(), strides.data(),
                                                         shim_dtype, device,
                                                         device_of.get_device_index(), &handle));
  return Tensor(handle);
}

Tensor empty_contiguous_like(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return empty({sizes.begin(), sizes.end()}, tensor.scalar_type(), tensor);
}

Tensor to_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

Problem make_problem(const Tensor& input, const Tensor& target, const Tensor& threshold,
                     const std::optional<Tensor>& weight, const std::optional<Tensor>& pos_weight,
                     const std::optional<Tensor>& table, std::optional<int64_t> ignore_index,
                     const std::string& heaviside, double parameter, const std::string& membership,
                     bool from_logits) {
  STD_TORCH_CHECK(input.dim() > 0 && input.numel() > 0, "softcm: input must not be empty");
  STD_TORCH_CHECK(is_float(input.scalar_type()), "softcm: input must be floating point");
  STD_TORCH_CHECK(is_label(target.scalar_type()), "softcm: target must be bool, integer or float");
  const bool has_classes = input.dim() > 1;
  const int64_t n = input.size(0), classes = has_classes ? input.size(1) : 1;
  const int64_t inner = product(input, 2);
  const bool class_indices = classes > 1 && target.dim() == input.dim() - 1;
  const bool target_has_classes = has_classes && !class_indices;
  STD_TORCH_CHECK(
      has_sizes_of(input, target, class_indices ? 1 : -1),
      "softcm: target must have the shape of input, or that without the class dimension");
  STD_TORCH_CHECK(target.is_cpu() == input.is_cpu() &&
                      (!weight || weight->is_cpu() == input.is_cpu()) &&
                      (!table || table->is_cpu() == input.is_cpu()),
                  "softcm: input, target, weight and table must be on one device");
  STD_TORCH_CHECK(!class_indices || is_index(target.scalar_type()),
                  "softcm: target must hold integer class indices");
  STD_TORCH_CHECK(threshold.dim() == 1 && threshold.numel() > 0,
                  "softcm: threshold must have shape (T,)");
  STD_TORCH_CHECK(membership == "soft" || membership == "gated", "softcm: unknown membership ",
                  membership);

  Problem problem{n,
                  classes,
                  inner,
                  operand(input, has_classes),
                  operand(target, target_has_classes),
                  std::nullopt,
                  {classes * inner, inner, 1},
                  {},
                  {},
                  std::nullopt,
                  ignore_index,
                  class_indices,
                  kind_of(heaviside),
                  parameter,
                  membership == "gated",
                  from_logits};
  if (input.is_cpu()) read_values(problem, threshold, pos_weight);
  if (weight) {
    STD_TORCH_CHECK(is_label(weight->scalar_type()), "softcm: weight must be real");
    STD_TORCH_CHECK(has_sizes_of(target, *weight), "softcm: weight must have the shape of target");
    problem.weight = operand(*weight, target_has_classes);
  }
  if (pos_weight) {
    STD_TORCH_CHECK(pos_weight->dim() == 1 && pos_weight->numel() == classes,
                    "softcm: pos_weight must have shape (C,)");
  }
  STD_TORCH_CHECK(table.has_value() == (problem.kind == Kind::kTable),
                  "softcm: heaviside 'table', and no other, takes a table");
  if (table) {
    STD_TORCH_CHECK(table->scalar_type() == ScalarType::Float && table->dim() == 3 &&
                        table->size(0) == 2 && table->size(1) == threshold.size(0) &&
                        static_cast<double>(table->size(2)) == parameter && table->size(2) > 0,
                    "softcm: table must have dtype float32 and shape (2, T, Q)");
    problem.table = to_contiguous(*table);
  }
  merge_samples(problem);
  return problem;
}

void check_gradients(const Problem& problem, int64_t thresholds, const Tensor& grad_counts,
                     const Tensor& grad_cross_entropy, const std::optional<Tensor>& grad_loss,
                     bool threshold_grad) {
  STD_TORCH_CHECK(grad_counts.numel() == problem.classes * thresholds * 4 &&
                      grad_cross_entropy.numel() == problem.classes,
                  "softcm: gradients must have the shapes (C, T, 4) and (C,)");
  STD_TORCH_CHECK(!grad_loss || grad_loss->dim() == 0 ||
                      (grad_loss->dim() == 1 && grad_loss->numel() == problem.classes),
                  "softcm: grad_loss must have shape () or (C,)");
  STD_TORCH_CHECK(!(threshold_grad && problem.table),
                  "softcm: a table has no gradient in its thresholds");
}

Rows rows_of(const Tensor& logits, const Tensor& like) {
  STD_TORCH_CHECK(logits.dim() > 1 && logits.size(1) > 1 && logits.numel() > 0,
                  "softcm: logits must have two classes or more, and one sample");
  STD_TORCH_CHECK(
      logits.scalar_type() == ScalarType::Float || logits.scalar_type() == ScalarType::Double,
      "softcm: logits must be float32 or float64");
  STD_TORCH_CHECK(has_sizes_of(logits, like) && like.scalar_type() == logits.scalar_type() &&
                      like.is_cpu() == logits.is_cpu(),
                  "softcm: gradient, logits and output must have one shape, dtype and device");
  return {logits.size(0), logits.size(1), logits.numel() / (logits.size(0) * logits.size(1))};
}

}  // namespace softcm
