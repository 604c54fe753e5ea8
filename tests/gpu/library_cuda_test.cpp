// tests/gpu/library_cuda_test.cpp -- the CUDA library on a GPU, with NVIDIA's own cuBLASLt and
// cuDNN: rows of its operations against the plain loops. Skipped where there is no GPU.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "core/library/cuda/library.h"
#include "tests/core/library/gpu_rows.h"

namespace qt {
namespace {

bool has_gpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

class Gpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "no CUDA device: nothing of this test has run";
  }
};
class GpuConvolution : public Gpu, public ::testing::WithParamInterface<Conv2dShape> {};

// With cuDNN where it is found, and by products alone.
std::vector<std::shared_ptr<Library>> libraries() {
  static const auto products = open_matrix_products();
  static const std::shared_ptr<Library> alone = make_cuda_library(products, nullptr),
                                        parts = make_cuda_library(products, nullptr,
                                                                  {.column_bytes = 1});
  return {library_by_name("cuda"), alone, parts};
}

TEST_P(GpuConvolution, OfCodesHasTheBitsOfThePlainLoops) {
  for (const auto& library : libraries()) expect_exact_on_all_codes(*library, GetParam());
}

TEST_P(GpuConvolution, OfRealsHasTheSumsOfThePlainLoops) {
  for (const auto& library : libraries()) expect_close_on_reals(*library, GetParam(), 1e-5);
}

TEST_P(GpuConvolution, GradientsOverCodesAreExactOnIntegers) {
  const auto all = libraries();
  expect_exact_gradients(*all[0], GetParam(), 1.0 / 256);  // cuDNN writes bf16
  expect_exact_gradients(*all[1], GetParam());
  expect_exact_gradients(*all[2], GetParam());
}

TEST_P(GpuConvolution, GivesTheSameBitsAgain) {
  const Conv2dShape& shape = GetParam();
  const Tensor x = random_floats(shape.x_shape(), 1), dy = random_floats(shape.y_shape(), 3);
  for (const auto& library : libraries()) {
    const auto gradient = [&](Library& l, auto place) {
      return l.conv2d_backward_weights(place(x), place(dy), shape, Precision::bf16);
    };
    const Tensor first = on_both(*library, gradient).got;
    for (int turn = 0; turn < 3; ++turn)
      EXPECT_EQ(count_differences(on_both(*library, gradient).got, first), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, GpuConvolution, ::testing::ValuesIn(convolution_cases()));

TEST_F(Gpu, ProductsOfCodesHaveTheBitsOfThePlainLoops) {
  expect_exact_products(*library_by_name("cuda"));
}
TEST_F(Gpu, LongSumsAreRoundedOnce) { expect_long_sums_rounded_once(*library_by_name("cuda")); }
TEST_F(Gpu, MultipliesMatricesTransposedOrNot) {
  expect_matrix_products(*library_by_name("cuda"), 1e-6);
}

// Where there is none, the program says so and what to do.
TEST(WithoutGpu, TheLibraryNamesWhatIsMissing) {
  if (has_gpu()) GTEST_SKIP() << "there is a CUDA device";
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
