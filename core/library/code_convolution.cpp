// core/library/code_convolution.cpp -- what all prepared convolutions of codes share.
#include "core/library/code_convolution.h"

#include "core/library/arguments.h"

namespace qt {

void CodeConvolution::run(const Tensor& x, const TakeSums& take) const {
  Conv2dShape shape = shape_;
  shape.n = x.dim(0);
  check_extents("a prepared convolution's x", x, shape.x_shape());
  if (LibraryTrace::active())
    LibraryTrace::note({library(), "conv2d_codes", kernel(), arithmetic(), shape.text()});
  if (x.dtype() == DType::u8)
    compute(x.data<uint8_t>(), shape, take);
  else
    compute(x.data<int8_t>(), shape, take);
}

Tensor CodeConvolution::rounded_sums(const Tensor& x) const {
  Conv2dShape shape = shape_;
  shape.n = x.dim(0);
  Tensor y = Tensor::empty(shape.y_shape(), DType::f32);
  float* const to = y.data<float>();
  run(x, [to, k = shape.k](const CodeSums& block) {
    const int32_t* from = block.sums;
    for (int64_t p = 0; p < block.pixels; ++p, from += block.channels) {
      float* row = to + (block.pixel + p) * k + block.channel;
      for (int64_t i = 0; i < block.channels; ++i) row[i] = float(from[i]);
    }
  });
  return y;
}

}  // namespace qt
