// In the place of torch's header of this name: tensors on the CPU have no device and no stream.
#pragma once

#include <cstdint>

namespace torch::stable::accelerator {

using DeviceIndex = int32_t;

struct DeviceGuard {
  explicit DeviceGuard(int32_t) {}
};

struct Stream {
  void* nativeHandle() const { return nullptr; }
};

inline Stream getCurrentStream(int32_t) { return {}; }

}  // namespace torch::stable::accelerator
