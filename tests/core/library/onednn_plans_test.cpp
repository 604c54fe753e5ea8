// tests/core/library/onednn_plans_test.cpp -- int8 primitives: their layouts, and the self-test
// that catches inexact ones.
#include <gtest/gtest.h>

#include "core/library/onednn_integer.h"
#include "core/library/onednn_self_test.h"
#include "core/library/plain.h"
#include "tests/core/library/cases.h"

namespace qt {
namespace {

constexpr CodeRange seven_bits{0, 127}, eight_bits{0, 255}, signed_bits{-127, 127};

TEST(OneDnnSelfTest, PassesWhereTheRulesPromiseExactness) {
  for (const Conv2dShape& shape : convolution_cases()) {
    const ConvolutionPlan plan({shape, ConvolutionKind::forward, dnnl::memory::data_type::u8,
                                dnnl::memory::data_type::s8});
    Tensor y = Tensor::empty(shape.y_shape(), DType::f32);
    EXPECT_TRUE(IntegerSelfTests().passed(plan, shape, seven_bits, signed_bits, y)) << shape.text();
  }
}

// Without VNNI these saturate or lose a bit: were the rules wrong, the self-test would still stop
// the kernel.
TEST(OneDnnSelfTest, FailsWherePairSumsSaturateOrWeightsAreHalved) {
  const bool exact = effective_byte_products() == ByteProducts::vnni;
  const Conv2dShape shape{.n = 2, .h = 8, .w = 8, .c = 32, .k = 32, .r = 3, .s = 3, .padding = 1};
  Tensor y = Tensor::empty(shape.y_shape(), DType::f32);
  const ConvolutionPlan u8(
      {shape, ConvolutionKind::forward, dnnl::memory::data_type::u8, dnnl::memory::data_type::s8});
  EXPECT_EQ(IntegerSelfTests().passed(u8, shape, eight_bits, signed_bits, y), exact);
  const ConvolutionPlan s8(
      {shape, ConvolutionKind::forward, dnnl::memory::data_type::s8, dnnl::memory::data_type::s8});
  EXPECT_EQ(IntegerSelfTests().passed(s8, shape, signed_bits, signed_bits, y), exact);
}

// Halved weights are exact where all are even: so the layout and compensation of signed sources are
// right here too.
TEST(ConvolutionPlan, SignedSourcesAreExactForEvenWeightsOnEveryMachine) {
  for (const Conv2dShape& shape : convolution_cases()) {
    const Tensor x = codes_of(shape.x_shape(), {-128, 127}, Fill::uniform);
    Tensor w = codes_of(shape.w_shape(), {-63, 63}, Fill::uniform, 2);
    for (int64_t i = 0; i < w.elements(); ++i)
      w.data<int8_t>()[i] = int8_t(2 * w.data<int8_t>()[i]);
    const ConvolutionPlan plan({shape, ConvolutionKind::forward, dnnl::memory::data_type::s8,
                                dnnl::memory::data_type::s8});
    Tensor y = Tensor::empty(shape.y_shape(), DType::f32);
    plan.run(x, w, y);
    EXPECT_EQ(count_differences(y, plain_conv2d_codes(x, w, shape)), 0)
        << shape.text() << ": " << plan.kernel();
  }
}

TEST(ConvolutionPlan, WeightsThroughOurOwnTranspositionGiveTheSameBits) {
  for (const Conv2dShape& shape : convolution_cases()) {
    const Tensor x = codes_of(shape.x_shape(), seven_bits, Fill::uniform);
    const Tensor w = codes_of(shape.w_shape(), signed_bits, Fill::uniform, 2);
    const ConvolutionPlan plan(
        {shape, ConvolutionKind::forward, dnnl::memory::data_type::u8, dnnl::memory::data_type::s8},
        ConvolutionPlan::WeightSource::kcrs);
    Tensor y = Tensor::empty(shape.y_shape(), DType::f32);
    plan.run(x, w, y);
    EXPECT_EQ(count_differences(y, plain_conv2d_codes(x, w, shape)), 0)
        << shape.text() << ": " << plan.kernel();
  }
}

TEST(OneDnnSelfTest, AVerdictIsReachedOncePerRange) {
  const Conv2dShape shape{.n = 1, .h = 4, .w = 4, .c = 8, .k = 8};
  const ConvolutionPlan plan(
      {shape, ConvolutionKind::forward, dnnl::memory::data_type::u8, dnnl::memory::data_type::s8});
  IntegerSelfTests tests;
  Tensor y = Tensor::full(shape.y_shape(), 0.5f);
  EXPECT_TRUE(tests.passed(plan, shape, seven_bits, signed_bits, y));
  EXPECT_NE(y.data<float>()[0], 0.5f);
  y = Tensor::full(shape.y_shape(), 0.5f);
  EXPECT_TRUE(tests.passed(plan, shape, seven_bits, signed_bits, y));
  EXPECT_EQ(y.data<float>()[0], 0.5f);
}

}  // namespace
}  // namespace qt
