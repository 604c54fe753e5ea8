// core/library/onednn.cpp -- the library on oneDNN: int8 where it is exact, direct f32 and bf16
// convolutions, sgemm; and our own Winograd kernels where they are faster.
#include <dnnl.hpp>
#include <string>

#include "core/base/registry.h"
#include "core/library/arguments.h"
#include "core/library/code_convolution.h"
#include "core/library/convert.h"
#include "core/library/direct/direct.h"
#include "core/library/library.h"
#include "core/library/onednn_integer.h"
#include "core/library/onednn_plans.h"
#include "core/library/onednn_self_test.h"
#include "core/library/strided.h"
#include "core/library/winograd/winograd.h"

namespace qt {
namespace {

using Type = dnnl::memory::data_type;
using winograd::Operation;

class OneDnn final : public Library {
 public:
  OneDnn() { limit_onednn(); }
  std::string name() const override { return "onednn"; }

  Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape,
                Precision precision) override {
    check_conv2d(x, w, shape);
    const Type type = arithmetic_for(precision);
    if (prefers_winograd(Operation::conv2d, shape, type)) {
      note_winograd("conv2d", shape);
      return winograd::conv2d(x, w, shape);
    }
    return type == Type::bf16 ? bf16_conv2d(x, w, shape) : direct_conv2d(x, w, shape);
  }

  Tensor direct_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) override {
    if (skips_pixels(shape)) return direct_conv2d(take_pixels(x, shape), w, dense_shape(shape));
    if (prefers_direct(direct::Operation::conv2d, shape)) {
      note_direct("conv2d", shape);
      return direct::conv2d(x, w, shape);
    }
    const ConvolutionPlan& plan = plans_.get({.shape = shape});
    note("conv2d", plan.kernel(), "f32", shape.text());
    Tensor y = Tensor::empty(shape.y_shape(), DType::f32);
    plan.run(x, w, y);
    return y;
  }

  DType gradient_type(Precision precision) const override {
    return arithmetic_for(precision) == Type::bf16 ? DType::bf16 : DType::f32;
  }

  Tensor conv2d_backward_data(const Tensor& dy, const Tensor& w, const Conv2dShape& shape,
                              Precision precision) override {
    check_conv2d_backward_data(dy, w, shape);
    if (skips_pixels(shape))
      return spread_pixels(conv2d_backward_data(dy, w, dense_shape(shape), precision), shape);
    const Type type = arithmetic_for(precision);
    if (prefers_winograd(Operation::conv2d_backward_data, shape, type)) {
      note_winograd("conv2d_backward_data", shape);
      return winograd::conv2d_backward_data(dy, w, shape);
    }
    if (type == Type::f32 && prefers_direct(direct::Operation::conv2d_backward_data, shape)) {
      note_direct("conv2d_backward_data", shape);
      return direct::conv2d_backward_data(dy, w, shape);
    }
    const ConvolutionPlan& plan = plans_.get({shape, ConvolutionKind::backward_data, type, type});
    note("conv2d_backward_data", plan.kernel(), text_of(type), shape.text());
    Tensor dx = Tensor::empty(shape.x_shape(), DType::f32);
    plan.run(operand(dy, type), operand(w, type), dx);
    return dx;
  }

  Tensor conv2d_backward_weights(const Tensor& x, const Tensor& dy, const Conv2dShape& shape,
                                 Precision precision) override {
    check_conv2d_backward_weights(x, dy, shape);
    if (skips_pixels(shape))
      return conv2d_backward_weights(take_pixels(x, shape), dy, dense_shape(shape), precision);
    if (precision == Precision::bf16 && leaves_scratch_unwritten(shape))
      return conv2d_backward_weights(x, to_float(dy), shape, Precision::f32);
    const Type type = arithmetic_for(precision);
    if (prefers_winograd(Operation::conv2d_backward_weights, shape, type)) {
      note_winograd("conv2d_backward_weights", shape);
      return winograd::conv2d_backward_weights(x, dy, shape);
    }
    if (type == Type::f32 && prefers_direct(direct::Operation::conv2d_backward_weights, shape)) {
      note_direct("conv2d_backward_weights", shape);
      return direct::conv2d_backward_weights(x, dy, shape);
    }
    const ConvolutionPlan& plan =
        plans_.get({shape, ConvolutionKind::backward_weights, type, Type::f32});
    note("conv2d_backward_weights", plan.kernel(), text_of(type), shape.text());
    Tensor dw = Tensor::empty(shape.w_shape(), DType::f32);
    plan.run(operand(x, type), operand(dy, type), dw);
    return dw;
  }

  // Of our own kernels. Where the CPU multiplies bytes exactly, oneDNN's direct ones stay ahead.
  std::unique_ptr<CodeConvolution> prepare_conv2d_codes(const Tensor& x, const Tensor& w,
                                                        const Conv2dShape& shape) override {
    if (!has_avx2() || w.dtype() != DType::i8) return nullptr;
    const CodeRange x_range = code_range("a convolution's x", x),
                    w_range = code_range("a convolution's w", w);
    const bool vnni = effective_byte_products() == ByteProducts::vnni;
    if (const int64_t tile = vnni ? winograd::faster_tile_than_vnni(shape, x_range, w_range)
                                  : winograd::faster_tile(shape, x_range, w_range))
      return winograd::prepare_codes(w, shape, tile);
    if (vnni) return nullptr;
    if (direct::computes_codes(shape, w_range)) return direct::prepare_codes(x_range, w, shape);
    return nullptr;
  }

