// core/library/library.cpp -- what all compute libraries share: argument checks, choice by name,
// traces.
#include "core/library/library.h"

#include <map>
#include <mutex>
#include <utility>

#include "core/base/registry.h"
#include "core/device/stream.h"
#include "core/library/arguments.h"
#include "core/library/code_convolution.h"

namespace qt {

// ---- arguments ----
CodeRange code_range(const std::string& what, const Tensor& codes) {
  QT_CHECK(codes.is_codes(), what + " " + codes.shape().text() + " of " + name_of(codes.dtype()) +
                                 " must be i8 or u8 codes with a scale");
  const CodeRange range{codes.lo(), codes.hi()};
  const bool is_signed = codes.dtype() == DType::i8;
  QT_CHECK(range.lo < range.hi && range.lo >= (is_signed ? -128 : 0) &&
               range.hi <= (is_signed ? 127 : 255),
           what + " carries the code range " + std::to_string(range.lo) + ".." +
               std::to_string(range.hi) + ", which " + name_of(codes.dtype()) + " does not hold");
  return range;
}

void check_shape(const Conv2dShape& shape) {
  QT_CHECK(
      shape.n > 0 && shape.h > 0 && shape.w > 0 && shape.c > 0 && shape.k > 0 && shape.r > 0 &&
          shape.s > 0 && shape.stride > 0 && shape.padding >= 0 && shape.dilation > 0 &&
          shape.groups > 0,
      "convolution " + shape.text() + ": extents, stride, dilation and groups must be at least 1");
  QT_CHECK(shape.c % shape.groups == 0 && shape.k % shape.groups == 0,
           "convolution " + shape.text() + ": groups must divide both channel counts");
  const auto reach = [&](int64_t extent, int64_t taps) {
    return extent + 2 * shape.padding - shape.dilation * (taps - 1) - 1 >= 0;
  };
  QT_CHECK(reach(shape.h, shape.r) && reach(shape.w, shape.s),
           "convolution " + shape.text() + ": the kernel is larger than the padded input");
}

void check_extents(const std::string& what, const Tensor& t, const Shape& wanted) {
  QT_CHECK(t.defined(), what + " is undefined");
  QT_CHECK(t.shape() == wanted,
           what + " has shape " + t.shape().text() + ", wanted " + wanted.text());
}

void check_f32(const std::string& what, const Tensor& t) {
  QT_CHECK(t.dtype() == DType::f32,
           what + " " + t.shape().text() + " holds " + name_of(t.dtype()) + ", wanted f32");
}

void check_gradient(const std::string& what, const Tensor& dy) {
  if (dy.dtype() != DType::bf16) check_f32(what, dy);
}

void check_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) {
  check_shape(shape);
  check_extents("conv2d's x", x, shape.x_shape());
  check_extents("conv2d's w", w, shape.w_shape());
  check_f32("conv2d's x", x);
  check_f32("conv2d's w", w);
}

void check_conv2d_backward_data(const Tensor& dy, const Tensor& w, const Conv2dShape& shape) {
  check_shape(shape);
  check_extents("conv2d_backward_data's dy", dy, shape.y_shape());
  check_extents("conv2d_backward_data's w", w, shape.w_shape());
  check_gradient("conv2d_backward_data's dy", dy);
}

void check_conv2d_backward_weights(const Tensor& x, const Tensor& dy, const Conv2dShape& shape) {
  check_shape(shape);
  check_extents("conv2d_backward_weights' x", x, shape.x_shape());
  check_extents("conv2d_backward_weights' dy", dy, shape.y_shape());
  check_gradient("conv2d_backward_weights' dy", dy);
}

void check_accumulator(const CodeRange& x, const CodeRange& w, int64_t products,
                       const std::string& where) {
  const int64_t largest = products * x.magnitude() * w.magnitude();
  if (largest < int64_t(1) << 31) return;
  throw ConfigError(where + ": " + std::to_string(products) + " products of codes up to " +
                    std::to_string(x.magnitude()) + " and " + std::to_string(w.magnitude()) +
                    " may reach " + std::to_string(largest) +
                    ", beyond the int32 accumulators; use fewer bits or fewer inputs per output");
}

std::string MatmulExtents::text() const { return Shape{m, k}.text() + " x " + Shape{k, n}.text(); }

