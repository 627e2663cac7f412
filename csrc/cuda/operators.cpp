// The operators on CUDA tensors: outputs and workspace, and the launches.
//
// Nothing here waits for the device, and what is launched depends on shapes and options alone, so
// that a CUDA graph can capture it.
#include <Python.h>
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>

#include "../arguments.h"
#include "kernels.h"

namespace softcm {
namespace {

// Makes the device of a tensor the current one, and finds its current stream.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor)
      : guard_(tensor.get_device_index()),
        stream_(torch::stable::accelerator::getCurrentStream(tensor.get_device_index())) {}

  cudaStream_t stream() const { return static_cast<cudaStream_t>(stream_.nativeHandle()); }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  torch::stable::accelerator::Stream stream_;
};

void check(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "CUDA error: ", cudaGetErrorString(error));
}

// A small vector, or a scalar, which serves as one that repeats itself.
Array array(const Tensor& x) {
  const int64_t stride = x.dim() == 0 ? 0 : x.stride(0);
  return {
      x.const_data_ptr(), x.scalar_type(), {0, 0, stride}, static_cast<int64_t>(x.element_size())};
}

// Parts of one piece of memory, or, where that is null, no more than their sizes.
class Parts {
 public:
  explicit Parts(double* memory) : memory_(memory) {}

  template <class T = double>
  T* take(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    double* taken = memory_ == nullptr ? nullptr : memory_ + size_;
    size_ += (bytes + static_cast<int64_t>(sizeof(double)) - 1) / sizeof(double);
    return reinterpret_cast<T*>(taken);
  }

  int64_t size() const { return size_; }

 private:
  double* memory_;
  int64_t size_ = 0;
};

struct Zeros {
  void* data;
  int64_t bytes;
};

// What the blocks leave behind, and which of it has to be 0 when the kernel starts.
Zeros lay_out(const Batch& batch, Parts& parts, Workspace& work, Counts*& counts) {
  const int64_t items = batch.groups * batch.thresholds;
  work.of_all = parts.take<ClassTotals>(batch.groups + 1);
  work.merged = parts.take<Counts>(batch.thresholds);
  if (counts == nullptr) counts = parts.take<Counts>(items);
  if (!has_buckets(batch)) {
    const Division division = divide(batch);
    work.sums = parts.take(division.parts * items * kSums);
    work.totals = parts.take(division.parts * batch.groups * 2);
    work.ticket = parts.take<unsigned>(1);
    // One block looks at no ticket.
    return {work.ticket, division.blocks() > 1 ? static_cast<int64_t>(sizeof(unsigned)) : 0};
  }
  const Division division = divide_for_buckets(batch);
  const int64_t chunks = batch.groups * bucket_chunks(batch);
  work.sums = parts.take(division.parts * chunks * kSums);
  work.totals = parts.take(division.parts * batch.groups * 2);
  work.running = parts.take(batch.groups * 8 * (kBuckets + 1));
  const int64_t before = parts.size();
  work.histogram = parts.take<Fixed>(chunks * 4 * kBuckets);
  work.ticket = parts.take<unsigned>(1 + batch.groups);
  return {work.histogram, (parts.size() - before) * static_cast<int64_t>(sizeof(double))};
}

// grad_input: asks for the gradient of the loss, too; or null.
void run_soft_counts(const Batch& batch, bool with_cross_entropy, Result result, void* grad_input,
                     const Tensor& device_of, cudaStream_t stream) {
  Workspace work{};
  Counts* counts = result.counts;
  Parts sizes(nullptr);
  lay_out(batch, sizes, work, counts);
  Tensor memory = empty({sizes.size()}, ScalarType::Double, device_of);
  Parts parts(memory.mutable_data_ptr<double>());
  const Zeros zeros = lay_out(batch, parts, work, result.counts);
  if (zeros.bytes > 0) check(cudaMemsetAsync(zeros.data, 0, zeros.bytes, stream));
  if (grad_input != nullptr && is_small(batch)) {
    check(launch_small_loss(batch, with_cross_entropy, work, result, grad_input, stream));
    return;
  }
  check(launch_soft_counts(batch, with_cross_entropy, work, result, stream));
  if (grad_input == nullptr) return;
  const Upstream upstream{result.grad_counts, result.grad_entropy, Array()};
  check(launch_gradient(batch, upstream, grad_input, stream));
}

Counts* counts_of(Tensor& tensor) {
  return reinterpret_cast<Counts*>(tensor.mutable_data_ptr<double>());
}

std::tuple<Tensor, Tensor, Tensor> soft_counts(const Arguments& arguments,
                                               bool with_cross_entropy) {
  const Tensor& input = arguments.input;
  const OnDevice device(input);
  const Prepared prepared = prepare(arguments);
  const Batch& batch = prepared.batch;
  Tensor counts = empty({batch.groups, batch.thresholds, 4}, ScalarType::Double, input);
  Tensor totals = empty({batch.groups, 3}, ScalarType::Double, input);
  Tensor cross_entropy = empty({batch.groups}, ScalarType::Double, input);
  Result result{};
  result.counts = counts_of(counts);
  result.totals = totals.mutable_data_ptr<double>();
  result.cross_entropy = cross_entropy.mutable_data_ptr<double>();
  run_soft_counts(batch, with_cross_entropy, result, nullptr, input, device.stream());
  return {counts, totals, cross_entropy};
}

