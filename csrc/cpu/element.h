// From a dtype to the type of its elements.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>

namespace softcm {

// Calls f with an element of the type of a tensor that arguments.cpp admits.
template <class F>
inline auto with_element_type(torch::headeronly::ScalarType dtype, const F& f) {
  using torch::headeronly::ScalarType;
  switch (dtype) {
    case ScalarType::Float:
      return f(float());
    case ScalarType::Double:
      return f(double());
    case ScalarType::Half:
      return f(torch::headeronly::Half());
    case ScalarType::BFloat16:
      return f(torch::headeronly::BFloat16());
    case ScalarType::Bool:
    case ScalarType::Byte:
      return f(uint8_t());
    case ScalarType::Char:
      return f(int8_t());
    case ScalarType::Short:
      return f(int16_t());
    case ScalarType::Int:
      return f(int32_t());
    default:
      return f(int64_t());
  }
}

}  // namespace softcm
