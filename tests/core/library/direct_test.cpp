// tests/core/library/direct_test.cpp -- our direct f32 kernels against plain loops, and where they
// are used.
#include "core/library/direct/direct.h"

#include <gtest/gtest.h>

#include "core/library/onednn_integer.h"
#include "tests/core/library/cases.h"
#include "tests/support/threads.h"

namespace qt {
namespace {

using direct::Operation;

constexpr double tolerance = 3e-6;

std::shared_ptr<Library> onednn() { return library_by_name("onednn"); }
std::shared_ptr<Library> reference() { return library_by_name("reference"); }

// Strides that leave pixels unread, kernels of every shape, dilation, one panel of channels and
// many, fewer pixels than a strip and more than a chunk, weights beyond the first caches.
std::vector<Conv2dShape> direct_cases() {
  return {{.n = 2, .h = 9, .w = 7, .c = 16, .k = 48, .r = 3, .s = 3, .stride = 2, .padding = 1},
          {.n = 1, .h = 4, .w = 4, .c = 64, .k = 32, .stride = 2},
          {.n = 1, .h = 5, .w = 8, .c = 16, .k = 16, .stride = 3},
          {.n = 3, .h = 8, .w = 5, .c = 32, .k = 16, .r = 3, .s = 3, .padding = 1},
          {.n = 1,
           .h = 13,
           .w = 16,
           .c = 16,
           .k = 16,
           .r = 5,
           .s = 3,
           .stride = 3,
           .padding = 2,
           .dilation = 2},
          {.n = 2,
           .h = 11,
           .w = 9,
           .c = 16,
           .k = 16,
           .r = 3,
           .s = 3,
           .stride = 2,
           .padding = 2,
           .dilation = 2},
          {.n = 3, .h = 47, .w = 33, .c = 16, .k = 64, .r = 3, .s = 3, .stride = 2, .padding = 1},
          {.n = 2, .h = 6, .w = 6, .c = 176, .k = 160, .r = 3, .s = 3, .stride = 2, .padding = 1},
          {.n = 1, .h = 2, .w = 2, .c = 16, .k = 16, .r = 3, .s = 3, .stride = 4, .padding = 1}};
}

TEST(Direct, ForwardEqualsPlainLoops) {
  for (const Conv2dShape& shape : direct_cases()) {
    const Tensor x = random_floats(shape.x_shape(), 1), w = random_floats(shape.w_shape(), 2);
    EXPECT_LT(relative_error(direct::conv2d(x, w, shape), reference()->conv2d(x, w, shape)),
              tolerance)
        << shape.text();
  }
}

TEST(Direct, ForwardIsExactOnIntegerValuedFloats) {
  for (const Conv2dShape& shape : direct_cases()) {
    const Tensor x = codes_of(shape.x_shape(), {0, 15}, Fill::uniform, 1);
    const Tensor w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform, 2);
    EXPECT_EQ(count_differences(direct::conv2d(x, w, shape),
                                reference()->conv2d_codes(x, w, shape, CodePath::integer)),
              0)
        << shape.text();
  }
}

TEST(Direct, GradientOfTheInputEqualsPlainLoops) {
  for (const Conv2dShape& shape : direct_cases()) {
    const Tensor dy = random_floats(shape.y_shape(), 1), w = random_floats(shape.w_shape(), 2);
    EXPECT_LT(relative_error(direct::conv2d_backward_data(dy, w, shape),
                             reference()->conv2d_backward_data(dy, w, shape, Precision::f32)),
              tolerance)
        << shape.text();
  }
}

TEST(Direct, GradientOfTheWeightsEqualsPlainLoopsOnNumbersAndOnCodes) {
  for (const Conv2dShape& shape : direct_cases()) {
    const Tensor dy = random_floats(shape.y_shape(), 2);
    for (const Tensor& x :
         {random_floats(shape.x_shape(), 1), codes_of(shape.x_shape(), {0, 255}, Fill::uniform),
          codes_of(shape.x_shape(), {-128, 127}, Fill::uniform)})
      EXPECT_LT(relative_error(direct::conv2d_backward_weights(x, dy, shape),
                               reference()->conv2d_backward_weights(x, dy, shape, Precision::f32)),
                tolerance)
          << shape.text() << " " << name_of(x.dtype());
  }
}

TEST(Direct, GivesTheSameBitsWhateverTheNumberOfThreads) {
  for (const Conv2dShape& shape : direct_cases()) {
    const Tensor x = random_floats(shape.x_shape(), 1), w = random_floats(shape.w_shape(), 2);
    const Tensor dy = random_floats(shape.y_shape(), 3);
    const auto results = [&](int threads) {
      const UseThreads use(threads);
      return std::vector<Tensor>{direct::conv2d(x, w, shape),
                                 direct::conv2d_backward_data(dy, w, shape),
                                 direct::conv2d_backward_weights(x, dy, shape)};
    };
    const auto one = results(1), three = results(3);
    for (size_t i = 0; i < one.size(); ++i)
      EXPECT_EQ(count_differences(three[i], one[i]), 0) << shape.text() << ", operation " << i;
  }
}

// Runs that end within a word, in the middle of a register's channels, at the picture's edge.
std::vector<Conv2dShape> code_cases() {
  std::vector<Conv2dShape> cases = {
      {.n = 2, .h = 23, .w = 21, .c = 3, .k = 64, .r = 7, .s = 7, .stride = 2, .padding = 3},
      {.n = 3, .h = 10, .w = 12, .c = 3, .k = 16, .r = 3, .s = 3, .padding = 1},
      {.n = 2, .h = 7, .w = 50, .c = 5, .k = 80, .r = 1, .s = 3, .padding = 0},
      {.n = 1, .h = 4, .w = 4, .c = 1, .k = 16, .r = 3, .s = 3, .padding = 2},
      {.n = 2, .h = 8, .w = 8, .c = 512, .k = 32, .r = 3, .s = 3, .stride = 2, .padding = 1}};
  for (const Conv2dShape& shape : direct_cases())
    if (shape.dilation == 1) cases.push_back(shape);
  return cases;
}

TEST(Direct, ProductsOfCodesAreExactOnAnyNumberOfThreads) {
  for (const Conv2dShape& shape : code_cases())
    for (const CodeRange x_range :
         {CodeRange{0, 255}, CodeRange{-128, 127}, CodeRange{0, 127}, CodeRange{-5, 1}})
      for (const CodeRange w_range : {CodeRange{-128, 127}, CodeRange{-64, 64}})
        for (const Fill fill : all_fills()) {
          ASSERT_TRUE(direct::computes_codes(shape, w_range));
          const Tensor x = codes_of(shape.x_shape(), x_range, fill, 1);
          const Tensor w = codes_of(shape.w_shape(), w_range, fill, 2);
          const UseThreads use(1 + int(fill) % 3);
          const auto convolution = direct::prepare_codes(x_range, w, shape);
          ASSERT_EQ(count_differences(convolution->rounded_sums(x),
                                      reference()->conv2d_codes(x, w, shape, CodePath::integer)),
                    0)
              << shape.text() << " " << convolution->arithmetic() << ", codes " << x_range.lo
              << ".." << x_range.hi << " and " << w_range.lo << ".." << w_range.hi;
        }
}

// vpmaddubsw saturates beyond: 2 * 128 * 128 does not fit int16.
TEST(Direct, MultipliesBytesOnlyWherePairsOfProductsFitInt16) {
  const Conv2dShape shape{.n = 1, .h = 4, .w = 4, .c = 16, .k = 16};
  const auto arithmetic = [&](const CodeRange& x, const CodeRange& w) {
    return direct::prepare_codes(x, codes_of(shape.w_shape(), w, Fill::ends), shape)->arithmetic();
  };
  EXPECT_EQ(arithmetic({0, 127}, {-127, 127}), "u8s8s32");
  EXPECT_EQ(arithmetic({0, 127}, {-128, 127}), "u8s8s32");
  EXPECT_EQ(arithmetic({0, 128}, {-128, 127}), "s16s16s32");
  EXPECT_EQ(arithmetic({0, 255}, {-64, 64}), "u8s8s32");
  EXPECT_EQ(arithmetic({-1, 126}, {-127, 127}), "s16s16s32");
}

// The stride-2 layers of the networks we ship.
TEST(DirectChoice, IsTheTableOfTheKernelBenchmark) {
  const auto layer = [](int64_t size, int64_t c, int64_t k, int64_t kernel) {
    return Conv2dShape{.n = 16,
                       .h = size,
                       .w = size,
                       .c = c,
                       .k = k,
                       .r = kernel,
                       .s = kernel,
                       .stride = 2,
                       .padding = kernel / 2};
  };
  const auto all = [](const Conv2dShape& shape) {
    return std::vector<bool>{direct::is_faster(Operation::conv2d, shape),
                             direct::is_faster(Operation::conv2d_backward_data, shape),
                             direct::is_faster(Operation::conv2d_backward_weights, shape)};
  };
  using Answers = std::vector<bool>;
  EXPECT_EQ(all(layer(32, 16, 32, 3)), (Answers{false, false, false}));
  EXPECT_EQ(all(layer(16, 32, 64, 3)), (Answers{true, true, false}));
  EXPECT_EQ(all(layer(32, 64, 128, 3)), (Answers{true, true, true}));
  EXPECT_EQ(all(layer(8, 256, 512, 3)), (Answers{true, true, true}));
  EXPECT_EQ(all(layer(224, 3, 64, 7)), (Answers{false, false, false}));
  EXPECT_EQ(all(layer(8, 256, 512, 1)), (Answers{false, false, false}));
}

TEST(DirectChoice, IsWhatTheLibraryRuns) {
  const Conv2dShape shape{
      .n = 2, .h = 16, .w = 16, .c = 64, .k = 64, .r = 3, .s = 3, .stride = 2, .padding = 1};
  const Tensor x = random_floats(shape.x_shape(), 1), w = random_floats(shape.w_shape(), 2);
  const Tensor dy = random_floats(shape.y_shape(), 3);
  const LibraryTrace trace;
  onednn()->conv2d(x, w, shape);
  onednn()->conv2d_backward_data(dy, w, shape, Precision::f32);
  onednn()->conv2d_backward_weights(x, dy, shape, Precision::f32);
  ASSERT_EQ(trace.calls().size(), 3u);
  for (const LibraryCall& call : trace.calls())
    EXPECT_EQ(call.library, has_avx2_only() ? "direct" : "onednn") << call.operation;
}

// Without VNNI: the integer program's strided convolutions, and everywhere the signed codes of
// pixels.
TEST(DirectChoice, IsWhatTheLibraryRunsOnCodes) {
  const bool ours = has_avx2() && effective_byte_products() != ByteProducts::vnni;
  const Conv2dShape stem{
      .n = 2, .h = 12, .w = 12, .c = 3, .k = 16, .r = 7, .s = 7, .stride = 2, .padding = 3};
  const Conv2dShape strided{
      .n = 2, .h = 8, .w = 8, .c = 16, .k = 32, .r = 3, .s = 3, .stride = 2, .padding = 1};
  const auto library_of = [](const Conv2dShape& shape, const CodeRange& range, bool once) {
    const Tensor x = codes_of(shape.x_shape(), range, Fill::uniform, 1);
    const Tensor w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform, 2);
    const LibraryTrace trace;
    if (once) {
      const auto prepared = onednn()->prepare_conv2d_codes(x, w, shape);
      return prepared ? prepared->library() : "none";
    }
    onednn()->conv2d_codes(x, w, shape, CodePath::integer);
    return trace.calls().front().library;
  };
  EXPECT_EQ(library_of(stem, {-127, 127}, false), ours ? "direct" : "onednn");
  EXPECT_EQ(library_of(stem, {-127, 127}, true), ours ? "direct" : "none");
  EXPECT_EQ(library_of(strided, {0, 127}, false), "onednn");
  EXPECT_EQ(library_of(strided, {0, 127}, true), ours ? "direct" : "none");
}

}  // namespace
}  // namespace qt
