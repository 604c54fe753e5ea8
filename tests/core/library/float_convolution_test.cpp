// tests/core/library/float_convolution_test.cpp -- f32 convolutions and products against plain
// loops.
#include <gtest/gtest.h>

#include "core/autograd/gradcheck.h"
#include "core/library/convert.h"
#include "core/library/onednn_integer.h"
#include "core/library/winograd/winograd.h"
#include "tests/core/library/cases.h"

namespace qt {
namespace {

constexpr double tolerance = 3e-6;

std::shared_ptr<Library> onednn() { return library_by_name("onednn"); }
std::shared_ptr<Library> reference() { return library_by_name("reference"); }

TEST(FloatConvolution, ForwardEqualsPlainLoops) {
  for (const Conv2dShape& shape : convolution_cases()) {
    const Tensor x = random_floats(shape.x_shape(), 1), w = random_floats(shape.w_shape(), 2);
    EXPECT_LT(relative_error(onednn()->conv2d(x, w, shape), reference()->conv2d(x, w, shape)),
              tolerance)
        << shape.text();
  }
}

TEST(FloatConvolution, GradientOfTheInputEqualsPlainLoops) {
  for (const Conv2dShape& shape : convolution_cases()) {
    const Tensor dy = random_floats(shape.y_shape(), 1), w = random_floats(shape.w_shape(), 2);
    const Tensor dx = onednn()->conv2d_backward_data(dy, w, shape, Precision::f32);
    EXPECT_LT(relative_error(dx, reference()->conv2d_backward_data(dy, w, shape, Precision::f32)),
              tolerance)
        << shape.text();
  }
}

TEST(FloatConvolution, GradientOfTheWeightsEqualsPlainLoops) {
  for (const Conv2dShape& shape : convolution_cases()) {
    const Tensor x = random_floats(shape.x_shape(), 1), dy = random_floats(shape.y_shape(), 2);
    const Tensor dw = onednn()->conv2d_backward_weights(x, dy, shape, Precision::f32);
    EXPECT_LT(
        relative_error(dw, reference()->conv2d_backward_weights(x, dy, shape, Precision::f32)),
        tolerance)
        << shape.text();
  }
}

// Weights that only ever see padding have a gradient of zero, whatever lay in free memory.
TEST(FloatConvolution, GradientOfTheWeightsOfMapsNarrowerThanTheStrideIsWhollyComputed) {
  for (const Conv2dShape& shape : {
           Conv2dShape{
               .n = 4, .h = 1, .w = 1, .c = 16, .k = 16, .r = 3, .s = 3, .stride = 2, .padding = 1},
           Conv2dShape{
               .n = 4, .h = 4, .w = 1, .c = 16, .k = 16, .r = 3, .s = 3, .stride = 2, .padding = 1},
           Conv2dShape{
               .n = 4, .h = 1, .w = 4, .c = 16, .k = 16, .r = 3, .s = 3, .stride = 2, .padding = 1},
           Conv2dShape{
               .n = 4, .h = 2, .w = 2, .c = 16, .k = 16, .r = 3, .s = 3, .stride = 3, .padding = 1},
       }) {
    const Tensor x = random_floats(shape.x_shape(), 1),
                 dy = to_bf16(random_floats(shape.y_shape(), 2));
    const Tensor wanted =
        reference()->conv2d_backward_weights(x, to_float(dy), shape, Precision::f32);
    poison_free_memory();
    const Tensor dw = onednn()->conv2d_backward_weights(
        x, onednn()->gradient_type(Precision::bf16) == DType::bf16 ? dy : to_float(dy), shape,
        Precision::bf16);
    EXPECT_LT(relative_error(dw, wanted), 0.01) << shape.text();
  }
}

TEST(FloatConvolution, GradientsTakeCodesAsNumbers) {
  for (const auto& library : {onednn(), reference()})
    for (const Conv2dShape& shape : convolution_cases()) {
      const Tensor x = codes_of(shape.x_shape(), {0, 255}, Fill::uniform);
      const Tensor w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform, 2);
      const Tensor dy = random_floats(shape.y_shape(), 3);
      EXPECT_EQ(
          count_differences(library->conv2d_backward_data(dy, w, shape, Precision::f32),
                            library->conv2d_backward_data(dy, to_float(w), shape, Precision::f32)),
          0)
          << library->name() << " " << shape.text();
      EXPECT_EQ(count_differences(
                    library->conv2d_backward_weights(x, dy, shape, Precision::f32),
                    library->conv2d_backward_weights(to_float(x), dy, shape, Precision::f32)),
                0)
          << library->name() << " " << shape.text();
    }
}

// Operands rounded to bf16 beforehand are all that bf16 arithmetic changes: sums are f32. Machines
// without native bf16 compute in f32 and say so, and so does Winograd where it is faster.
TEST(FloatConvolution, Bf16RoundsOperandsAloneAndTheTraceNamesTheArithmetic) {
  using winograd::Operation;
  const auto rounded = [](const Tensor& t) { return to_float(to_bf16(t)); };
  for (const Conv2dShape& shape : convolution_cases()) {
    const Tensor x = rounded(random_floats(shape.x_shape(), 1)),
                 w = rounded(random_floats(shape.w_shape(), 2)),
                 dy = rounded(random_floats(shape.y_shape(), 3));
    const LibraryTrace trace;
    const Tensor y = onednn()->conv2d(x, w, shape, Precision::bf16),
                 dx = onednn()->conv2d_backward_data(dy, w, shape, Precision::bf16),
                 dw = onednn()->conv2d_backward_weights(x, dy, shape, Precision::bf16);
    ASSERT_EQ(trace.calls().size(), 3u) << shape.text();
    const auto wanted = [&](Operation operation) {
      return has_native_bf16() && !winograd::is_faster_than_bf16(operation, shape) ? "bf16" : "f32";
    };
    EXPECT_EQ(trace.calls()[0].arithmetic, wanted(Operation::conv2d));
    EXPECT_EQ(trace.calls()[1].arithmetic, wanted(Operation::conv2d_backward_data));
    EXPECT_EQ(trace.calls()[2].arithmetic, wanted(Operation::conv2d_backward_weights));
    EXPECT_LT(relative_error(y, reference()->conv2d(x, w, shape)), tolerance) << shape.text();
    EXPECT_LT(relative_error(dx, reference()->conv2d_backward_data(dy, w, shape, Precision::f32)),
              tolerance)
        << shape.text();
    EXPECT_LT(
        relative_error(dw, reference()->conv2d_backward_weights(x, dy, shape, Precision::f32)),
        tolerance)
        << shape.text();
  }
}

// Three digits: bf16 has eight bits.
TEST(FloatConvolution, Bf16TakesAnyNumbersAndRoundsThem) {
  const Conv2dShape shape{.n = 2, .h = 8, .w = 8, .c = 32, .k = 16, .r = 3, .s = 3, .padding = 1};
  const Tensor x = random_floats(shape.x_shape(), 1), w = random_floats(shape.w_shape(), 2);
  const Tensor y = onednn()->conv2d(x, w, shape, Precision::bf16);
  const double error = relative_error(y, reference()->conv2d(x, w, shape));
  EXPECT_LT(error, 1e-2);
  EXPECT_EQ(error > 1e-4, has_native_bf16()) << error;
}

// <dy, conv(x)> = <dx, x> = <dw, w>: the three plain loops agree without another implementation.
TEST(FloatConvolution, PlainLoopsAreAdjointToEachOther) {
  const auto inner = [](const Tensor& a, const Tensor& b) {
    double sum = 0;
    for (int64_t i = 0; i < a.elements(); ++i)
      sum += double(a.data<float>()[i]) * double(b.data<float>()[i]);
    return sum;
  };
  for (const Conv2dShape& shape : convolution_cases()) {
    const Tensor x = random_floats(shape.x_shape(), 1), w = random_floats(shape.w_shape(), 2);
    const Tensor dy = random_floats(shape.y_shape(), 3);
    const double wanted = inner(dy, reference()->conv2d(x, w, shape));
    const double scale = std::sqrt(double(dy.elements() * shape.r * shape.s * shape.c));
    EXPECT_NEAR(inner(reference()->conv2d_backward_data(dy, w, shape, Precision::f32), x), wanted,
                1e-5 * scale)
        << shape.text();
    EXPECT_NEAR(inner(reference()->conv2d_backward_weights(x, dy, shape, Precision::f32), w),
                wanted, 1e-5 * scale)
        << shape.text();
  }
}

// By hand: a 3x3 picture, a 2x2 kernel, stride 1, padding 1.
TEST(FloatConvolution, ASmallCaseWorkedByHand) {
  const Conv2dShape shape{.n = 1, .h = 3, .w = 3, .c = 1, .k = 1, .r = 2, .s = 2, .padding = 1};
  const Tensor x = Tensor::of<float>(shape.x_shape(), {1, 2, 3, 4, 5, 6, 7, 8, 9});
  const Tensor w = Tensor::of<float>(shape.w_shape(), {1, 10, 100, 1000});
  const std::vector<float> wanted{1000, 2100, 3200, 300, 4010, 5421, 6532, 603,
                                  7040, 8754, 9865, 906, 70,   87,   98,   9};
  for (const auto& library : {onednn(), reference()})
    EXPECT_EQ(library->conv2d(x, w, shape).to_vector<float>(), wanted) << library->name();
}

TEST(FloatConvolution, SameBitsEveryTime) {
  const Conv2dShape shape{.n = 4, .h = 16, .w = 16, .c = 32, .k = 32, .r = 3, .s = 3, .padding = 1};
  const Tensor x = random_floats(shape.x_shape(), 1), dy = random_floats(shape.y_shape(), 2);
  const Tensor first = onednn()->conv2d_backward_weights(x, dy, shape, Precision::f32);
  for (int i = 0; i < 5; ++i)
    EXPECT_EQ(
        count_differences(onednn()->conv2d_backward_weights(x, dy, shape, Precision::f32), first),
        0);
}

TEST(FloatMatmul, EqualsPlainLoopsForEveryTransposition) {
  for (const auto& [m, n, k] :
       std::vector<std::array<int64_t, 3>>{{1, 1, 1}, {5, 3, 17}, {64, 10, 512}, {33, 65, 7}})
    for (const bool transpose_a : {false, true})
      for (const bool transpose_b : {false, true}) {
        const Tensor a = random_floats(transpose_a ? Shape{k, m} : Shape{m, k}, 1);
        const Tensor b = random_floats(transpose_b ? Shape{n, k} : Shape{k, n}, 2);
        const Tensor c = onednn()->matmul(a, transpose_a, b, transpose_b);
        EXPECT_EQ(c.shape(), (Shape{m, n}));
        EXPECT_LT(relative_error(c, reference()->matmul(a, transpose_a, b, transpose_b)), tolerance)
            << m << " " << n << " " << k << " " << transpose_a << transpose_b;
      }
}

TEST(FloatMatmul, ASmallCaseWorkedByHand) {
  const Tensor a = Tensor::of<float>({2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor b = Tensor::of<float>({3, 2}, {1, 0, 10, 1, 100, 0});
  for (const auto& library : {onednn(), reference()}) {
    EXPECT_EQ(library->matmul(a, false, b, false).to_vector<float>(),
              (std::vector<float>{321, 2, 654, 5}));
    EXPECT_EQ(library->matmul(a, true, a, false).to_vector<float>(),
              (std::vector<float>{17, 22, 27, 22, 29, 36, 27, 36, 45}));
  }
}

}  // namespace
}  // namespace qt
