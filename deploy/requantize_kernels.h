// deploy/requantize_kernels.h -- the passes of an integer program that are not products, over whole
// tensors.
#pragma once
#include "core/library/code_convolution.h"
#include "core/tensor/tensor.h"

namespace qt {

// The codes a pass writes: i8 in lo..hi.
struct CodeTarget {
  Tensor codes;  // i8, written
  int lo, hi;
};

void look_up_codes(const Tensor& images, const Tensor& table, CodeTarget target);
// sums: f32 [.., k]; m, b: f32 [k]; residual: i8 codes of the target's shape, or undefined.
void requantize(const Tensor& sums, const Tensor& m, const Tensor& b, const Tensor& residual,
                float residual_ratio, CodeTarget target);
// The same, for sums that a convolution hands on. The tensors outlive what is returned; m, b and
// the residual lie in the host's memory.
TakeSums requantize_into(const Tensor& m, const Tensor& b, const Tensor& residual,
                         float residual_ratio, CodeTarget target);
void add_codes(const Tensor& a, const Tensor& b, float m, float r, CodeTarget target);
void max_pool_codes(const Tensor& x, int64_t kernel, int64_t stride, int64_t padding,
                    CodeTarget target);
void average_pool_codes(const Tensor& x, float multiplier, CodeTarget target);
// f32 [n, classes]
Tensor logits_of(const Tensor& sums, const Tensor& m, const Tensor& bias);

}  // namespace qt
