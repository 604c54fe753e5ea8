// tests/gpu/library_test.cpp -- the libraries of a GPU against the plain loops: products of codes
// have their bits, reals their sums.
#include <gtest/gtest.h>

#include "tests/core/library/gpu_rows.h"
#include "tests/gpu/libraries.h"
#include "tests/gpu/on_gpu.h"

namespace qt {
namespace {

std::string name_of(const Conv2dShape& shape) {
  std::string name;
  for (const char c : shape.text())
    name += isalnum(static_cast<unsigned char>(c)) ? c : c == '>' ? 'k' : '_';
  return name;
}

class GpuConvolution : public OnGpu, public ::testing::WithParamInterface<Conv2dShape> {
 protected:
  template <class Expect>
  static void with_each(Expect expect) {
    for (const LibraryUnderTest& library : libraries_under_test()) {
      SCOPED_TRACE(library.name);
      expect(*library.library, library);
    }
  }
};

TEST_P(GpuConvolution, OfCodesHasTheBitsOfThePlainLoops) {
  with_each([](Library& l, const auto&) { expect_exact_on_all_codes(l, GetParam()); });
}

TEST_P(GpuConvolution, OfRealsHasTheSumsOfThePlainLoops) {
  with_each([](Library& l, const auto& is) { expect_close_on_reals(l, GetParam(), is.of_reals); });
}

TEST_P(GpuConvolution, GradientsOverCodesAreExactOnIntegers) {
  with_each([](Library& l, const auto& is) { expect_exact_gradients(l, GetParam(), is.in_bf16); });
}

TEST_P(GpuConvolution, OfIntegerValuedRealsIsExactInEveryPrecision) {
  with_each([](Library& l, const auto& is) { expect_exact_forward(l, GetParam(), is.in_bf16); });
}

TEST_P(GpuConvolution, GivesTheSameBitsAgain) {
  const Conv2dShape& shape = GetParam();
  const Tensor x = random_floats(shape.x_shape(), 1), dy = random_floats(shape.y_shape(), 3);
  with_each([&](Library& library, const auto&) {
    const auto gradient = [&](Library& l, auto place) {
      return l.conv2d_backward_weights(place(x), place(dy), shape, Precision::bf16);
    };
    const Tensor first = on_both(library, gradient).got;
    for (int turn = 0; turn < 3; ++turn)
      EXPECT_EQ(count_differences(on_both(library, gradient).got, first), 0);
  });
}

INSTANTIATE_TEST_SUITE_P(Cases, GpuConvolution, ::testing::ValuesIn(convolution_cases()),
                         [](const auto& info) { return name_of(info.param); });

// Layers of a ResNet's blocks: cuDNN adds the gradient to what is there.
TEST_F(GpuConvolution, GradientsOfBlocksAreAddedByCudnn) {
  const LibraryUnderTest library = libraries_under_test().front();
  if (!library.has_cudnn) GTEST_SKIP() << "no cuDNN here";
  for (const Conv2dShape& shape :
       {Conv2dShape{.n = 4, .h = 8, .w = 8, .c = 64, .k = 64, .r = 3, .s = 3, .padding = 1},
        Conv2dShape{.n = 4, .h = 8, .w = 8, .c = 256, .k = 64},
        Conv2dShape{.n = 4, .h = 8, .w = 8, .c = 64, .k = 128, .stride = 2}}) {
    const Tensor w = codes_of(shape.w_shape(), {-7, 7}, Fill::uniform, 2),
                 dy = to_float(codes_of(shape.y_shape(), {-7, 7}, Fill::uniform, 3)),
                 onto = to_float(codes_of(shape.x_shape(), {-7, 7}, Fill::uniform, 4));
    const auto sum = on_both(*library.library, [&](Library& l, auto place) {
      if (l.name() == "reference")
        return add(onto, l.conv2d_backward_data(dy, w, shape, Precision::f32));
      Tensor on_gpu = to_bf16(place(onto));
      EXPECT_TRUE(l.add_conv2d_backward_data(on_gpu, place(dy), place(w), shape, Precision::bf16))
          << shape.text();
      return on_gpu;
    });
    EXPECT_LE(relative_error(sum.got, sum.wanted), library.in_bf16) << shape.text();
  }
}

class GpuProducts : public OnGpu {};

TEST_F(GpuProducts, OfCodesHaveTheBitsOfThePlainLoops) {
  for (const auto& library : libraries_under_test()) expect_exact_products(*library.library);
}
TEST_F(GpuProducts, OfManyCodesAreRoundedOnce) {
  for (const auto& library : libraries_under_test())
    expect_long_sums_rounded_once(*library.library);
}
TEST_F(GpuProducts, OfMatricesTransposedOrNotAreThoseOfThePlainLoops) {
  for (const auto& library : libraries_under_test())
    expect_matrix_products(*library.library, gpu_under_test::is_emulated() ? 0 : 1e-6);
}

// Where there is no GPU the program says so, and what to do.
TEST(WithoutGpu, TheLibraryNamesWhatIsMissing) {
  if (gpu_under_test::missing().empty()) GTEST_SKIP() << "there is a GPU";
  try {
    library_by_name("cuda");
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("no CUDA device"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("'onednn'"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace qt
