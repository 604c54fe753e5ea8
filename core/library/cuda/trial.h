// core/library/cuda/trial.h -- what engines are tried on: codes at the ends of int8's range, made
// and compared in GPU memory.
#pragma once
#include "core/tensor/tensor.h"

namespace qt {

// i8 of -127, 127 and now and then another, by position and seed.
Tensor codes_for_trial(const Shape& shape, uint32_t seed);
// f32 with all bits set, so that what is not written shows.
Tensor unwritten_floats(const Shape& shape);
// Whether all elements of two f32 tensors are equal; NaN is equal to nothing. Waits for the stream.
bool are_equal(const Tensor& a, const Tensor& b);

}  // namespace qt
