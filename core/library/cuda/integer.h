// core/library/cuda/integer.h -- products of codes as int8 matrix products: exact int32 sums.
#pragma once
#include "core/library/cuda/library.h"

namespace qt {

// y [n, out_h, out_w, k] f32, as Library::conv2d_codes with CodePath::integer. x and w: any of i8
// and u8 codes.
Tensor integer_conv2d_as_products(MatrixProducts& products, const Tensor& x, const Tensor& w,
                                  const Conv2dShape& shape, int64_t column_bytes);

// How many images' windows fit into so many bytes; at least one.
int64_t images_at_once(const Conv2dShape& shape, int64_t width, int64_t element_bytes,
                       int64_t column_bytes);
// Whether the windows of an image are its pixels as they lie.
bool is_dense(const Conv2dShape& shape);

}  // namespace qt
