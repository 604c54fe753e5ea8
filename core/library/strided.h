// core/library/strided.h -- 1x1 convolutions that skip pixels, as dense ones on the pixels they
// read.
#pragma once
#include "core/library/library.h"

namespace qt {

// Some of oneDNN 2.6.3's kernels for strided 1x1 convolutions copy the pixels they need into a
// workspace and write past its end, so that results are wrong now and then, or the process crashes:
//   - int8 (jit_uni_int8_1x1), where channels are not a multiple of 16;
//   - f32 backward by weights with fewer channels than a block (8 with AVX2, 16 with AVX-512),
//     github.com/uxlfoundation/oneDNN/issues/6035.
// f32 forward, backward by data and larger channel counts are not known to fail. All four are made
// dense first: one path, and the copy is small beside the product.
bool skips_pixels(const Conv2dShape& shape);
// The same convolution on the pixels that are read: stride 1, h = out_h, w = out_w.
Conv2dShape dense_shape(const Conv2dShape& shape);
// x [n, h, w, c] -> [n, out_h, out_w, c], any type, scale kept.
Tensor take_pixels(const Tensor& x, const Conv2dShape& shape);
// The inverse for gradients: f32 [n, out_h, out_w, c] -> [n, h, w, c], zero where no pixel was
// read.
Tensor spread_pixels(const Tensor& dx, const Conv2dShape& shape);

}  // namespace qt
