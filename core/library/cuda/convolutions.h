// core/library/cuda/convolutions.h -- convolutions in GPU memory: what the CUDA library asks of the
// module that is linked with cuDNN. Nothing here is a tensor, so that the module needs nothing of
// the program.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/device/stream.h"
#include "core/library/cuda/matrix_products.h"
#include "core/library/library.h"

namespace qt {

enum class ConvolutionPass { forward, backward_data, backward_weights };

// One convolution of a type of operands. Images are NHWC, weights KRSC, both dense. i8 is for
// forward passes, its result float(exact int32 sum). bf16: f32 sums, the result rounded to bf16
// (cuDNN has no gradients of bf16 operands with f32 results). The others: f32.
struct ConvolutionRequest {
  ConvolutionPass pass = ConvolutionPass::forward;
  ProductType type = ProductType::f32;
  Conv2dShape shape;
  bool accumulate = false;  // of backward_data: result += instead of result =

  std::array<int64_t, 14> key() const {
    const Conv2dShape& s = shape;
    return {int64_t(pass), int64_t(type), s.n,      s.h,       s.w,        s.c,      s.k,
            s.r,           s.s,           s.stride, s.padding, s.dilation, s.groups, accumulate};
  }
  bool operator<(const ConvolutionRequest& other) const { return key() < other.key(); }
};

// Thread safe. InternalError names the call.
class Convolutions {
 public:
  virtual ~Convolutions() = default;
  // "cuDNN 9.19.0"
  virtual std::string name() const = 0;
  // The names of the engines that the library says this GPU has for a request ("engine 38 (choice
  // 2)"), what it believes to be fastest first; empty where it has none that is deterministic and
  // computes in the type asked for (f32 without tensor cores, no FFT and no Winograd). The same
  // list each time, in the same order. Nothing is compiled for it.
  virtual const std::vector<std::string>& engines(const ConvolutionRequest& request) = 0;
  // Makes engine number `engine` of that list ready to run, which may compile its kernel; once. The
  // bytes of its workspace; nothing where the library cannot make it after all.
  virtual std::optional<size_t> prepare(const ConvolutionRequest& request, size_t engine) = 0;
  // Why engines(request) is empty or, of an engine, why prepare gave nothing, in the library's
  // words; "" where it said nothing.
  virtual std::string cause(const ConvolutionRequest&, std::optional<size_t> /*engine*/) {
    return "";
  }
  // Forgets what was made ready for a request, but for this engine (any other number: all). What
  // they have enqueued must have run.
  virtual void keep_only(const ConvolutionRequest& request, size_t engine) = 0;
  // Enqueues one that is ready. forward: first = x, second = w, result = y; backward_data: dy, w,
  // dx; backward_weights: x, dy, dw. Addresses are multiples of 16 bytes.
  virtual void run(const ConvolutionRequest& request, size_t engine, const void* first,
                   const void* second, void* result, void* workspace, Stream stream) = 0;
};

// The function of the module, with the number of the GPU.
constexpr const char* open_convolutions_symbol = "qattrain_open_convolutions";

}  // namespace qt
