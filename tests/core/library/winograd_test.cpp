// tests/core/library/winograd_test.cpp -- our Winograd kernels against plain loops, and where they
// are used.
#include "core/library/winograd/winograd.h"

#include <gtest/gtest.h>

#include "core/library/code_convolution.h"
#include "core/library/convert.h"
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

TEST(Winograd, GradientsInBf16AreTakenAsTheNumbersTheyAre) {
  for (const Conv2dShape& shape : winograd_cases()) {
    const Tensor dy = to_bf16(random_floats(shape.y_shape(), 3));
    const Tensor w = random_floats(shape.w_shape(), 2);
    EXPECT_EQ(count_differences(winograd::conv2d_backward_data(dy, w, shape),
                                winograd::conv2d_backward_data(to_float(dy), w, shape)),
              0)
        << shape.text();
    for (const Tensor& x :
         {codes_of(shape.x_shape(), {0, 255}, Fill::uniform),
          codes_of(shape.x_shape(), {-128, 127}, Fill::uniform), random_floats(shape.x_shape(), 1)})
      EXPECT_EQ(count_differences(winograd::conv2d_backward_weights(x, dy, shape),
                                  winograd::conv2d_backward_weights(x, to_float(dy), shape)),
                0)
          << shape.text();
  }
}

// Sums of products of codes in tiles of that side, each rounded once.
Tensor sums_of_codes(const Tensor& x, const Tensor& w, const Conv2dShape& shape, int64_t tile) {
  return winograd::prepare_codes(w, shape, tile)->rounded_sums(x);
}

TEST(Winograd, ProductsOfCodesAreExact) {
  for (const int64_t tile : {2, 4})
    for (const Conv2dShape& shape : winograd_cases())
      for (const CodeRange x_range :
           {CodeRange{0, 255}, CodeRange{-128, 127}, CodeRange{0, 127}, CodeRange{-101, 101},
            CodeRange{0, 202}, CodeRange{-128, 74}, CodeRange{0, 3}})
        for (const CodeRange w_range : {CodeRange{-128, 127}, CodeRange{-1, 1}}) {
          if (!winograd::fits(tile, x_range, w_range)) continue;
          for (const Fill fill : all_fills()) {
            const Tensor x = codes_of(shape.x_shape(), x_range, fill, 1);
            const Tensor w = codes_of(shape.w_shape(), w_range, fill, 2);
            ASSERT_EQ(count_differences(sums_of_codes(x, w, shape, tile),
                                        reference()->conv2d_codes(x, w, shape, CodePath::integer)),
                      0)
                << shape.text() << ", tiles of " << tile << ", codes " << x_range.lo << ".."
                << x_range.hi << " and " << w_range.lo << ".." << w_range.hi;
          }
        }
}

// The patterns that make transformed codes and weights largest: each code at the end of its range
// that the signs of a transform point's coefficients ask for.
TEST(Winograd, TransformsOfCodesFitAtTheirWorstPoints) {
  const std::vector<int> lines_of_x[] = {{-2, 5, 0, -5, 2, 0}, {0, 2, -3, -3, 2, 0},
                                         {0, -2, 7, -7, 2, 0}, {0, 1, -2, -1, 2, 0},
                                         {0, 2, -1, -2, 1, 0}, {0, -2, 5, 0, -5, 2}};
  const std::vector<int> lines_of_w[] = {{1, 0, 0}, {1, 1, 1}, {1, -1, 1},
                                         {1, 2, 4}, {4, 2, 1}, {0, 0, 1}};
  const Conv2dShape shape = three_by_three(1, 6, 6, 16, 16, 0);
  const CodeRange w_range{-128, 127};
  const auto fill = [](const Tensor& t, int64_t side, const std::vector<int>& down,
                       const std::vector<int>& across, int channels, const CodeRange& range) {
    for (int64_t i = 0; i < t.elements(); ++i) {
      const int64_t pixel = i / channels % (side * side);
      const int sign = down[size_t(pixel / side)] * across[size_t(pixel % side)];
      static_cast<uint8_t*>(t.raw())[i] = uint8_t(sign > 0 ? range.hi : range.lo);
    }
  };
  for (const CodeRange x_range : {CodeRange{0, 202}, CodeRange{-101, 101}, CodeRange{-128, 74}})
    for (const auto& down : lines_of_x)
      for (const auto& across : lines_of_x)
        for (const auto& w_down : lines_of_w) {
          const Tensor x = codes_of(shape.x_shape(), x_range, Fill::all_low);
          const Tensor w = codes_of(shape.w_shape(), w_range, Fill::all_low);
          fill(x, 6, down, across, 16, x_range);
          fill(w, 3, w_down, w_down, 16, w_range);
          ASSERT_TRUE(winograd::fits(4, x_range, w_range));
          ASSERT_EQ(count_differences(sums_of_codes(x, w, shape, 4),
                                      reference()->conv2d_codes(x, w, shape, CodePath::integer)),
                    0);
        }
}

