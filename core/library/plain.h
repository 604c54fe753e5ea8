// core/library/plain.h -- the convolution of codes as plain loops: the definition, and the oracle
// of every kernel.
#pragma once
#include <cstdint>

#include "core/library/library.h"

namespace qt {

// The exact sum behind one output: x and w as conv2d_codes takes them, any of i8 and u8.
int64_t plain_sum(const Tensor& x, const Tensor& w, const Conv2dShape& shape, int64_t n, int64_t oh,
                  int64_t ow, int64_t k);
// All of them, each rounded to f32 once.
Tensor plain_conv2d_codes(const Tensor& x, const Tensor& w, const Conv2dShape& shape);

}  // namespace qt