Tensor threshold_gradient(const Batch& batch, const Upstream& upstream, const Tensor& threshold,
                          cudaStream_t stream) {
  const int64_t blocks = divide(batch).blocks();
  Tensor memory = empty({blocks * batch.thresholds + 1}, ScalarType::Double, threshold);
  double* partial = memory.mutable_data_ptr<double>();
  unsigned* ticket = reinterpret_cast<unsigned*>(partial + blocks * batch.thresholds);
  check(cudaMemsetAsync(ticket, 0, sizeof *ticket, stream));
  Tensor grad = empty_float64_like(threshold);
  check(launch_threshold_gradient(batch, upstream, partial, ticket, grad.mutable_data_ptr<double>(),
                                  stream));
  return grad;
}

std::tuple<Tensor, Tensor> soft_counts_backward(const Arguments& arguments, Tensor grad_counts,
                                                Tensor grad_cross_entropy,
                                                std::optional<Tensor> grad_loss,
                                                bool threshold_grad) {
  const Tensor& input = arguments.input;
  const OnDevice device(input);
  const Prepared prepared = prepare(arguments);
  const Batch& batch = prepared.batch;
  check_gradients(batch, grad_counts, grad_cross_entropy, grad_loss, threshold_grad);
  const Tensor of_counts = to_contiguous(grad_counts);
  const Tensor of_entropy = to_contiguous(grad_cross_entropy);
  const Upstream upstream{reinterpret_cast<const Counts*>(of_counts.const_data_ptr<double>()),
                          of_entropy.const_data_ptr<double>(),
                          grad_loss ? array(*grad_loss) : Array()};
  Tensor grad_input = empty_contiguous_like(input);
  check(launch_gradient(batch, upstream, grad_input.mutable_data_ptr(), device.stream()));
  Tensor grad_threshold =
      threshold_grad ? threshold_gradient(batch, upstream, arguments.threshold, device.stream())
                     : empty({0}, ScalarType::Double, input);
  return {grad_input, grad_threshold};
}

using Loss = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// result: the metric.
Loss loss_of(const LossArguments& loss_arguments, const Arguments& arguments, Result result,
             bool with_grad) {
  const Tensor& input = arguments.input;
  const OnDevice device(input);
  const Prepared prepared = prepare(arguments);
  const Batch& batch = prepared.batch;
  const PreparedRule prepared_rule = prepare_rule(loss_arguments, input, batch);
  result.rule = prepared_rule.rule;
  Tensor loss = empty_loss_of(batch, result.rule.average, input);
  Tensor grad_counts = empty({batch.classes, batch.thresholds, 4}, ScalarType::Double, input);
  Tensor grad_entropy = empty({batch.classes}, ScalarType::Double, input);
  result.loss = {loss.mutable_data_ptr(), batch.float64()};
  result.grad_counts = counts_of(grad_counts);
  result.grad_entropy = grad_entropy.mutable_data_ptr<double>();
  Tensor grad_input =
      with_grad ? empty_contiguous_like(input) : empty({0}, input.scalar_type(), input);
  run_soft_counts(batch, result.rule.ce_weight != 0, result,
                  with_grad ? grad_input.mutable_data_ptr() : nullptr, input, device.stream());
  return {loss, grad_counts, grad_entropy, grad_input};
}

Loss fractional_loss(const LossArguments& loss_arguments, const Arguments& arguments, Tensor metric,
                     bool with_grad) {
  const Tensor of_metric = to_contiguous(metric);
  STD_TORCH_CHECK(metric.scalar_type() == ScalarType::Double && metric.numel() == 10,
                  "softcm: metric must hold the ten numbers a, a0, b, b0 in float64");
  Result result{};
  result.metric = of_metric.const_data_ptr<double>();
  return loss_of(loss_arguments, arguments, result, with_grad);
}

Loss composite_loss(const LossArguments& loss_arguments, const Arguments& arguments,
                    std::string metric, bool with_grad) {
  Result result{};
  result.composite = {to_composite(metric)};
  return loss_of(loss_arguments, arguments, result, with_grad);
}

Tensor one_vs_rest_logits(const Tensor& input) {
  const OnDevice device(input);
  const Rows rows = rows_of(input, input);
  const Tensor z = to_contiguous(input);
  Tensor output = empty_contiguous_like(z);
  check(launch_one_vs_rest(rows, z.scalar_type() == ScalarType::Double, z.const_data_ptr(),
                           output.mutable_data_ptr(), device.stream()));
  return output;
}

Tensor one_vs_rest_logits_backward(const Tensor& grad_output, const Tensor& input,
                                   const Tensor& output) {
  const OnDevice device(input);
  rows_of(input, output);
  const Rows rows = rows_of(input, grad_output);
  const Tensor g = to_contiguous(grad_output), z = to_contiguous(input), y = to_contiguous(output);
  Tensor grad = empty_contiguous_like(z);
  check(launch_one_vs_rest_backward(rows, z.scalar_type() == ScalarType::Double, g.const_data_ptr(),
                                    z.const_data_ptr(), y.const_data_ptr(), grad.mutable_data_ptr(),
                                    device.stream()));
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(softcm, CUDA, m) {
  m.impl("one_vs_rest_logits", TORCH_BOX(&one_vs_rest_logits));
  m.impl("one_vs_rest_logits_backward", TORCH_BOX(&one_vs_rest_logits_backward));
  m.impl("soft_counts", TORCH_BOX(&Operator<&soft_counts>::call));
  m.impl("soft_counts_backward", TORCH_BOX(&Operator<&soft_counts_backward>::call));
  m.impl("fractional_loss", TORCH_BOX(&Operator<&fractional_loss>::call));
  m.impl("composite_loss", TORCH_BOX(&Operator<&composite_loss>::call));
}

}  // namespace softcm

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C_cuda(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}