MatmulExtents matmul_extents(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b) {
  QT_CHECK(a.defined() && b.defined() && a.shape().rank() == 2 && b.shape().rank() == 2,
           "matmul takes two matrices, got " + a.shape().text() + " and " + b.shape().text());
  check_f32("matmul's a", a);
  check_f32("matmul's b", b);
  const MatmulExtents e{a.dim(transpose_a ? 1 : 0), b.dim(transpose_b ? 0 : 1),
                        a.dim(transpose_a ? 0 : 1)};
  QT_CHECK(b.dim(transpose_b ? 1 : 0) == e.k, "matmul: inner extents differ: " + a.shape().text() +
                                                  (transpose_a ? " transposed" : "") + " and " +
                                                  b.shape().text() +
                                                  (transpose_b ? " transposed" : ""));
  return e;
}

Conv2dShape linear_as_conv2d(const Tensor& x, const Tensor& w) {
  return {.n = 1, .h = 1, .w = x.dim(0), .c = x.dim(1), .k = w.dim(0)};
}

// ---- products of codes ----
namespace {

// The way out of CPUs whose int8 kernels are not exact. It looks at weights on the host.
void check_exact_float_place(CodePath path) {
  if (path == CodePath::exact_float && current_stream().on_gpu)
    throw ConfigError(
        "exact_float is a path of the CPU; on a GPU int8 gives the same bits (train.forward=int8)");
}

}  // namespace

Tensor Library::conv2d_codes(const Tensor& x, const Tensor& w, const Conv2dShape& shape,
                             CodePath path) {
  check_exact_float_place(path);
  check_shape(shape);
  check_extents("conv2d_codes' x", x, shape.x_shape());
  check_extents("conv2d_codes' w", w, shape.w_shape());
  check_accumulator(code_range("conv2d_codes' x", x), code_range("conv2d_codes' w", w),
                    shape.r * shape.s * shape.c / shape.groups, "convolution " + shape.text());
  return path == CodePath::integer ? integer_conv2d(x, w, shape) : exact_float_conv2d(x, w, shape);
}

std::unique_ptr<CodeConvolution> Library::prepare_conv2d_codes(const Tensor&, const Tensor&,
                                                               const Conv2dShape&) {
  return nullptr;
}

Tensor Library::linear_codes(const Tensor& x, const Tensor& w, CodePath path) {
  check_exact_float_place(path);
  QT_CHECK(x.defined() && w.defined() && x.shape().rank() == 2 && w.shape().rank() == 2 &&
               x.dim(1) == w.dim(1),
           "linear_codes takes x [m, k] and w [n, k], got " + x.shape().text() + " and " +
               w.shape().text());
  check_shape(linear_as_conv2d(x, w));
  check_accumulator(code_range("linear_codes' x", x), code_range("linear_codes' w", w), x.dim(1),
                    "product of " + x.shape().text() + " and " + w.shape().text() + " transposed");
  return path == CodePath::integer ? integer_linear(x, w) : exact_float_linear(x, w);
}

// ---- choice by name ----
std::shared_ptr<Library> library_by_name(const std::string& name) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<Library>> made;
  const std::lock_guard lock(mutex);
  auto& library = made[name];
  if (!library) {
    try {
      library = Registry<Library>::make("compute library", name);
    } catch (...) {
      made.erase(name);
      throw;
    }
  }
  return library;
}

namespace {

std::shared_ptr<Library>& library_of_thread() {
  static thread_local std::shared_ptr<Library> library = library_by_name("onednn");
  return library;
}

thread_local LibraryTrace* innermost_trace = nullptr;

}  // namespace

Library& current_library() { return *library_of_thread(); }

UseLibrary::UseLibrary(std::shared_ptr<Library> library) {
  QT_CHECK(library != nullptr, "UseLibrary was given no library");
  before_ = std::exchange(library_of_thread(), std::move(library));
}

UseLibrary::~UseLibrary() { library_of_thread() = std::move(before_); }

// ---- traces ----
LibraryTrace::LibraryTrace() : outer_(std::exchange(innermost_trace, this)) {}
LibraryTrace::~LibraryTrace() { innermost_trace = outer_; }

void LibraryTrace::note(const LibraryCall& call) {
  for (LibraryTrace* trace = innermost_trace; trace; trace = trace->outer_)
    trace->calls_.push_back(call);
}

bool LibraryTrace::active() { return innermost_trace != nullptr; }

}  // namespace qt
