// core/library/cuda/real.h -- convolutions of real numbers, and their gradients, as matrix
// products.
#pragma once
#include "core/library/cuda/library.h"

namespace qt {

// As the functions of Library. `type` is f32, tf32 or bf16; codes are taken as numbers.
struct RealConvolution {
  Conv2dShape shape;
  ProductType type = ProductType::f32;
  int64_t column_bytes = 0;
};
Tensor conv2d_as_products(MatrixProducts& products, const RealConvolution& convolution,
                          const Tensor& x, const Tensor& w);
Tensor backward_data_as_products(MatrixProducts& products, const RealConvolution& convolution,
                                 const Tensor& dy, const Tensor& w);
Tensor backward_weights_as_products(MatrixProducts& products, const RealConvolution& convolution,
                                    const Tensor& x, const Tensor& dy);

}  // namespace qt