TEST(Winograd, LargeTilesRefuseCodesWhoseTransformsLeaveInt16) {
  const CodeRange w{-127, 127};
  EXPECT_TRUE(winograd::fits(4, {0, 127}, w));
  EXPECT_TRUE(winograd::fits(4, {0, 202}, w));
  EXPECT_FALSE(winograd::fits(4, {0, 203}, w));
  EXPECT_FALSE(winograd::fits(4, {-127, 127}, w));
  EXPECT_FALSE(winograd::fits(4, {-203, -100}, w));  // padding is 0
  EXPECT_TRUE(winograd::fits(2, {0, 255}, w));
  EXPECT_TRUE(winograd::fits(2, {-128, 127}, {-128, 127}));
  EXPECT_FALSE(winograd::fits(2, {0, 127}, {0, 255}));
}

// Partial sums wrap here many times over; the last bit counts because the sums lie above 2^24.
TEST(Winograd, ProductsOfCodesAreExactUpToTheStatedBoundAndRefusedBeyond) {
  struct Bound {
    int64_t tile, channels;
    int hi;  // of x
  };
  for (const Bound& bound : {Bound{2, 1840, 255}, Bound{4, 2320, 202}}) {
    const Conv2dShape shape = three_by_three(1, 3, 3, bound.channels, 16);
    EXPECT_TRUE(winograd::stays_exact(shape, bound.hi, 127));
    for (const Fill fill : {Fill::all_high, Fill::ends}) {
      const Tensor x = codes_of(shape.x_shape(), {0, bound.hi}, fill, 1);
      for (const CodeRange w_range : {CodeRange{-127, 127}, CodeRange{-127, -126}}) {
        const Tensor w = codes_of(shape.w_shape(), w_range, fill, 2);
        EXPECT_EQ(count_differences(sums_of_codes(x, w, shape, bound.tile),
                                    reference()->conv2d_codes(x, w, shape, CodePath::integer)),
                  0);
      }
    }
    EXPECT_FALSE(
        winograd::stays_exact(three_by_three(1, 3, 3, bound.channels + 16, 16), bound.hi, 127));
  }
}

