// tests/core/library/integer_convolution_test.cpp -- products of codes: every library and path
// gives the same bits.
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "core/library/code_convolution.h"
#include "core/library/onednn_integer.h"
#include "tests/core/library/cases.h"

namespace qt {
namespace {

std::shared_ptr<Library> onednn() { return library_by_name("onednn"); }
std::shared_ptr<Library> reference() { return library_by_name("reference"); }

struct Ranges {
  CodeRange x, w;
};

// After ReLU at 8, 4 and 2 bits, unsigned_full, signed sources, full-range weights, low-bit
// weights.
std::vector<Ranges> ranges() {
  return {{{0, 127}, {-127, 127}}, {{0, 127}, {-128, 127}},    {{0, 15}, {-7, 7}},
          {{0, 3}, {-2, 1}},       {{0, 255}, {-63, 63}},      {{0, 255}, {-64, 63}},
          {{0, 255}, {-127, 127}}, {{-127, 127}, {-127, 127}}, {{-128, 127}, {-128, 127}},
          {{-7, 7}, {-7, 7}},      {{-127, 127}, {-31, 31}}};
}

void expect_equal_bits(const Tensor& x, const Tensor& w, const Conv2dShape& shape,
                       const std::string& what) {
  const Tensor wanted = reference()->conv2d_codes(x, w, shape, CodePath::integer);
  EXPECT_EQ(count_differences(onednn()->conv2d_codes(x, w, shape, CodePath::integer), wanted), 0)
      << what;
  EXPECT_EQ(count_differences(onednn()->conv2d_codes(x, w, shape, CodePath::exact_float), wanted),
            0)
      << what;
}

std::string text(const Conv2dShape& shape, const Ranges& r) {
  const auto number = [](int i) { return std::to_string(i); };
  return shape.text() + ", codes " + number(r.x.lo) + ".." + number(r.x.hi) + ", weights " +
         number(r.w.lo) + ".." + number(r.w.hi);
}

TEST(IntegerConvolution, EqualsPlainLoopsOnRandomCodes) {
  for (const Conv2dShape& shape : convolution_cases())
    for (const Ranges& r : ranges())
      expect_equal_bits(codes_of(shape.x_shape(), r.x, Fill::uniform, 3),
                        codes_of(shape.w_shape(), r.w, Fill::uniform, 4), shape, text(shape, r));
}

TEST(IntegerConvolution, EqualsPlainLoopsOnExtremeCodes) {
  for (const Conv2dShape& shape : convolution_cases())
    for (const Ranges& r : ranges())
      for (const auto& [x_fill, w_fill] :
           std::vector<std::pair<Fill, Fill>>{{Fill::all_high, Fill::all_high},
                                              {Fill::all_high, Fill::all_low},
                                              {Fill::all_low, Fill::all_low},
                                              {Fill::ends, Fill::alternating}})
        expect_equal_bits(codes_of(shape.x_shape(), r.x, x_fill),
                          codes_of(shape.w_shape(), r.w, w_fill), shape, text(shape, r));
}

TEST(IntegerConvolution, TheReferenceTakesItsOwnExactFloatPathToTheSameBits) {
  const Conv2dShape shape{
      .n = 1, .h = 5, .w = 5, .c = 6, .k = 4, .r = 3, .s = 3, .padding = 1, .groups = 2};
  const Tensor x = codes_of(shape.x_shape(), {0, 127}, Fill::uniform);
  const Tensor w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform);
  EXPECT_EQ(count_differences(reference()->conv2d_codes(x, w, shape, CodePath::exact_float),
                              reference()->conv2d_codes(x, w, shape, CodePath::integer)),
            0);
}

TEST(IntegerConvolution, ASmallCaseWorkedByHand) {
  const Conv2dShape shape{.n = 1, .h = 1, .w = 3, .c = 2, .k = 1, .s = 2};
  const Tensor step = Tensor::full({1}, 1.0f);
  const Tensor x =
      Tensor::of<int8_t>(shape.x_shape(), {127, 127, 1, 2, 0, 3}).with_scale(step, 0, 127);
  const Tensor w =
      Tensor::of<int8_t>(shape.w_shape(), {127, 127, -1, 5}).with_scale(step, -127, 127);
  const std::vector<float> wanted{127 * 127 * 2 - 1 + 10, 127 + 254 + 15};
  for (const auto& library : {onednn(), reference()})
    for (const CodePath path : {CodePath::integer, CodePath::exact_float})
      EXPECT_EQ(library->conv2d_codes(x, w, shape, path).to_vector<float>(), wanted)
          << library->name();
}

// 3x3x1152 products of 127 * 127 reach 1.7e8: ten bits above what a float holds exactly.
TEST(IntegerConvolution, SumsAboveTwoToThe24AreRoundedOnce) {
  for (const int64_t groups : {1, 2}) {
    const Conv2dShape shape{.n = 1,
                            .h = 3,
                            .w = 3,
                            .c = 1152 * groups,
                            .k = 8,
                            .r = 3,
                            .s = 3,
                            .padding = 1,
                            .groups = groups};
    for (const Ranges& r : {Ranges{{0, 127}, {-127, 127}}, Ranges{{-127, 127}, {-127, 127}},
                            Ranges{{0, 255}, {-127, 127}}})
      for (const Fill x_fill : {Fill::all_high, Fill::uniform})
        for (const Fill w_fill : {Fill::all_high, Fill::all_low, Fill::ends}) {
          Tensor x = codes_of(shape.x_shape(), r.x, x_fill);
          static_cast<uint8_t*>(x.raw())[5] = 1;  // odd sums: the last bit is lost in rounding
          expect_equal_bits(x, codes_of(shape.w_shape(), r.w, w_fill), shape, text(shape, r));
        }
  }
  const Conv2dShape shape{.n = 1, .h = 1, .w = 1, .c = 4096, .k = 1};
  Tensor x = codes_of(shape.x_shape(), {0, 127}, Fill::all_high);
  x.data<int8_t>()[0] = 126;
  const Tensor w = codes_of(shape.w_shape(), {-127, 127}, Fill::all_high);
  const float wanted = float(127 * 127 * 4096 - 127);
  for (const auto& library : {onednn(), reference()})
    for (const CodePath path : {CodePath::integer, CodePath::exact_float})
      EXPECT_EQ(library->conv2d_codes(x, w, shape, path).to_vector<float>().at(0), wanted)
          << library->name();
}

// A single input channel whose taps alone pass 2^24: no split into float parts exists.
TEST(IntegerConvolution, AKernelTooLargeForFloatPartsIsStillExact) {
  const Conv2dShape shape{.n = 1, .h = 36, .w = 36, .c = 2, .k = 2, .r = 34, .s = 34};
  for (const CodePath path : {CodePath::integer, CodePath::exact_float}) {
    const Tensor x = codes_of(shape.x_shape(), {-127, 127}, Fill::ends);
    const Tensor w = codes_of(shape.w_shape(), {-127, 127}, Fill::all_high);
    EXPECT_EQ(count_differences(onednn()->conv2d_codes(x, w, shape, path),
                                reference()->conv2d_codes(x, w, shape, CodePath::integer)),
              0);
  }
}

// The comparison itself can fail: one code one off changes every output it reaches, and is seen.
TEST(IntegerConvolution, APlantedOffByOneIsSeen) {
  for (const Conv2dShape& shape : convolution_cases()) {
    const Tensor x = codes_of(shape.x_shape(), {0, 126}, Fill::uniform);
    Tensor w = codes_of(shape.w_shape(), {-127, 126}, Fill::uniform);
    Tensor wrong = x.clone();
    wrong.data<int8_t>()[(shape.h / 2 * shape.w + shape.w / 2) * shape.c] += 1;
    Tensor wrong_w = w.clone();
    const int64_t central_tap = ((shape.k / 2 * shape.r + shape.r / 2) * shape.s + shape.s / 2);
    wrong_w.data<int8_t>()[central_tap * w.channels()] += 1;
    const Tensor wanted = reference()->conv2d_codes(x, w, shape, CodePath::integer);
    EXPECT_GT(
        count_differences(onednn()->conv2d_codes(x, wrong_w, shape, CodePath::integer), wanted), 0)
        << shape.text();
    if (shape.stride != 1) continue;  // a stride may step over the pixel
    EXPECT_GT(count_differences(onednn()->conv2d_codes(wrong, w, shape, CodePath::integer), wanted),
              0)
        << shape.text();
  }
}

// Some exact kernel must be an integer one wherever codes are 7 bits after ReLU; floats may stand
// in only elsewhere.
TEST(IntegerConvolution, TheTraceSaysWhichKernelRan) {
  // Channels that none of our own kernels take.
  const Conv2dShape shape{.n = 2, .h = 8, .w = 8, .c = 24, .k = 24, .r = 3, .s = 3, .padding = 1};
  const Tensor x = codes_of(shape.x_shape(), {0, 127}, Fill::uniform);
  const Tensor w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform);
  const LibraryTrace trace;
  onednn()->conv2d_codes(x, w, shape, CodePath::integer);
  ASSERT_EQ(trace.calls().size(), 1u);
  EXPECT_EQ(trace.calls()[0].library, "onednn");
  EXPECT_EQ(trace.calls()[0].operation, "conv2d_codes");
  EXPECT_EQ(trace.calls()[0].arithmetic, "u8s8s32");
  EXPECT_EQ(trace.calls()[0].shape, shape.text());
  EXPECT_FALSE(trace.calls()[0].kernel.empty());

