// core/library/winograd/winograd.h -- 3x3 convolutions of stride 1 with fewer multiplications, for
// any x86 CPU with AVX2 (Lavin & Gray 2016).
//
// On real numbers F(4x4, 3x3): a quarter of the multiplications, results within about 5e-6 of the
// direct sum (relative, L2). On codes F(2x2, 3x3) in integers: 4/9 of the multiplications, and
// exactly the sums of plain loops.
#pragma once
#include <string>

#include "core/library/library.h"

namespace qt::winograd {

enum class Operation { conv2d, conv2d_backward_data, conv2d_backward_weights, conv2d_codes };

// Whether these kernels compute such a convolution at all: 3x3, stride 1, no dilation, one group,
// padding of 0 to 2, and channels in multiples of 16.
bool computes(const Conv2dShape& shape);
// Whether sums of these codes stay exact: 4 |y| must stay below 2^31, so 9 c max|x| max|w| below
// 2^29.
bool stays_exact(const Conv2dShape& shape, int64_t x_magnitude, int64_t w_magnitude);

// As the functions of Library with these names, for shapes that computes() allows. The same bits
// whatever the number of threads.
Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape);
Tensor conv2d_backward_data(const Tensor& dy, const Tensor& w, const Conv2dShape& shape);
Tensor conv2d_backward_weights(const Tensor& x, const Tensor& dy, const Conv2dShape& shape);
// Requires stays_exact(). f32: the exact sums, each rounded once.
Tensor conv2d_codes(const Tensor& x, const Tensor& w, const Conv2dShape& shape);

// Whether these kernels are faster than oneDNN's direct ones, by measurement (docs/performance.md):
// a fixed rule, so that the bits do not depend on timing. direct_is_exact: whether oneDNN has an
// exact int8 kernel for these codes; of conv2d_codes only.
bool is_faster(Operation operation, const Conv2dShape& shape, bool direct_is_exact = false);

std::string kernel_name(Operation operation);  // "winograd F(4x4, 3x3)"

}  // namespace qt::winograd
