// core/library/cuda/trial.h -- what engines are tried on: codes at the ends of int8's range, made
// and compared in GPU memory.
//
// both_ends: -127, 127 and now and then another: partial sums are small, one wrong product shows.
// upper_end: 127 and now and then 126: sums are as large as they get, and their last bits differ,
// so that one that f32 held on its way shows once it exceeds 2^24.
#pragma once
#include "core/tensor/tensor.h"

namespace qt {

enum class TrialCodes { both_ends, upper_end };
// i8, by position and seed.
Tensor codes_for_trial(const Shape& shape, TrialCodes codes, uint32_t seed);
// f32 with all bits set, so that what is not written shows.
Tensor unwritten_floats(const Shape& shape);
// f32 or bf16 ones, and whether a tensor is all ones.
Tensor ones_for_trial(const Shape& shape, DType type);
bool are_ones(const Tensor& t);
// Whether all elements of two f32 tensors are equal; NaN is equal to nothing. Waits for the stream.
bool are_equal(const Tensor& a, const Tensor& b);

}  // namespace qt
