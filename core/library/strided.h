// core/library/strided.h -- 1x1 convolutions that skip pixels, as dense ones on the pixels they
// read.
#pragma once
#include "core/library/library.h"

namespace qt {

// oneDNN 2.6.3's kernels for strided 1x1 convolutions (jit_uni_int8_1x1 and the f32 ones) copy the
// pixels they need into a workspace that threads overrun where channels are not a multiple of 16:
// sums come out wrong now and then. So such problems are made dense first.
bool skips_pixels(const Conv2dShape& shape);
// The same convolution on the pixels that are read: stride 1, h = out_h, w = out_w.
Conv2dShape dense_shape(const Conv2dShape& shape);
// x [n, h, w, c] -> [n, out_h, out_w, c], any type, scale kept.
Tensor take_pixels(const Tensor& x, const Conv2dShape& shape);
// The inverse for gradients: f32 [n, out_h, out_w, c] -> [n, h, w, c], zero where no pixel was
// read.
Tensor spread_pixels(const Tensor& dx, const Conv2dShape& shape);

}  // namespace qt
