// tests/support/chunks.h -- numbers whose sums show the order of additions.
#pragma once
#include <cmath>

#include "core/kernel/operands.h"
#include "core/tensor/tensor.h"

namespace qt {

// x, each chunk of rows times another power of two: in double, sums of chunks of one size would be
// exact in any order.
inline Tensor with_chunks_of_many_sizes(Tensor x) {
  for (int64_t i = 0; i < x.elements(); ++i) {
    float& v = x.data<float>()[i];
    v = std::ldexp(v, int(i / x.channels() / chunk_rows * 11 % 41) * 2 - 40);
  }
  return x;
}

}  // namespace qt
