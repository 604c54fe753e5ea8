// core/library/winograd/winograd.h -- 3x3 convolutions of stride 1 with fewer multiplications, for
// any x86 CPU with AVX2 (Lavin & Gray 2016).
//
// On real numbers F(4x4, 3x3): a quarter of the multiplications, results within about 5e-6 of the
// direct sum (relative, L2). On codes, in integers and exactly the sums of plain loops, F(4x4, 3x3)
// or F(2x2, 3x3), which needs 4/9 of the multiplications.
#pragma once
#include <memory>
#include <string>

#include "core/library/arguments.h"
#include "core/library/code_convolution.h"

namespace qt::winograd {

enum class Operation { conv2d, conv2d_backward_data, conv2d_backward_weights };

// Whether these kernels compute such a convolution at all: 3x3, stride 1, no dilation, one group,
// padding of 0 to 2, and channels in multiples of 16.
bool computes(const Conv2dShape& shape);
// Whether sums of these codes stay exact: 4 |y| must stay below 2^31, so 9 c max|x| max|w| below
// 2^29.
bool stays_exact(const Conv2dShape& shape, int64_t x_magnitude, int64_t w_magnitude);
// Whether transformed codes and weights of these ranges fit int16 in tiles of that size.
bool fits(int64_t tile, const CodeRange& x, const CodeRange& w);

// As the functions of Library with these names, for shapes that computes() allows, always in f32.
// The same bits whatever the number of threads.
Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape);
Tensor conv2d_backward_data(const Tensor& dy, const Tensor& w, const Conv2dShape& shape);
Tensor conv2d_backward_weights(const Tensor& x, const Tensor& dy, const Conv2dShape& shape);
// Codes, in tiles of 2 or 4 output pixels on a side. Requires stays_exact() and fits().
std::unique_ptr<CodeConvolution> prepare_codes(const Tensor& w, const Conv2dShape& shape,
                                               int64_t tile);

// Whether these kernels are faster than oneDNN's direct ones, by measurement (docs/performance.md):
// a fixed rule, so that the bits do not depend on timing.
bool is_faster(Operation operation, const Conv2dShape& shape);
// Whether they are faster than oneDNN's on operands of bf16, too, where the CPU multiplies those.
bool is_faster_than_bf16(Operation operation, const Conv2dShape& shape);
// On codes: the tiles that are faster than all direct kernels (2 or 4), or 0 where none are.
int64_t faster_tile(const Conv2dShape& shape, const CodeRange& x, const CodeRange& w);
// The same beside kernels that multiply bytes, four to a lane (AVX512_VNNI), for prepared weights.
int64_t faster_tile_than_vnni(const Conv2dShape& shape, const CodeRange& x, const CodeRange& w);

std::string kernel_name(int64_t tile = 4);  // "F(4x4, 3x3)"

}  // namespace qt::winograd
