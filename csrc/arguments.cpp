// The rules of the operators' arguments.
//
// A message that begins with "softcm: " tells of a bad value and becomes a ValueError in Python.
#include "arguments.h"

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

// A tensor (N, C, *), or (N, *), whose *-dimensions have one stride; a copy where they have none.
Array array(const Tensor& given, bool has_classes, std::vector<Tensor>& tensors) {
  const int64_t first_inner = has_classes ? 2 : 1;
  Tensor t = given;
  std::optional<int64_t> stride_l = merged_stride(t, first_inner, t.dim());
  if (!stride_l) {
    t = torch::stable::contiguous(given);
    stride_l = merged_stride(t, first_inner, t.dim());
  }
  tensors.push_back(t);
  return {t.const_data_ptr(),
          t.scalar_type(),
          {t.stride(0), has_classes ? t.stride(1) : 0, *stride_l},
          static_cast<int64_t>(t.element_size())};
}

// A small tensor (L,) or (C, L).
Array small_array(const Tensor& t, std::vector<Tensor>& tensors) {
  tensors.push_back(t);
  const int64_t last = t.dim() - 1, stride_c = last > 0 ? t.stride(0) : 0;
  return {t.const_data_ptr(),
          t.scalar_type(),
          {0, stride_c, t.stride(last)},
          static_cast<int64_t>(t.element_size())};
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

// Makes one dimension of N and L where every tensor allows it, so that runs are long; or, with
// per_sample, makes N a part of the groups.
void merge_samples(Batch& batch) {
  std::vector<Strides*> all = {&batch.contiguous, &batch.input.stride, &batch.target.stride};
  if (batch.weight.data != nullptr) all.push_back(&batch.weight.stride);
  if (batch.per_sample) {
    for (Strides* s : all) s->sample = s->n;
    batch.groups *= batch.n;
    batch.n = 1;
    return;
  }
  if (batch.inner == 1) {
    for (Strides* s : all) s->l = s->n;
  } else {
    for (const Strides* s : all) {
      if (batch.n > 1 && s->n != batch.inner * s->l) return;
    }
  }
  batch.inner *= batch.n;
  batch.n = 1;
}

// The place of a name among names; the order is that of the enumerators.
template <class Enum, size_t kCount>
Enum from_name(const char* what, const std::string& name, const char* const (&names)[kCount]) {
  for (size_t i = 0; i < kCount; ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
  }
  STD_TORCH_CHECK(false, "softcm: unknown ", what, " ", name);
}

bool on_device_of(const Tensor& input, const Tensor& t) {
  return t.is_cpu() == input.is_cpu() &&
         (input.is_cpu() || t.get_device_index() == input.get_device_index());
}

}  // namespace

CompositeKind to_composite(const std::string& metric) {
  return from_name<CompositeKind>(
      "metric", metric,
      {"balanced_accuracy", "gmean", "informedness", "mcc", "kappa", "auroc", "auprc"});
}

