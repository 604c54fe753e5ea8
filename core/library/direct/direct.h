// core/library/direct/direct.h -- f32 convolutions as products of pixel rows, for any stride and
// kernel, on any x86 CPU with AVX2. Beside oneDNN for what its AVX2 kernels are slow at: gradients
// of convolutions with a stride.
#pragma once
#include <memory>

#include "core/library/arguments.h"
#include "core/library/code_convolution.h"

namespace qt::direct {

// Whether these kernels compute such a convolution at all: one group, channels in multiples of 16.
bool computes(const Conv2dShape& shape);
enum class Operation { conv2d, conv2d_backward_data, conv2d_backward_weights };
// Whether they are faster than oneDNN's AVX2 kernels, by measurement (docs/performance.md); a fixed
// rule.
bool is_faster(Operation operation, const Conv2dShape& shape);

// As the functions of Library with these names. Sums of products in a fixed order: exact on
// integer-valued floats, and the same bits whatever the number of threads. w and x may hold codes.
Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape);
Tensor conv2d_backward_data(const Tensor& dy, const Tensor& w, const Conv2dShape& shape);
Tensor conv2d_backward_weights(const Tensor& x, const Tensor& dy, const Conv2dShape& shape);

// On codes: exact, in integers. Whether these kernels compute such a convolution: one group, no
// dilation, output channels in multiples of 16, weights that fit int8.
bool computes_codes(const Conv2dShape& shape, const CodeRange& w);
std::unique_ptr<CodeConvolution> prepare_codes(const CodeRange& x, const Tensor& w,
                                               const Conv2dShape& shape);

}  // namespace qt::direct
