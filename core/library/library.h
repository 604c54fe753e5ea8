// core/library/library.h -- what the engine asks of a compute library: convolutions and matrix
// products, on real numbers and on integer codes.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"

namespace qt {

// How many positions a window of `extent` has along `length` numbers with `padding` on both sides;
// 0 where not even one fits. (Division alone would round -1 / 2 to 0 and find one.)
constexpr int64_t window_positions(int64_t length, int64_t padding, int64_t extent,
                                   int64_t stride) {
  const int64_t room = length + 2 * padding - extent;
  return room < 0 ? 0 : room / stride + 1;
}

// x [n, h, w, c], weights [k, r, s, c / groups], y [n, out_h, out_w, k].
struct Conv2dShape {
  int64_t n = 0, h = 0, w = 0, c = 0;
  int64_t k = 0, r = 1, s = 1;
  int64_t stride = 1, padding = 0, dilation = 1, groups = 1;
  int64_t out_h() const { return window_positions(h, padding, dilation * (r - 1) + 1, stride); }
  int64_t out_w() const { return window_positions(w, padding, dilation * (s - 1) + 1, stride); }
  Shape x_shape() const { return {n, h, w, c}; }
  Shape w_shape() const { return {k, r, s, c / groups}; }
  Shape y_shape() const { return {n, out_h(), out_w(), k}; }
  bool operator==(const Conv2dShape&) const = default;
  std::string text() const;  // "64x32x32x16 -> 32 3x3 stride 2 padding 1"
};

// Inline: modules that are linked with nothing of the program name shapes in their errors.
inline std::string Conv2dShape::text() const {
  const auto number = [](int64_t i) { return std::to_string(i); };
  std::string s = number(n) + "x" + number(h) + "x" + number(w) + "x" + number(c) + " -> " +
                  number(k) + " " + number(r) + "x" + number(this->s) + " stride " +
                  number(stride) + " padding " + number(padding);
  if (dilation != 1) s += " dilation " + number(dilation);
  if (groups != 1) s += " groups " + number(groups);
  return s;
}

// How products of codes are computed; the numbers that come out are the same bits.
enum class CodePath {
  integer,      // int8 multiplications, int32 sums
  exact_float,  // codes as integer-valued floats, split so that every partial sum stays below 2^24
};

// What convolutions of reals may round their operands to; sums stay f32, and so does what f32
// kernels do faster. bf16: on a GPU results may be rounded too. tf32 (11 significant bits) is a
// GPU's; where a library has no lower precision it computes in f32.
enum class Precision { f32, tf32, bf16 };
constexpr const char* name_of(Precision precision) {
  return precision == Precision::f32 ? "f32" : precision == Precision::tf32 ? "tf32" : "bf16";
}

// A record of which kernel computed what, kept while a trace is alive on this thread. Tests assert
// on it.
struct LibraryCall {
  std::string library;     // "onednn", "reference", "cuda"
  std::string operation;   // "conv2d_codes", "conv2d", "conv2d_backward_data", ...
  std::string kernel;      // the library's own name: "brgconv:avx512_core_vnni", "plain loops"
  std::string arithmetic;  // "u8s8s32", "s8s8s32", "f32", "bf16"
  std::string shape;
};
class LibraryTrace {
 public:
  LibraryTrace();
  ~LibraryTrace();
  LibraryTrace(const LibraryTrace&) = delete;
  LibraryTrace& operator=(const LibraryTrace&) = delete;
  const std::vector<LibraryCall>& calls() const { return calls_; }
  static void note(const LibraryCall& call);  // for implementations; cheap where no trace is alive
  static bool active();

 private:
  std::vector<LibraryCall> calls_;
  LibraryTrace* outer_;
};

// Which engine computes what, both as text: for checkpoints.
using EngineChoices = std::map<std::string, std::string>;

class CodeConvolution;  // core/library/code_convolution.h

// Requires: shapes as Conv2dShape says; f32 arguments unless stated. Ensures: results are new
// tensors without scale; the same bits for the same arguments, thread count and machine; integer
// results equal those of "reference".
class Library {
 public:
  virtual ~Library() = default;
  virtual std::string name() const = 0;