TEST(Winograd, GivesTheSameBitsWhateverTheNumberOfThreads) {
  for (const Conv2dShape& shape : winograd_cases()) {
    const Tensor x = random_floats(shape.x_shape(), 1), w = random_floats(shape.w_shape(), 2);
    const Tensor dy = random_floats(shape.y_shape(), 3);
    const Tensor x_codes = codes_of(shape.x_shape(), {0, 127}, Fill::uniform, 4);
    const Tensor w_codes = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform, 5);
    const auto results = [&](int threads) {
      const UseThreads use(threads);
      return std::vector<Tensor>{
          winograd::conv2d(x, w, shape), sums_of_codes(x_codes, w_codes, shape, 2),
          sums_of_codes(x_codes, w_codes, shape, 4), winograd::conv2d_backward_data(dy, w, shape),
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
  bool on_floats;                // Winograd for forward, both gradients
  int64_t tile;                  // on codes 0..127; 0: direct
  bool instead_of_bf16 = false;  // forward and the gradient of x; that of w wherever on_floats
};

TEST(WinogradChoice, IsTheTableOfTheKernelBenchmark) {
  const std::vector<Layer> table = {
      {three_by_three(128, 32, 32, 3, 16), false, 0},  // stem
      {three_by_three(128, 32, 32, 16, 16), true, 4},  // CIFAR ResNet-20
      {three_by_three(128, 16, 16, 32, 32), true, 4, true},
      {three_by_three(128, 8, 8, 64, 64), true, 4, true},
      {three_by_three(64, 32, 32, 64, 64), true, 4, true},  // CIFAR ResNet-18
      {three_by_three(64, 16, 16, 128, 128), true, 4, true},
      {three_by_three(64, 8, 8, 256, 256), true, 4, true},
      {three_by_three(64, 4, 4, 512, 512), true, 4},
      {three_by_three(16, 56, 56, 64, 64), true, 4, true},  // ImageNet ResNet-18
      {three_by_three(16, 28, 28, 128, 128), true, 4, true},
      {three_by_three(16, 14, 14, 256, 256), true, 4, true},
      {three_by_three(16, 7, 7, 512, 512), true, 4},
      {three_by_three(64, 2, 2, 512, 512), false, 2},   // mostly outside the picture
      {three_by_three(1, 14, 14, 256, 256), false, 4},  // too few tiles for the weights
  };
  for (const Layer& layer : table) {
    const auto faster = [&](Operation operation) {
      return winograd::is_faster(operation, layer.shape);
    };
    EXPECT_EQ(faster(Operation::conv2d), layer.on_floats) << layer.shape.text();
    EXPECT_EQ(faster(Operation::conv2d_backward_data), layer.on_floats) << layer.shape.text();
    EXPECT_EQ(faster(Operation::conv2d_backward_weights), layer.on_floats) << layer.shape.text();
    const auto faster_than_bf16 = [&](Operation operation) {
      return winograd::is_faster_than_bf16(operation, layer.shape);
    };
    EXPECT_EQ(faster_than_bf16(Operation::conv2d), layer.instead_of_bf16) << layer.shape.text();
    EXPECT_EQ(faster_than_bf16(Operation::conv2d_backward_data), layer.instead_of_bf16)
        << layer.shape.text();
    EXPECT_EQ(faster_than_bf16(Operation::conv2d_backward_weights), layer.on_floats)
        << layer.shape.text();
    EXPECT_EQ(winograd::faster_tile(layer.shape, {0, 127}, {-127, 127}), layer.tile)
        << layer.shape.text();
    EXPECT_EQ(winograd::faster_tile(layer.shape, {0, 255}, {-127, 127}), layer.tile ? 2 : 0)
        << layer.shape.text();
    const bool many = std::min(layer.shape.c, layer.shape.k) >= 32;
    EXPECT_EQ(winograd::faster_tile_than_vnni(layer.shape, {0, 127}, {-127, 127}),
              layer.tile == 4 && many ? 4 : 0)
        << layer.shape.text();
    EXPECT_EQ(winograd::faster_tile_than_vnni(layer.shape, {0, 255}, {-127, 127}), 0);
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

  // Where bf16 may be used it is not, for so many channels; an f32 machine has no choice to make.
  const LibraryTrace bf16_trace;
  onednn()->conv2d(x, w, shape, Precision::bf16);
  onednn()->conv2d_backward_data(to_bf16(dy), w, shape, Precision::bf16);
  onednn()->conv2d_backward_weights(x, to_bf16(dy), shape, Precision::bf16);
  ASSERT_EQ(bf16_trace.calls().size(), 3u);
  for (const LibraryCall& call : bf16_trace.calls())
    EXPECT_EQ(call.library, on_floats) << call.operation;

  const LibraryTrace codes_trace;
  onednn()->conv2d_codes(codes, w_codes, shape, CodePath::integer);
  const bool on_codes = has_avx2() && effective_byte_products() != ByteProducts::vnni;
  EXPECT_EQ(codes_trace.calls().front().library, on_codes ? "winograd" : "onednn");
  EXPECT_EQ(onednn()->prepare_conv2d_codes(codes, w_codes, shape) != nullptr, on_codes);
  const Tensor fewer = codes_of(shape.x_shape(), {0, 127}, Fill::uniform, 1);
  const auto prepared = onednn()->prepare_conv2d_codes(fewer, w_codes, shape);
  ASSERT_EQ(prepared != nullptr, has_avx2());
  if (!prepared) return;
  EXPECT_EQ(prepared->kernel(), "F(4x4, 3x3)");
}

}  // namespace
}  // namespace qt