  onednn()->conv2d_codes(x, w, shape, CodePath::exact_float);
  ASSERT_EQ(trace.calls().size(), 3u);
  EXPECT_EQ(trace.calls()[1].operation, "conv2d_codes");
  EXPECT_EQ(trace.calls()[1].arithmetic, "f32");
  EXPECT_EQ(trace.calls()[2].operation, "conv2d");
}

// The usual kernels of residual nets must not fall back silently.
TEST(IntegerConvolution, NoCaseOfSevenBitCodesFallsBackToFloats) {
  for (const Conv2dShape& shape : convolution_cases()) {
    const LibraryTrace trace;
    onednn()->conv2d_codes(codes_of(shape.x_shape(), {0, 127}, Fill::uniform),
                           codes_of(shape.w_shape(), {-127, 127}, Fill::uniform), shape,
                           CodePath::integer);
    const std::string& arithmetic = trace.calls().at(0).arithmetic;
    EXPECT_TRUE(arithmetic == "u8s8s32" || arithmetic == "s16s16s32")
        << shape.text() << ": " << trace.calls().at(0).kernel << " " << arithmetic;
  }
}

// As the integer program asks for them: sums of some pictures at a time, of batches of several
// sizes.
TEST(IntegerConvolution, PreparedOnesGiveTheSumsOfPlainLoopsForAnyNumberOfPictures) {
  std::vector<Conv2dShape> shapes = convolution_cases();
  shapes.push_back({.n = 5, .h = 64, .w = 65, .c = 3, .k = 64});
  shapes.push_back({.n = 2, .h = 16, .w = 16, .c = 32, .k = 32, .r = 3, .s = 3, .padding = 1});
  std::set<std::string> libraries;
  for (const Conv2dShape& shape : shapes)
    for (const Ranges& r : ranges()) {
      const Tensor x = codes_of(shape.x_shape(), r.x, Fill::ends, 3),
                   w = codes_of(shape.w_shape(), r.w, Fill::ends, 4);
      const auto prepared = onednn()->prepare_conv2d_codes(x, w, shape);
      if (!prepared) continue;
      libraries.insert(prepared->library());
      for (const int64_t n : {shape.n, int64_t(1), shape.n + 1}) {
        Conv2dShape batch = shape;
        batch.n = n;
        const Tensor pictures = codes_of(batch.x_shape(), r.x, Fill::uniform, n);
        EXPECT_EQ(
            count_differences(prepared->rounded_sums(pictures),
                              reference()->conv2d_codes(pictures, w, batch, CodePath::integer)),
            0)
            << text(batch, r) << ", " << prepared->kernel();
      }
    }
  const bool vnni = effective_byte_products() == ByteProducts::vnni;
  EXPECT_EQ(libraries, !has_avx2() ? std::set<std::string>{}
                       : vnni      ? std::set<std::string>({"winograd"})
                                   : std::set<std::string>({"direct", "winograd"}));
}

