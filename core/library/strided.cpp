// core/library/strided.cpp -- copying the pixels that a strided 1x1 convolution reads.
#include "core/library/strided.h"

#include <cstring>

namespace qt {
namespace {

// Calls copy(dense offset, sparse offset, bytes) for each pixel that is read.
template <class Copy>
void each_pixel(const Conv2dShape& shape, size_t bytes, Copy copy) {
  size_t dense = 0;
  for (int64_t n = 0; n < shape.n; ++n)
    for (int64_t y = 0; y < shape.out_h(); ++y)
      for (int64_t x = 0; x < shape.out_w(); ++x, dense += bytes)
        copy(dense, size_t((n * shape.h + y * shape.stride) * shape.w + x * shape.stride) * bytes,
             bytes);
}

}  // namespace

bool skips_pixels(const Conv2dShape& shape) {
  return shape.r == 1 && shape.s == 1 && shape.stride > 1 && shape.padding == 0;
}

Conv2dShape dense_shape(const Conv2dShape& shape) {
  Conv2dShape dense = shape;
  dense.h = shape.out_h();
  dense.w = shape.out_w();
  dense.stride = 1;
  return dense;
}

Tensor take_pixels(const Tensor& x, const Conv2dShape& shape) {
  Tensor dense = Tensor::empty(dense_shape(shape).x_shape(), x.dtype());
  const auto* from = static_cast<const char*>(x.raw());
  auto* to = static_cast<char*>(dense.raw());
  each_pixel(shape, size_t(shape.c) * size_of(x.dtype()),
             [&](size_t packed, size_t sparse, size_t bytes) {
               memcpy(to + packed, from + sparse, bytes);
             });
  return x.has_scale() ? dense.with_scale(x.step(), x.lo(), x.hi()) : dense;
}

Tensor spread_pixels(const Tensor& dx, const Conv2dShape& shape) {
  Tensor sparse_dx = Tensor::zeros(shape.x_shape(), DType::f32);
  const auto* from = static_cast<const char*>(dx.raw());
  auto* to = static_cast<char*>(sparse_dx.raw());
  each_pixel(shape, size_t(shape.c) * sizeof(float),
             [&](size_t packed, size_t sparse, size_t bytes) {
               memcpy(to + sparse, from + packed, bytes);
             });
  return sparse_dx;
}

}  // namespace qt
