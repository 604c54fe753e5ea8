// core/library/onednn_self_test.cpp -- the self-test of int8 primitives.
#include "core/library/onednn_self_test.h"

#include <cstdint>

#include "core/base/log.h"
#include "core/library/plain.h"

namespace qt {
namespace {

// Where saturation and lost bits show: both factors at an end of their range, with equal signs in
// neighbours (largest sums) or mixed ones.
enum class Pattern { all_high, negative_weights, mixed };

Tensor extreme_codes(const Shape& shape, const CodeRange& range, Pattern pattern, bool is_weight) {
  Tensor codes = Tensor::empty(shape, range.hi > 127 ? DType::u8 : DType::i8);
  auto* bytes = static_cast<uint8_t*>(codes.raw());
  const auto low = uint8_t(range.lo), high = uint8_t(range.hi);
  if (pattern == Pattern::mixed) {
    uint32_t state =
        is_weight ? 12345
                  : 54321;  // a linear congruential generator; its upper bits are random enough
    for (int64_t i = 0; i < codes.elements(); ++i) {
      state = state * 1664525u + 1013904223u;
      bytes[i] = state >> 31 ? low : high;
    }
  } else {
    const bool negative = is_weight && pattern == Pattern::negative_weights;
    for (int64_t i = 0; i < codes.elements(); ++i) bytes[i] = negative ? low : high;
  }
  return codes.with_scale(Tensor::full({1}, 1.0f), range.lo, range.hi);
}

// Compares up to `count` outputs, spread over pixels and channels by a stride coprime to most
// extents.
bool samples_agree(const Tensor& x, const Tensor& w, const Conv2dShape& shape, const Tensor& y) {
  constexpr int64_t samples = 1024;
  const int64_t outputs = y.elements();
  const int64_t step = outputs <= samples ? 1 : outputs / samples | 1;
  for (int64_t i = 0; i < outputs; i += step) {
    const int64_t pixel = i / shape.k, row = pixel / shape.out_w();
    const int64_t sum = plain_sum(x, w, shape, row / shape.out_h(), row % shape.out_h(),
                                  pixel % shape.out_w(), i % shape.k);
    if (y.data<float>()[i] != float(sum)) return false;
  }
  return true;
}

std::string text_of(const CodeRange& range) {
  return std::to_string(range.lo) + ".." + std::to_string(range.hi);
}

bool run_test(const ConvolutionPlan& plan, const Conv2dShape& shape, const CodeRange& x_range,
              const CodeRange& w_range, Tensor& y) {
  for (const Pattern pattern : {Pattern::all_high, Pattern::negative_weights, Pattern::mixed}) {
    const Tensor x = extreme_codes(shape.x_shape(), x_range, pattern, false);
    const Tensor w = extreme_codes(shape.w_shape(), w_range, pattern, true);
    plan.run(x, w, y);
    if (!samples_agree(x, w, shape, y)) return false;
  }
  return true;
}

}  // namespace

bool IntegerSelfTests::passed(const ConvolutionPlan& plan, const Conv2dShape& shape,
                              const CodeRange& x, const CodeRange& w, Tensor& y) {
  const std::lock_guard lock(mutex_);
  for (const Verdict& verdict : verdicts_)
    if (verdict.plan == &plan && verdict.x == x && verdict.w == w) return verdict.passed;
  const bool passed = run_test(plan, shape, x, w, y);
  verdicts_.push_back({&plan, x, w, passed});
  if (!passed)
    log::warn("oneDNN's kernel " + plan.kernel() + " is not exact for convolution " + shape.text() +
              " of codes " + text_of(x) + " and weights " + text_of(w) +
              "; they go through f32 instead");
  return passed;
}

}  // namespace qt
