// tests/core/library/library_test.cpp -- choice of libraries, traces, argument checks, kernel
// choice, conversion.
#include "core/library/library.h"

#include <gtest/gtest.h>

#include <thread>

#include "core/library/convert.h"
#include "core/library/onednn_integer.h"
#include "tests/core/library/cases.h"

namespace qt {
namespace {

TEST(Library, IsFoundByNameAndMadeOnce) {
  EXPECT_EQ(library_by_name("reference")->name(), "reference");
  EXPECT_EQ(library_by_name("onednn"), library_by_name("onednn"));
}

TEST(Library, AnUnknownNameListsWhatIsKnown) {
  for (int attempt = 0; attempt < 2; ++attempt) {
    try {
      library_by_name("mkl");
      FAIL() << "no error";
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find("'mkl'"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("onednn, reference"), std::string::npos)
          << error.what();
    }
  }
}

TEST(Conv2dShape, CountsWholeWindowsAndNoneWhereTheKernelIsLarger) {
  EXPECT_EQ(window_positions(7, 0, 3, 2), 3);
  EXPECT_EQ(window_positions(7, 1, 3, 2), 4);
  EXPECT_EQ(window_positions(3, 0, 3, 2), 1);
  EXPECT_EQ(window_positions(3, 0, 4, 2), 0);
  EXPECT_EQ(window_positions(3, 0, 9, 2), 0);
  const Conv2dShape shape{
      .n = 1, .h = 4, .w = 5, .c = 1, .k = 1, .r = 3, .s = 3, .stride = 3, .dilation = 2};
  EXPECT_EQ(shape.y_shape(), (Shape{1, 0, 1, 1}));
  const Tensor x = Tensor::zeros(shape.x_shape(), DType::f32),
               w = Tensor::zeros(shape.w_shape(), DType::f32);
  for (const char* name : {"onednn", "reference"})
    EXPECT_THROW(library_by_name(name)->conv2d(x, w, shape), InternalError) << name;
}

TEST(Library, UseLibraryNestsAndIsPerThread) {
  EXPECT_EQ(current_library().name(), "onednn");
  {
    const UseLibrary use(library_by_name("reference"));
    EXPECT_EQ(current_library().name(), "reference");
    std::thread([] { EXPECT_EQ(current_library().name(), "onednn"); }).join();
    {
      const UseLibrary inner(library_by_name("onednn"));
      EXPECT_EQ(current_library().name(), "onednn");
    }
    EXPECT_EQ(current_library().name(), "reference");
  }
  EXPECT_EQ(current_library().name(), "onednn");
  EXPECT_THROW(UseLibrary(nullptr), InternalError);
}

TEST(Library, TracesNestAndEndWithTheirScope) {
  EXPECT_FALSE(LibraryTrace::active());
  const Tensor a = Tensor::full({2, 2}, 1);
  const LibraryTrace outer;
  {
    const LibraryTrace inner;
    library_by_name("onednn")->matmul(a, false, a, false);
    EXPECT_EQ(inner.calls().size(), 1u);
  }
  EXPECT_TRUE(LibraryTrace::active());
  library_by_name("reference")->matmul(a, false, a, false);
  ASSERT_EQ(outer.calls().size(), 2u);
  EXPECT_EQ(outer.calls()[0].library, "onednn");
  EXPECT_EQ(outer.calls()[1].library, "reference");
  EXPECT_EQ(outer.calls()[1].kernel, "plain loops");
}

TEST(Library, RefusesArgumentsThatDoNotFitTheShape) {
  const Conv2dShape shape{.n = 1, .h = 4, .w = 4, .c = 4, .k = 4, .r = 3, .s = 3, .padding = 1};
  const Tensor x = Tensor::full(shape.x_shape(), 1), w = Tensor::full(shape.w_shape(), 1);
  const Tensor small = Tensor::full({1, 4, 4, 3}, 1), dy = Tensor::full(shape.y_shape(), 1);
  const Tensor x_codes = codes_of(shape.x_shape(), {0, 127}, Fill::uniform);
  const Tensor w_codes = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform);
  for (const auto& library : {library_by_name("onednn"), library_by_name("reference")}) {
    EXPECT_THROW(library->conv2d(small, w, shape), InternalError);
    EXPECT_THROW(library->conv2d(x, small, shape), InternalError);
    EXPECT_THROW(library->conv2d(Tensor(), w, shape), InternalError);
    EXPECT_THROW(library->conv2d(x_codes, w, shape), InternalError);
    EXPECT_THROW(library->conv2d_backward_data(small, w, shape, Precision::f32), InternalError);
    EXPECT_THROW(library->conv2d_backward_weights(small, dy, shape, Precision::f32), InternalError);
    EXPECT_THROW(library->conv2d_codes(x, w, shape, CodePath::integer), InternalError);
    EXPECT_THROW(library->conv2d_codes(x_codes, w_codes.without_scale(), shape, CodePath::integer),
                 InternalError);
    EXPECT_THROW(library->matmul(Tensor::full({2, 3}, 1), false, Tensor::full({2, 3}, 1), false),
                 InternalError);
    Conv2dShape wrong = shape;
    wrong.groups = 3;
    EXPECT_THROW(library->conv2d(x, w, wrong), InternalError);
    wrong = shape;
    wrong.r = 9;
    EXPECT_THROW(library->conv2d(x, Tensor::full(wrong.w_shape(), 1), wrong), InternalError);
  }
}

TEST(Library, RefusesSumsBeyondInt32) {
  const int64_t inputs = (int64_t(1) << 31) / (127 * 127) + 1;
  const Tensor w = codes_of({1, inputs}, {-127, 127}, Fill::all_high);
  EXPECT_THROW(library_by_name("reference")->linear_codes(w, w, CodePath::integer), ConfigError);
  const Tensor less = codes_of({1, inputs - 1}, {-127, 127}, Fill::all_high);
  const float wanted = float((inputs - 1) * 127 * 127);
  for (const auto& library : {library_by_name("onednn"), library_by_name("reference")})
    for (const CodePath path : {CodePath::integer, CodePath::exact_float})
      EXPECT_EQ(library->linear_codes(less, less, path).to_vector<float>().at(0), wanted);
}

TEST(Library, ToFloatGivesTheNumbersWithoutScale) {
  const Tensor step = Tensor::full({1}, 0.25f);
  const Tensor signed_codes = Tensor::of<int8_t>({3}, {-128, 0, 127}).with_scale(step, -128, 127);
  EXPECT_EQ(to_float(signed_codes).to_vector<float>(), (std::vector<float>{-128, 0, 127}));
  EXPECT_FALSE(to_float(signed_codes).has_scale());
  EXPECT_EQ(to_float(Tensor::of<uint8_t>({2}, {0, 255})).to_vector<float>(),
            (std::vector<float>{0, 255}));
  const Tensor f = Tensor::full({2}, 1.5f);
  EXPECT_EQ(to_float(f).raw(), f.raw());
  EXPECT_THROW(to_float(Tensor::of<int32_t>({1}, {1})), InternalError);
}

TEST(Library, ToBf16RoundsToNearestEven) {
  const auto bits = [](const Tensor& t) {
    std::vector<int> list;
    for (const BFloat16 v : to_bf16(t).to_vector<BFloat16>()) list.push_back(v.bits);
    return list;
  };
  EXPECT_EQ(bits(Tensor::of<float>({4}, {1.0f, 1.00390625f, 1.01171875f, -2.0f})),
            (std::vector<int>{0x3f80, 0x3f80, 0x3f82, 0xc000}));
  EXPECT_EQ(bits(Tensor::of<uint8_t>({2}, {255, 0})), (std::vector<int>{0x437f, 0}));
  EXPECT_EQ(bits(Tensor::of<int8_t>({1}, {-127})), (std::vector<int>{0xc2fe}));
}

TEST(IntegerKernelChoice, WithoutVnniPairSumsMustFitSixteenBits) {
  const auto choose = [](CodeRange x, CodeRange w) {
    return choose_integer_kernel(x, w, ByteProducts::saturating_pairs);
  };
  EXPECT_EQ(choose({0, 127}, {-127, 127}), IntegerKernel::u8s8);
  EXPECT_EQ(choose({0, 127}, {-128, 127}), IntegerKernel::u8s8);
  EXPECT_EQ(choose({0, 128}, {-128, 127}),
            IntegerKernel::u8s8);  // 2 * 128 * -128 = -32768 just fits
  EXPECT_EQ(choose({0, 129}, {-128, 127}), IntegerKernel::exact_float);
  EXPECT_EQ(choose({0, 129}, {-127, 127}), IntegerKernel::u8s8);
  EXPECT_EQ(choose({0, 130}, {-127, 127}), IntegerKernel::exact_float);
  EXPECT_EQ(choose({0, 255}, {-64, 63}), IntegerKernel::u8s8);
  EXPECT_EQ(choose({0, 255}, {-63, 64}), IntegerKernel::u8s8);
  EXPECT_EQ(choose({0, 255}, {-64, 65}), IntegerKernel::exact_float);
  EXPECT_EQ(choose({0, 255}, {-127, 127}), IntegerKernel::exact_float);
  EXPECT_EQ(choose({-1, 1}, {-1, 1}), IntegerKernel::exact_float);
}

TEST(IntegerKernelChoice, WithVnniEveryRangeOfBytesIsExact) {
  const auto choose = [](CodeRange x, CodeRange w) {
    return choose_integer_kernel(x, w, ByteProducts::vnni);
  };
  EXPECT_EQ(choose({0, 255}, {-128, 127}), IntegerKernel::u8s8);
  EXPECT_EQ(choose({-128, 127}, {-128, 127}), IntegerKernel::s8s8);
  EXPECT_EQ(choose({0, 127}, {0, 255}), IntegerKernel::exact_float);  // weights are s8
}

}  // namespace
}  // namespace qt
