// core/library/arguments.h -- the checks every compute library makes on its arguments.
#pragma once
#include <cstdint>
#include <string>

#include "core/library/library.h"
#include "core/tensor/tensor.h"

namespace qt {

// The least and greatest code that may occur in a tensor.
struct CodeRange {
  int lo = 0, hi = 0;
  int64_t magnitude() const { return -int64_t(lo) > hi ? -int64_t(lo) : hi; }
  bool operator==(const CodeRange&) const = default;
};

// The range a code tensor carries. InternalError where it carries none or its type cannot hold it.
CodeRange code_range(const std::string& what, const Tensor& codes);

// InternalError where a tensor's extents differ from what the convolution needs, or the convolution
// is impossible.
void check_shape(const Conv2dShape& shape);
void check_extents(const std::string& what, const Tensor& t, const Shape& wanted);
void check_f32(const std::string& what, const Tensor& t);
// f32, or bf16 as Library::gradient_type allows.
void check_gradient(const std::string& what, const Tensor& dy);
// All that the convolutions of real numbers ask of their arguments (core/library/library.h).
void check_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape);
void check_conv2d_backward_data(const Tensor& dy, const Tensor& w, const Conv2dShape& shape);
void check_conv2d_backward_weights(const Tensor& x, const Tensor& dy, const Conv2dShape& shape);
// ConfigError where `products` products of such codes may leave the int32 accumulators of the
// integer program.
void check_accumulator(const CodeRange& x, const CodeRange& w, int64_t products,
                       const std::string& where);

// [m, k] x [k, n] of a product whose factors may be transposed.
struct MatmulExtents {
  int64_t m = 0, n = 0, k = 0;
  std::string text() const;
};
MatmulExtents matmul_extents(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b);

// A product x [m, k] times w [n, k] transposed, seen as a 1x1 convolution over m pixels.
Conv2dShape linear_as_conv2d(const Tensor& x, const Tensor& w);

}  // namespace qt
