// tests/core/library/columns_test.cpp -- convolutions as matrix products, on the CPU: windows
// written out as rows, added back, weights packed, sums finished.
#include "core/library/columns.h"

#include <gtest/gtest.h>

#include "core/library/plain.h"
#include "tests/core/library/cases.h"

namespace qt {
namespace {

class Columns : public ::testing::TestWithParam<Conv2dShape> {
 protected:
  static ColumnShape columns_of(const Conv2dShape& shape, int64_t packet) {
    ColumnShape columns{.conv = shape, .images = shape.n, .width = 0};
    columns.width = rounded_up(columns.products(), packet) + packet;  // wider than need be
    return columns;
  }
};

// sums [groups][rows][n] = rows times weights transposed.
template <class T, class Sum>
std::vector<Sum> multiply(int64_t groups, int64_t rows, int64_t n, int64_t width, const T* a,
                          const T* b) {
  std::vector<Sum> sums;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < n; ++j) {
        Sum sum = 0;
        for (int64_t q = 0; q < width; ++q)
          sum += Sum(a[(g * rows + i) * width + q]) * Sum(b[(g * n + j) * width + q]);
        sums.push_back(sum);
      }
  return sums;
}

TEST_P(Columns, TimesPackedWeightsAreTheConvolutionOfCodes) {
  const Conv2dShape& shape = GetParam();
  const ColumnShape columns = columns_of(shape, packet_size<int8_t>);
  const int64_t per_group = shape.k / shape.groups;
  const PackedWeights weights{.groups = shape.groups,
                              .per_group = per_group,
                              .products = columns.products(),
                              .padded_per_group = rounded_up(per_group, 4),
                              .width = columns.width};
  for (const bool shifted : {false, true})
    for (const bool halved : {false, true}) {
      const Tensor x = codes_of(shape.x_shape(), shifted ? CodeRange{0, 255} : CodeRange{-127, 127},
                                Fill::uniform, 1);
      const Tensor w = codes_of(shape.w_shape(), halved ? CodeRange{0, 255} : CodeRange{-128, 127},
                                Fill::uniform, 2);
      std::vector<int8_t> rows(size_t(columns.elements()), 77);
      std::vector<int8_t> packed(size_t(shape.groups * weights.padded_per_group * columns.width));
      std::vector<int32_t> offsets(size_t(shape.k));
      if (shifted)
        write_columns(columns, x.data<uint8_t>(), rows.data());
      else
        write_columns(columns, x.data<int8_t>(), rows.data());
      const auto sums_of = [&](CodePart part) {
        if (halved) {
          pack_weights(weights, w.data<uint8_t>(), part, packed.data());
          weight_offsets(shape.k, columns.products(), w.data<uint8_t>(), offsets.data());
        } else {
          pack_weights(weights, w.data<int8_t>(), part, packed.data());
          weight_offsets(shape.k, columns.products(), w.data<int8_t>(), offsets.data());
        }
        return multiply<int8_t, int32_t>(shape.groups, columns.rows(), weights.padded_per_group,
                                         columns.width, rows.data(), packed.data());
      };
      const auto sums = sums_of(halved ? CodePart::upper : CodePart::all);
      const auto lower = sums_of(CodePart::lower);
      Tensor y = Tensor::empty(shape.y_shape(), DType::f32);
      sums_to_floats({.rows = columns.rows(),
                      .groups = shape.groups,
                      .per_group = per_group,
                      .padded_per_group = weights.padded_per_group,
                      .sums = sums.data(),
                      .lower = halved ? lower.data() : nullptr,
                      .offsets = shifted ? offsets.data() : nullptr},
                     y.data<float>());
      EXPECT_EQ(count_differences(y, plain_conv2d_codes(x, w, shape)), 0)
          << shape.text() << (shifted ? " shifted" : "") << (halved ? " halved" : "");
    }
}

// <columns of x, anything> = <x, what it is added back to>: the two are transposes of each other.
TEST_P(Columns, AreAddedBackByTheTransposedMap) {
  const Conv2dShape& shape = GetParam();
  const ColumnShape columns = columns_of(shape, packet_size<float>);
  const Tensor x = to_float(codes_of(shape.x_shape(), {-9, 9}, Fill::uniform, 1));
  const Tensor values = to_float(codes_of({columns.elements()}, {-9, 9}, Fill::uniform, 2));
  Tensor rows = Tensor::empty({columns.elements()}, DType::f32);
  Tensor dx = Tensor::full(shape.x_shape(), NAN);
  write_columns(columns, x.data<float>(), rows.data<float>());
  add_columns(columns, values.data<float>(), dx.data<float>());
  double there = 0, back = 0;
  for (int64_t i = 0; i < columns.elements(); ++i)
    there += double(rows.data<float>()[i]) * double(values.data<float>()[i]);
  for (int64_t i = 0; i < x.elements(); ++i)
    back += double(x.data<float>()[i]) * double(dx.data<float>()[i]);
  EXPECT_EQ(there, back);
}

INSTANTIATE_TEST_SUITE_P(Cases, Columns, ::testing::ValuesIn(convolution_cases()));

TEST(ColumnsOfCodes, AreTheSameNumbersInEveryType) {
  const Conv2dShape shape{.n = 1, .h = 4, .w = 5, .c = 3, .k = 1, .r = 3, .s = 3, .padding = 1};
  const ColumnShape columns{.conv = shape, .images = 1, .width = 32};
  const Tensor x = codes_of(shape.x_shape(), {0, 255}, Fill::uniform);
  std::vector<float> reals(size_t(columns.elements()));
  std::vector<BFloat16> halves(size_t(columns.elements()), BFloat16(5.0f));
  write_columns(columns, x.data<uint8_t>(), reals.data());
  write_columns(columns, x.data<uint8_t>(), halves.data());
  for (size_t i = 0; i < reals.size(); ++i) EXPECT_EQ(reals[i], float(halves[i]));
  EXPECT_EQ(reals[4 * 3], float(x.data<uint8_t>()[0])) << "the first window's centre";
  EXPECT_EQ(reals[0], 0) << "padding";
}

TEST(ColumnsOfCodes, RefuseRowsThatAreNoWholePackets) {
  const Conv2dShape shape{.n = 1, .h = 4, .w = 4, .c = 3, .k = 1};
  std::vector<int8_t> x(48), rows(1000);
  for (const int64_t width : {2, 20})
    EXPECT_THROW(write_columns({.conv = shape, .images = 1, .width = width},
                               static_cast<const int8_t*>(x.data()), rows.data()),
                 InternalError);
}

}  // namespace
}  // namespace qt