Tensor empty_loss_of(const Batch& batch, Average average, const Tensor& device_of) {
  std::vector<int64_t> sizes;
  if (average == Average::kNone) sizes.push_back(batch.classes);
  return empty(sizes, batch.float64() ? ScalarType::Double : ScalarType::Float, device_of);
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

Tensor empty_float64_like(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return empty({sizes.begin(), sizes.end()}, ScalarType::Double, tensor);
}

Tensor to_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

Prepared prepare(const Arguments& x) {
  const Tensor &input = x.input, &target = x.target, &threshold = x.threshold;
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
  const auto fits = [&](const std::optional<Tensor>& t) { return !t || on_device_of(input, *t); };
  STD_TORCH_CHECK(on_device_of(input, target) && on_device_of(input, threshold) && fits(x.weight) &&
                      fits(x.pos_weight) && fits(x.table),
                  "softcm: all tensors must be on the device of input");
  STD_TORCH_CHECK(!class_indices || is_index(target.scalar_type()),
                  "softcm: target must hold integer class indices");
  STD_TORCH_CHECK(
      is_float(threshold.scalar_type()) && threshold.numel() > 0 &&
          (threshold.dim() == 1 || (threshold.dim() == 2 && threshold.size(0) == classes)),
      "softcm: threshold must be floating point of shape (T,) or (C, T)");
  STD_TORCH_CHECK(!(x.per_sample && input.numel() == n),
                  "softcm: per_sample needs an input (N, C, *)");

  Prepared prepared{};
  prepared.tensors.reserve(6);
  Batch& batch = prepared.batch;
  batch.n = n;
  batch.groups = batch.classes = classes;
  batch.inner = inner;
  batch.thresholds = threshold.size(threshold.dim() - 1);
  batch.input = array(input, has_classes, prepared.tensors);
  batch.target = array(target, target_has_classes, prepared.tensors);
  batch.threshold = small_array(threshold, prepared.tensors);
  batch.own_thresholds = threshold.dim() > 1 && classes > 1;
  batch.contiguous = {classes * inner, inner, 1};
  batch.ignore = x.ignore_index.has_value();
  batch.ignore_index = x.ignore_index.value_or(0);
  batch.ignore_nan = x.ignore_nan;
  batch.class_indices = class_indices;
  batch.gated = from_name<int>("membership", x.membership, {"soft", "gated"}) == 1;
  batch.per_sample = x.per_sample;
  batch.from_logits = x.from_logits;
  batch.kind = from_name<Kind>("heaviside", x.heaviside, {"linear", "sigmoid", "step", "table"});
  batch.parameter = x.parameter;
  if (x.weight) {
    STD_TORCH_CHECK(is_label(x.weight->scalar_type()), "softcm: weight must be real");
    STD_TORCH_CHECK(has_sizes_of(target, *x.weight),
                    "softcm: weight must have the shape of target");
    batch.weight = array(*x.weight, target_has_classes, prepared.tensors);
  }
  if (x.pos_weight) {
    STD_TORCH_CHECK(is_float(x.pos_weight->scalar_type()) && x.pos_weight->dim() == 1 &&
                        x.pos_weight->numel() == classes,
                    "softcm: pos_weight must be floating point of shape (C,)");
    batch.pos_weight = small_array(*x.pos_weight, prepared.tensors);
  }
  STD_TORCH_CHECK(x.table.has_value() == (batch.kind == Kind::kTable),
                  "softcm: heaviside 'table', and no other, takes a table");
  if (x.table) {
    const Tensor& table = *x.table;
    STD_TORCH_CHECK(table.scalar_type() == ScalarType::Float && table.dim() == 3 &&
                        table.size(0) == 2 && table.size(1) == threshold.numel() &&
                        static_cast<double>(table.size(2)) == x.parameter && table.size(2) > 0,
                    "softcm: table must have dtype float32 and shape (2, T, Q), or (2, C * T, Q)");
    prepared.tensors.push_back(to_contiguous(table));
    batch.table = prepared.tensors.back().const_data_ptr<float>();
  }
  merge_samples(batch);
  return prepared;
}

PreparedRule prepare_rule(const LossArguments& x, const Tensor& input, const Batch& batch) {
  STD_TORCH_CHECK(!batch.per_sample, "softcm: the losses in one operator are not per sample");
  const auto average =
      from_name<Average>("average", x.average, {"macro", "micro", "weighted", "none", "present"});
  STD_TORCH_CHECK(!(average == Average::kNone && batch.class_indices && x.ce_weight != 0),
                  "softcm: average 'none' has no softmax cross-entropy of a class");
  PreparedRule prepared{
      {{}, x.maximize, average, x.zero_division, x.ce_weight, batch.class_indices, nullptr},
      x.class_weight};
  if (x.class_weight) {
    STD_TORCH_CHECK(x.class_weight->scalar_type() == ScalarType::Double &&
                        x.class_weight->is_contiguous() && x.class_weight->dim() == 1 &&
                        x.class_weight->numel() == batch.classes &&
                        on_device_of(input, *x.class_weight),
                    "softcm: class_weight must be contiguous float64 of shape (C,)");
    STD_TORCH_CHECK(average == Average::kMacro || average == Average::kPresent,
                    "softcm: class_weight belongs to the averages 'macro' and 'present'");
    prepared.rule.class_weight = x.class_weight->const_data_ptr<double>();
  }
  return prepared;
}

void check_gradients(const Batch& batch, const Tensor& grad_counts,
                     const Tensor& grad_cross_entropy, const std::optional<Tensor>& grad_loss,
                     bool threshold_grad) {
  STD_TORCH_CHECK(grad_counts.numel() == batch.groups * batch.thresholds * 4 &&
                      grad_cross_entropy.numel() == batch.groups,
                  "softcm: gradients must have the shapes (C, T, 4) and (C,)");
  STD_TORCH_CHECK(!grad_loss || grad_loss->dim() == 0 ||
                      (grad_loss->dim() == 1 && grad_loss->numel() == batch.groups),
                  "softcm: grad_loss must have shape () or (C,)");
  STD_TORCH_CHECK(!(threshold_grad && batch.kind == Kind::kTable),
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