  // y = float(exact integer sum), f32, rounded to nearest where a sum exceeds 2^24. x and w are i8
  // or u8 codes with lo and hi known (Tensor::lo, hi): the implementation chooses an exact kernel
  // from them. CodePath::exact_float goes through direct_conv2d below.
  Tensor conv2d_codes(const Tensor& x, const Tensor& w, const Conv2dShape& shape, CodePath path);
  // The integer path for weights that do not change, and sums that are wanted only once; null where
  // this library has no kernel for it. x: an example, whose range and batch are to be expected.
  virtual std::unique_ptr<CodeConvolution> prepare_conv2d_codes(const Tensor& x, const Tensor& w,
                                                                const Conv2dShape& shape);
  // y [m, n] = float(exact x [m, k] times w [n, k] transposed).
  Tensor linear_codes(const Tensor& x, const Tensor& w, CodePath path);

  // Float forward, f32 accumulation; any algorithm, Winograd's too.
  virtual Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape,
                        Precision precision = Precision::f32) = 0;
  // What the two passes below may round dy to before they multiply: whoever computes dy may store
  // it so, with fewer bytes. dy is f32 or this.
  virtual DType gradient_type(Precision) const { return DType::f32; }
  // The type that dx and dw below may come in, and gradients on their way from one convolution to
  // the next may be stored in.
  virtual DType data_gradient_type(Precision) const { return DType::f32; }
  // dx [n, h, w, c], f32 or data_gradient_type. w may be f32 or i8 codes (taken as numbers).
  virtual Tensor conv2d_backward_data(const Tensor& dy, const Tensor& w, const Conv2dShape& shape,
                                      Precision precision) = 0;
  // onto += dx in one pass, of x's gradient so far: f32 or data_gradient_type. In bf16 the sum is
  // rounded once, where dx alone would be as well. The sum is in onto's memory where that is the
  // only handle. False where this library has no kernel for it: onto is as it was.
  virtual bool add_conv2d_backward_data(Tensor& /*onto*/, const Tensor& /*dy*/, const Tensor& /*w*/,
                                        const Conv2dShape&, Precision) {
    return false;
  }
  // dw [k, r, s, c / groups], as dx. x may be f32 or i8/u8 codes (taken as numbers).
  virtual Tensor conv2d_backward_weights(const Tensor& x, const Tensor& dy,
                                         const Conv2dShape& shape, Precision precision) = 0;
  // c [m, n] = op(a) op(b), row-major f32; op transposes where asked.
  virtual Tensor matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b) = 0;

  // What was chosen among several engines so far, and what take_engines gave and was not met yet;
  // empty where a library has one engine for everything.
  virtual EngineChoices engine_choices() const { return {}; }
  // The engines of an earlier run: each is taken again where this machine has it. Where not, a
  // warning, and the choice is made anew.
  virtual void take_engines(const EngineChoices&) {}

 protected:
  // The integer kernels; called for CodePath::integer. Same result as conv2d_codes.
  virtual Tensor integer_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) = 0;
  virtual Tensor integer_linear(const Tensor& x, const Tensor& w) = 0;
  // As conv2d by sums of products alone (no Winograd, no FFT), so that it is exact on
  // integer-valued floats.
  virtual Tensor direct_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) = 0;
  // The fallback that is exact everywhere: integer-valued floats through direct_conv2d / matmul,
  // input channels split where max|x| * sum|w| reaches 2^24, the parts added in int32
  // (core/library/exact_float.cpp).
  Tensor exact_float_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape);
  Tensor exact_float_linear(const Tensor& x, const Tensor& w);
};

std::unique_ptr<Library> make_reference_library();
std::unique_ptr<Library> make_onednn_library();

// By name: "onednn", "reference"; "cuda", which computes on a GPU's current_stream() (ConfigError
// where there is no GPU). ConfigError lists what is known.
std::shared_ptr<Library> library_by_name(const std::string& name);
// The library operations use on this thread; "onednn" at the start.
Library& current_library();
// While alive, current_library() is another.
class UseLibrary {
 public:
  explicit UseLibrary(std::shared_ptr<Library> library);
  ~UseLibrary();
  UseLibrary(const UseLibrary&) = delete;
  UseLibrary& operator=(const UseLibrary&) = delete;

 private:
  std::shared_ptr<Library> before_;
};

// A u8, i8 or bf16 tensor as f32 numbers (core/library/convert.cpp); f32 comes back as it is. Scale
// is dropped.
Tensor to_float(const Tensor& x);

}  // namespace qt
