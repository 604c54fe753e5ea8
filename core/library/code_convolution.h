// core/library/code_convolution.h -- a convolution of codes that hands its sums on while they are
// in cache, for whoever turns them into codes at once.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "core/library/library.h"

namespace qt {

// Exact sums of some pixels and channels of y, seen as [n * out_h * out_w, k].
struct CodeSums {
  const int32_t* sums;    // [pixels][channels]
  int64_t pixel, pixels;  // the first, and how many, one after the other
  int64_t channel, channels;
};
// Called by several threads at once, each sum once, in no particular order.
using TakeSums = std::function<void(const CodeSums&)>;

// Made for weights that do not change (Library::prepare_conv2d_codes): they are kept in the form
// that the kernel reads.
class CodeConvolution {
 public:
  // As in LibraryCall: "winograd", "F(4x4, 3x3)", "s16s16s32".
  struct Names {
    std::string library, kernel, arithmetic;
  };
  CodeConvolution(const Conv2dShape& shape, Names names)
      : shape_(shape), names_(std::move(names)) {}
  virtual ~CodeConvolution() = default;
  // x: [n, h, w, c] of any n, codes within the range that this was made for. The sums are those of
  // plain loops, whatever the number of threads.
  void run(const Tensor& x, const TakeSums& take) const;
  // The same as Library::conv2d_codes: each sum rounded to f32 once.
  Tensor rounded_sums(const Tensor& x) const;
  const std::string& library() const { return names_.library; }
  const std::string& kernel() const { return names_.kernel; }
  const std::string& arithmetic() const { return names_.arithmetic; }

 protected:
  virtual void compute(const int8_t* x, const Conv2dShape& shape, const TakeSums& take) const = 0;
  virtual void compute(const uint8_t* x, const Conv2dShape& shape, const TakeSums& take) const = 0;

 private:
  Conv2dShape shape_;
  Names names_;
};

}  // namespace qt