TEST(IntegerConvolution, ThreadsMayShareALibrary) {
  const Conv2dShape shape{.n = 2, .h = 6, .w = 6, .c = 24, .k = 40, .r = 3, .s = 3, .padding = 1};
  const Tensor x = codes_of(shape.x_shape(), {0, 127}, Fill::uniform);
  const Tensor w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform);
  const Tensor wanted = reference()->conv2d_codes(x, w, shape, CodePath::integer);
  std::vector<std::thread> threads;
  std::atomic<int64_t> differences = 0;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      for (const CodePath path : {CodePath::integer, CodePath::exact_float, CodePath::integer})
        differences += count_differences(onednn()->conv2d_codes(x, w, shape, path), wanted);
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(differences, 0);
}

TEST(IntegerLinear, EqualsPlainLoops) {
  for (const auto& [m, n, k] :
       std::vector<std::array<int64_t, 3>>{{1, 1, 1}, {5, 3, 17}, {64, 10, 512}, {2, 7, 4096}})
    for (const Ranges& r : ranges())
      for (const Fill fill : all_fills()) {
        const Tensor x = codes_of({m, k}, r.x, fill), w = codes_of({n, k}, r.w, fill, 2);
        const Tensor wanted = reference()->linear_codes(x, w, CodePath::integer);
        EXPECT_EQ(wanted.shape(), (Shape{m, n}));
        for (const CodePath path : {CodePath::integer, CodePath::exact_float})
          EXPECT_EQ(count_differences(onednn()->linear_codes(x, w, path), wanted), 0)
              << m << " " << n << " " << k;
      }
}

TEST(IntegerLinear, ResultsCarryNoScale) {
  const Tensor x = codes_of({2, 8}, {0, 127}, Fill::uniform),
               w = codes_of({3, 8}, {-127, 127}, Fill::uniform);
  for (const auto& library : {onednn(), reference()})
    for (const CodePath path : {CodePath::integer, CodePath::exact_float})
      EXPECT_FALSE(library->linear_codes(x, w, path).has_scale());
}

}  // namespace
}  // namespace qt
