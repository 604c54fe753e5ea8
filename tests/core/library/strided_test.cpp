// tests/core/library/strided_test.cpp -- 1x1 convolutions that skip pixels: all four operations,
// time after time.
#include "core/library/strided.h"

#include <gtest/gtest.h>

#include "tests/core/library/cases.h"
#include "tests/support/threads.h"

namespace qt {
namespace {

constexpr int runs = 50;  // oneDNN's own kernels fail now and then, not at each call
constexpr double tolerance = 3e-6;

std::shared_ptr<Library> onednn() { return library_by_name("onednn"); }
std::shared_ptr<Library> reference() { return library_by_name("reference"); }

// The first is large enough for both threads to work at once, which is when oneDNN's own int8
// kernel fails; with 4 channels its f32 gradient of the weights does. Odd extents too: the last row
// and column are then read, otherwise not.
std::vector<Conv2dShape> strided_cases(int64_t c) {
  return {{.n = 64, .h = 28, .w = 28, .c = c, .k = 16, .stride = 2},
          {.n = 3, .h = 8, .w = 8, .c = c, .k = 16, .stride = 2},
          {.n = 2, .h = 9, .w = 7, .c = c, .k = 24, .stride = 2},
          {.n = 2, .h = 11, .w = 10, .c = c, .k = 8, .stride = 3},
          {.n = 2, .h = 8, .w = 7, .c = c, .k = 16, .stride = 2, .groups = 2}};
}

class StridedPointwise : public testing::TestWithParam<int64_t> {
 protected:
  const UseThreads two_{2};
};

TEST_P(StridedPointwise, ProductsOfCodesAreExactEveryTime) {
  for (const Conv2dShape& shape : strided_cases(GetParam())) {
    const Tensor x = codes_of(shape.x_shape(), {0, 127}, Fill::uniform, 1);
    const Tensor w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform, 2);
    const Tensor wanted = reference()->conv2d_codes(x, w, shape, CodePath::integer);
    const auto differences = [&](CodePath path) {
      return count_differences(onednn()->conv2d_codes(x, w, shape, path), wanted);
    };
    EXPECT_EQ(differences(CodePath::exact_float), 0) << shape.text();
    for (int run = 0; run < 2 * runs && !HasFailure(); ++run)
      EXPECT_EQ(differences(CodePath::integer), 0) << shape.text() << ", run " << run;
  }
}

TEST_P(StridedPointwise, ForwardEqualsPlainLoopsEveryTime) {
  for (const Conv2dShape& shape : strided_cases(GetParam())) {
    const Tensor x = random_floats(shape.x_shape(), 1), w = random_floats(shape.w_shape(), 2);
    const Tensor wanted = reference()->conv2d(x, w, shape);
    for (int run = 0; run < runs && !HasFailure(); ++run)
      EXPECT_LT(relative_error(onednn()->conv2d(x, w, shape), wanted), tolerance)
          << shape.text() << ", run " << run;
  }
}

TEST_P(StridedPointwise, GradientOfTheInputEqualsPlainLoopsEveryTime) {
  for (const Conv2dShape& shape : strided_cases(GetParam())) {
    const Tensor dy = random_floats(shape.y_shape(), 1), w = random_floats(shape.w_shape(), 2);
    const Tensor wanted = reference()->conv2d_backward_data(dy, w, shape, Precision::f32);
    for (int run = 0; run < runs && !HasFailure(); ++run) {
      const Tensor dx = onednn()->conv2d_backward_data(dy, w, shape, Precision::f32);
      ASSERT_EQ(dx.shape(), wanted.shape());
      EXPECT_LT(relative_error(dx, wanted), tolerance) << shape.text() << ", run " << run;
    }
  }
}

TEST_P(StridedPointwise, GradientOfTheWeightsEqualsPlainLoopsEveryTime) {
  for (const Conv2dShape& shape : strided_cases(GetParam())) {
    const Tensor x = random_floats(shape.x_shape(), 1), dy = random_floats(shape.y_shape(), 2);
    const Tensor wanted = reference()->conv2d_backward_weights(x, dy, shape, Precision::f32);
    for (int run = 0; run < runs && !HasFailure(); ++run)
      EXPECT_LT(
          relative_error(onednn()->conv2d_backward_weights(x, dy, shape, Precision::f32), wanted),
          tolerance)
          << shape.text() << ", run " << run;
  }
}

// The tests above catch the fault only where both threads happen to overlap; this one always.
TEST_P(StridedPointwise, OneDnnIsGivenTheDenseProblem) {
  for (const Conv2dShape& shape : strided_cases(GetParam())) {
    const Tensor x = codes_of(shape.x_shape(), {0, 127}, Fill::uniform, 1);
    const Tensor w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform, 2);
    const Tensor dy = random_floats(shape.y_shape(), 3);
    const LibraryTrace trace;
    onednn()->conv2d_codes(x, w, shape, CodePath::integer);
    onednn()->conv2d(to_float(x), to_float(w), shape);
    onednn()->conv2d_backward_data(dy, w, shape, Precision::f32);
    onednn()->conv2d_backward_weights(x, dy, shape, Precision::f32);
    ASSERT_EQ(trace.calls().size(), 4u) << shape.text();
    for (const LibraryCall& call : trace.calls())
      EXPECT_EQ(call.shape, (call.library == "direct" ? shape : dense_shape(shape)).text())
          << call.operation;
  }
}

INSTANTIATE_TEST_SUITE_P(Channels, StridedPointwise, testing::Values(4, 8, 24, 40, 64));

TEST(StridedPixels, AreTakenWithTheirTypeAndScaleAndSpreadBackAmongZeros) {
  const Conv2dShape shape{.n = 1, .h = 2, .w = 3, .c = 2, .k = 1, .stride = 2};
  const Tensor x = Tensor::of<int8_t>(shape.x_shape(), {1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0})
                       .with_scale(Tensor::full({1}, 0.25f), -7, 7);
  const Tensor taken = take_pixels(x, shape);
  EXPECT_EQ(taken.shape(), (Shape{1, 1, 2, 2}));
  EXPECT_EQ(taken.to_vector<int8_t>(), (std::vector<int8_t>{1, 2, 3, 4}));
  ASSERT_TRUE(taken.has_scale());
  EXPECT_EQ(taken.step().data<float>()[0], 0.25f);
  EXPECT_EQ(taken.lo(), -7);
  EXPECT_EQ(taken.hi(), 7);
  const Tensor dx = Tensor::of<float>(dense_shape(shape).x_shape(), {1, 2, 3, 4});
  EXPECT_EQ(spread_pixels(dx, shape).to_vector<float>(),
            (std::vector<float>{1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0}));
}

TEST(StridedPixels, OnlyUnpaddedPointwiseConvolutionsWithAStrideSkipThem) {
  const Conv2dShape skips{.n = 1, .h = 8, .w = 8, .c = 8, .k = 8, .stride = 2};
  EXPECT_TRUE(skips_pixels(skips));
  Conv2dShape other = skips;
  other.stride = 1;
  EXPECT_FALSE(skips_pixels(other));
  other = skips;
  other.padding = 1;
  EXPECT_FALSE(skips_pixels(other));
  other = skips;
  other.r = other.s = 3;
  EXPECT_FALSE(skips_pixels(other));
}

}  // namespace
}  // namespace qt