  Tensor matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b) override {
    const MatmulExtents e = matmul_extents(a, transpose_a, b, transpose_b);
    note("matmul", "sgemm", "f32", e.text());
    Tensor c = Tensor::zeros({e.m, e.n}, DType::f32);
    if (e.m == 0 || e.n == 0 || e.k == 0) return c;
    const auto status = dnnl::sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', e.m, e.n, e.k,
                                    1.0f, a.data<float>(), a.dim(1), b.data<float>(), b.dim(1),
                                    0.0f, c.data<float>(), e.n);
    QT_CHECK(status == dnnl::status::success, "oneDNN's sgemm failed for " + e.text());
    return c;
  }

 protected:
  Tensor integer_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) override {
    if (takes_own(x, w, shape))
      if (const auto own = prepare_conv2d_codes(x, w, shape)) return own->rounded_sums(x);
    if (skips_pixels(shape)) return integer_conv2d(take_pixels(x, shape), w, dense_shape(shape));
    Tensor y = integer(x, w, shape, "conv2d_codes");
    return y.defined() ? y : exact_float_conv2d(x, w, shape);
  }

  Tensor integer_linear(const Tensor& x, const Tensor& w) override {
    const Conv2dShape shape = linear_as_conv2d(x, w);
    Tensor y =
        integer(x.reshaped(shape.x_shape()), w.reshaped(shape.w_shape()), shape, "linear_codes");
    return y.defined() ? y.reshaped({x.dim(0), w.dim(0)}) : exact_float_linear(x, w);
  }

 private:
  Tensor bf16_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) {
    if (skips_pixels(shape)) return bf16_conv2d(take_pixels(x, shape), w, dense_shape(shape));
    const ConvolutionPlan& plan =
        plans_.get({shape, ConvolutionKind::forward, Type::bf16, Type::bf16});
    note("conv2d", plan.kernel(), "bf16", shape.text());
    Tensor y = Tensor::empty(shape.y_shape(), DType::f32);
    plan.run(to_bf16(x), to_bf16(w), y);
    return y;
  }

  // Undefined where no int8 kernel is exact for these codes.
  Tensor integer(const Tensor& x, const Tensor& w, const Conv2dShape& shape,
                 const std::string& operation) {
    const CodeRange x_range = code_range(operation + "' x", x),
                    w_range = code_range(operation + "' w", w);
    const IntegerKernel kernel = choose_integer_kernel(x_range, w_range, effective_byte_products());
    if (kernel == IntegerKernel::exact_float) return {};
    const Type source = kernel == IntegerKernel::u8s8 ? Type::u8 : Type::s8;
    const ConvolutionPlan& plan = plans_.get({shape, ConvolutionKind::forward, source, Type::s8});
    Tensor y = Tensor::empty(shape.y_shape(), DType::f32);
    if (!self_tests_.passed(plan, shape, x_range, w_range, y)) return {};
    note(operation, plan.kernel(), text_of(kernel), shape.text());
    plan.run(x, w, y);
    return y;
  }

  // Where sums are kept as f32 anyway, oneDNN's int8 kernels are a little ahead of our direct ones,
  // and those of a CPU that multiplies bytes of Winograd too, which transforms the weights.
  static bool takes_own(const Tensor& x, const Tensor& w, const Conv2dShape& shape) {
    if (effective_byte_products() == ByteProducts::vnni) return false;
    const CodeRange x_range = code_range("a convolution's x", x),
                    w_range = code_range("a convolution's w", w);
    return winograd::faster_tile(shape, x_range, w_range) != 0 ||
           choose_integer_kernel(x_range, w_range, effective_byte_products()) ==
               IntegerKernel::exact_float;
  }

  static bool prefers_winograd(Operation operation, const Conv2dShape& shape, Type type) {
    if (!has_avx2()) return false;
    return type == Type::bf16 ? winograd::is_faster_than_bf16(operation, shape)
                              : winograd::is_faster(operation, shape);
  }

  // Where oneDNN has AVX512 kernels they are ahead.
  static bool prefers_direct(direct::Operation operation, const Conv2dShape& shape) {
    return has_avx2_only() && direct::is_faster(operation, shape);
  }

  static void note_winograd(const std::string& operation, const Conv2dShape& shape) {
    if (LibraryTrace::active())
      LibraryTrace::note({"winograd", operation, winograd::kernel_name(), "f32", shape.text()});
  }

  static void note_direct(const std::string& operation, const Conv2dShape& shape) {
    if (LibraryTrace::active())
      LibraryTrace::note({"direct", operation, "products of pixel rows", "f32", shape.text()});
  }

  // bf16 only where the CPU multiplies it: elsewhere it is several times slower than f32.
  static Type arithmetic_for(Precision precision) {
    static const bool native = has_native_bf16();
    return precision == Precision::bf16 && native ? Type::bf16 : Type::f32;
  }

  // oneDNN's jit_bf16:avx512_core_bf16 gradient of weights (2.6.3) reads scratch memory that it
  // has not written where the input is narrower than the stride: weights that only see padding get
  // whatever was there.
  static bool leaves_scratch_unwritten(const Conv2dShape& shape) { return shape.w < shape.stride; }

  static Tensor operand(const Tensor& t, Type type) {
    return type == Type::bf16 ? to_bf16(t) : to_float(t);
  }

  static std::string text_of(Type type) { return type == Type::bf16 ? "bf16" : "f32"; }
  static std::string text_of(IntegerKernel kernel) { return qt::text_of(kernel); }

  static void note(const std::string& operation, const std::string& kernel,
                   const std::string& arithmetic, const std::string& shape) {
    if (LibraryTrace::active())
      LibraryTrace::note({"onednn", operation, kernel, arithmetic, shape});
  }

  ConvolutionPlans plans_;
  IntegerSelfTests self_tests_;
};

const Registry<Library>::Add add{"onednn", make_onednn_library};

}  // namespace

std::unique_ptr<Library> make_onednn_library() { return std::make_unique<OneDnn>(); }

}  // namespace qt
