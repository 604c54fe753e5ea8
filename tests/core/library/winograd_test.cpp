// tests/core/library/winograd_test.cpp -- our Winograd kernels against plain loops, and where they
// are used.
#include "core/library/winograd/winograd.h"

#include <gtest/gtest.h>

#include "core/library/onednn_integer.h"
#include "tests/core/library/cases.h"
#include "tests/support/threads.h"

namespace qt {
namespace {

using winograd::Operation;

// Largest error as a share of the largest value; the transforms cost about one digit.
constexpr double tolerance = 3e-5;

std::shared_ptr<Library> onednn() { return library_by_name("onednn"); }
std::shared_ptr<Library> reference() { return library_by_name("reference"); }

Conv2dShape three_by_three(int64_t n, int64_t h, int64_t w, int64_t c, int64_t k,
                           int64_t padding = 1) {
  return {.n = n, .h = h, .w = w, .c = c, .k = k, .r = 3, .s = 3, .padding = padding};
}

// Pictures smaller than a tile, of whole tiles and of odd sizes; channels of one panel and of many;
// few tiles and more than one chunk of them; weights that fit a core's cache and that do not.
std::vector<Conv2dShape> winograd_cases() {
  return {three_by_three(1, 1, 1, 16, 16),     three_by_three(1, 3, 2, 16, 48),
          three_by_three(2, 4, 4, 32, 16),     three_by_three(3, 9, 7, 48, 32),
          three_by_three(2, 8, 8, 16, 16, 0),  three_by_three(2, 7, 10, 32, 16, 2),
          three_by_three(5, 31, 33, 16, 16),   three_by_three(1, 3, 3, 16, 16, 0),
          three_by_three(2, 13, 12, 160, 176), three_by_three(9, 14, 14, 64, 64),
          three_by_three(3, 6, 5, 304, 272)};
}

TEST(Winograd, ForwardEqualsPlainLoops) {
  for (const Conv2dShape& shape : winograd_cases()) {
    const Tensor x = random_floats(shape.x_shape(), 1), w = random_floats(shape.w_shape(), 2);
    EXPECT_LT(relative_error(winograd::conv2d(x, w, shape), reference()->conv2d(x, w, shape)),
              tolerance)
        << shape.text();
  }
}

TEST(Winograd, GradientOfTheInputEqualsPlainLoops) {
  for (const Conv2dShape& shape : winograd_cases()) {
    const Tensor dy = random_floats(shape.y_shape(), 1), w = random_floats(shape.w_shape(), 2);
    const Tensor dx = winograd::conv2d_backward_data(dy, w, shape);
    ASSERT_EQ(dx.shape(), shape.x_shape()) << shape.text();
    EXPECT_LT(relative_error(dx, reference()->conv2d_backward_data(dy, w, shape, Precision::f32)),
              tolerance)
        << shape.text();
  }
}

TEST(Winograd, GradientOfTheWeightsEqualsPlainLoops) {
  for (const Conv2dShape& shape : winograd_cases()) {
    const Tensor x = random_floats(shape.x_shape(), 1), dy = random_floats(shape.y_shape(), 2);
    const Tensor dw = winograd::conv2d_backward_weights(x, dy, shape);
    EXPECT_LT(
        relative_error(dw, reference()->conv2d_backward_weights(x, dy, shape, Precision::f32)),
        tolerance)
        << shape.text();
  }
}

TEST(Winograd, GradientsTakeCodesAsNumbers) {
  for (const Conv2dShape& shape : winograd_cases()) {
    const Tensor dy = random_floats(shape.y_shape(), 3);
    for (const CodeRange range : {CodeRange{0, 255}, CodeRange{-128, 127}}) {
      const Tensor x = codes_of(shape.x_shape(), range, Fill::uniform);
      EXPECT_EQ(count_differences(winograd::conv2d_backward_weights(x, dy, shape),
                                  winograd::conv2d_backward_weights(to_float(x), dy, shape)),
                0)
          << shape.text();
    }
    const Tensor w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform, 2);
    EXPECT_EQ(count_differences(winograd::conv2d_backward_data(dy, w, shape),
                                winograd::conv2d_backward_data(dy, to_float(w), shape)),
              0)
        << shape.text();
  }
}

TEST(Winograd, ProductsOfCodesAreExact) {
  for (const Conv2dShape& shape : winograd_cases())
    for (const CodeRange x_range : {CodeRange{0, 255}, CodeRange{-128, 127}, CodeRange{0, 3}})
      for (const CodeRange w_range : {CodeRange{-128, 127}, CodeRange{-1, 1}})
        for (const Fill fill : all_fills()) {
          const Tensor x = codes_of(shape.x_shape(), x_range, fill, 1);
          const Tensor w = codes_of(shape.w_shape(), w_range, fill, 2);
          ASSERT_EQ(count_differences(winograd::conv2d_codes(x, w, shape),
                                      reference()->conv2d_codes(x, w, shape, CodePath::integer)),
                    0)
              << shape.text() << ", codes " << x_range.lo << ".." << x_range.hi << " and "
              << w_range.lo << ".." << w_range.hi;
        }
}

// Partial sums wrap here many times over; the last bit counts because the sums lie above 2^24.
TEST(Winograd, ProductsOfCodesAreExactUpToTheStatedBoundAndRefusedBeyond) {
  const Conv2dShape shape = three_by_three(1, 3, 3, 1840, 16);
  EXPECT_TRUE(winograd::stays_exact(shape, 255, 127));
  for (const Fill fill : {Fill::all_high, Fill::ends}) {
    const Tensor x = codes_of(shape.x_shape(), {0, 255}, fill, 1);
    for (const CodeRange w_range : {CodeRange{-127, 127}, CodeRange{-127, -126}}) {
      const Tensor w = codes_of(shape.w_shape(), w_range, fill, 2);
      EXPECT_EQ(count_differences(winograd::conv2d_codes(x, w, shape),
                                  reference()->conv2d_codes(x, w, shape, CodePath::integer)),
                0);
    }
  }
  EXPECT_FALSE(winograd::stays_exact(three_by_three(1, 3, 3, 1856, 16), 255, 127));
}

TEST(Winograd, GivesTheSameBitsWhateverTheNumberOfThreads) {
  for (const Conv2dShape& shape : winograd_cases()) {
    const Tensor x = random_floats(shape.x_shape(), 1), w = random_floats(shape.w_shape(), 2);
    const Tensor dy = random_floats(shape.y_shape(), 3);
    const auto results = [&](int threads) {
      const UseThreads use(threads);
      return std::vector<Tensor>{winograd::conv2d(x, w, shape),
                                 winograd::conv2d_backward_data(dy, w, shape),
                                 winograd::conv2d_backward_weights(x, dy, shape)};
    };
    const auto one = results(1);
    for (const int threads : {2, 3}) {
      const auto many = results(threads);
      for (size_t i = 0; i < one.size(); ++i)
        EXPECT_EQ(count_differences(many[i], one[i]), 0)
            << shape.text() << ", operation " << i << ", " << threads << " threads";
    }
  }
}

TEST(Winograd, ComputesOnlyWhatItWasWrittenFor) {
  const Conv2dShape shape = three_by_three(2, 8, 8, 16, 32);
  EXPECT_TRUE(winograd::computes(shape));
  const auto changed = [&](auto change) {
    Conv2dShape other = shape;
    change(other);
    return other;
  };
  EXPECT_FALSE(winograd::computes(changed([](Conv2dShape& s) { s.stride = 2; })));
  EXPECT_FALSE(winograd::computes(changed([](Conv2dShape& s) { s.dilation = 2; })));
  EXPECT_FALSE(winograd::computes(changed([](Conv2dShape& s) { s.groups = 2; })));
  EXPECT_FALSE(winograd::computes(changed([](Conv2dShape& s) { s.r = 1; })));
  EXPECT_FALSE(winograd::computes(changed([](Conv2dShape& s) { s.s = 5; })));
  EXPECT_FALSE(winograd::computes(changed([](Conv2dShape& s) { s.c = 24; })));
  EXPECT_FALSE(winograd::computes(changed([](Conv2dShape& s) { s.k = 8; })));
  EXPECT_FALSE(winograd::computes(changed([](Conv2dShape& s) { s.padding = 3; })));
}

// ---- the choice, held against the layers of the networks we ship ----
struct Layer {
  Conv2dShape shape;
  bool on_floats;      // Winograd for forward, both gradients
  bool on_seven_bits;  // for codes that oneDNN multiplies exactly without VNNI
};

TEST(WinogradChoice, IsTheTableOfTheKernelBenchmark) {
  const std::vector<Layer> table = {
      {three_by_three(128, 32, 32, 3, 16), false, false},  // stem
      {three_by_three(128, 32, 32, 16, 16), true, false},  // CIFAR ResNet-20
      {three_by_three(128, 16, 16, 32, 32), true, false},
      {three_by_three(128, 8, 8, 64, 64), true, true},
      {three_by_three(64, 32, 32, 64, 64), true, true},  // CIFAR ResNet-18
      {three_by_three(64, 16, 16, 128, 128), true, true},
      {three_by_three(64, 8, 8, 256, 256), true, true},
      {three_by_three(64, 4, 4, 512, 512), true, false},
      {three_by_three(16, 56, 56, 64, 64), true, true},  // ImageNet ResNet-18
      {three_by_three(16, 28, 28, 128, 128), true, true},
      {three_by_three(16, 14, 14, 256, 256), true, true},
      {three_by_three(16, 7, 7, 512, 512), true, false},
      {three_by_three(64, 2, 2, 512, 512), false, false},  // mostly outside the picture
      {three_by_three(1, 14, 14, 256, 256), false, true},  // too few tiles for the weights
  };
  for (const Layer& layer : table) {
    const auto faster = [&](Operation operation, bool direct_is_exact = false) {
      return winograd::is_faster(operation, layer.shape, direct_is_exact);
    };
    EXPECT_EQ(faster(Operation::conv2d), layer.on_floats) << layer.shape.text();
    EXPECT_EQ(faster(Operation::conv2d_backward_data), layer.on_floats) << layer.shape.text();
    EXPECT_EQ(faster(Operation::conv2d_backward_weights), layer.on_floats) << layer.shape.text();
    EXPECT_EQ(faster(Operation::conv2d_codes, true), layer.on_seven_bits) << layer.shape.text();
    EXPECT_EQ(faster(Operation::conv2d_codes, false), layer.shape.c % 16 == 0)
        << layer.shape.text();
  }
}

TEST(WinogradChoice, ExactFloatNeverUsesItBecauseItsRoundingIsNotExact) {
  const Conv2dShape shape = three_by_three(8, 16, 16, 32, 32);
  const Tensor x = codes_of(shape.x_shape(), {0, 127}, Fill::uniform, 1);
  const Tensor w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform, 2);
  ASSERT_TRUE(winograd::is_faster(Operation::conv2d, shape));
  const LibraryTrace trace;
  const Tensor y = onednn()->conv2d_codes(x, w, shape, CodePath::exact_float);
  ASSERT_FALSE(trace.calls().empty());
  for (const LibraryCall& call : trace.calls()) EXPECT_NE(call.library, "winograd") << call.kernel;
  EXPECT_EQ(count_differences(y, reference()->conv2d_codes(x, w, shape, CodePath::integer)), 0);
}

