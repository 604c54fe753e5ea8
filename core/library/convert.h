// core/library/convert.h -- tensors in the element types that libraries multiply.
#pragma once
#include "core/tensor/tensor.h"

namespace qt {

// An f32, i8 or u8 tensor as bf16, rounded to nearest even (codes are exact: eight bits). Scale is
// dropped.
Tensor to_bf16(const Tensor& x);

}  // namespace qt