// Runs in the weaker instruction sets of instruction_sets_test.cpp too, where the answer differs.
TEST(WinogradChoice, IsWhatTheLibraryRuns) {
  const Conv2dShape shape = three_by_three(8, 16, 16, 64, 64);
  const Tensor x = random_floats(shape.x_shape(), 1), w = random_floats(shape.w_shape(), 2);
  const Tensor dy = random_floats(shape.y_shape(), 3);
  const Tensor codes = codes_of(shape.x_shape(), {0, 255}, Fill::uniform, 1);
  const Tensor w_codes = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform, 2);
  const LibraryTrace trace;
  onednn()->conv2d(x, w, shape);
  onednn()->conv2d_backward_data(dy, w, shape, Precision::f32);
  onednn()->conv2d_backward_weights(x, dy, shape, Precision::f32);
  const std::string on_floats = has_avx2() ? "winograd" : "onednn";
  ASSERT_EQ(trace.calls().size(), 3u);
  for (const LibraryCall& call : trace.calls())
    EXPECT_EQ(call.library, on_floats) << call.operation;

  const LibraryTrace codes_trace;
  onednn()->conv2d_codes(codes, w_codes, shape, CodePath::integer);
  const bool on_codes = has_avx2() && effective_byte_products() != ByteProducts::vnni;
  EXPECT_EQ(codes_trace.calls().front().library, on_codes ? "winograd" : "onednn");
}

}  // namespace
}  // namespace qt
