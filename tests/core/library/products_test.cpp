// tests/core/library/products_test.cpp -- products in panels, in whatever registers this CPU has,
// against plain loops: the same order of additions, so the same bits.
#include "core/library/avx2/products.h"

#include <gtest/gtest.h>

#include "core/library/onednn_integer.h"
#include "tests/core/library/cases.h"

namespace qt {
namespace {

using avx2::panel;

constexpr int64_t most_rows = 53;  // all groups of rows, after none and after several of 16

TEST(Products, OfFloatsAreFusedInTheOrderOfTheDepth) {
  if (!has_avx2()) GTEST_SKIP() << "needs AVX2";
  for (const int64_t columns : {panel, 3 * panel})
    for (const int64_t depth : {1, 7, 32})
      for (int64_t rows = 1; rows <= most_rows; ++rows)
        for (const bool by_columns : {false, true}) {
          const Tensor a = random_floats({rows, depth}, 1), b = random_floats({depth, columns}, 2);
          const float *from = a.data<float>(), *right = b.data<float>();
          const avx2::Strided<float> left = by_columns ? avx2::Strided<float>{from, 1, rows}
                                                       : avx2::Strided<float>{from, depth, 1};
          std::vector<float> wanted(size_t(rows * columns), 0), sums(wanted);
          for (const bool add : {false, true}) {
            for (int64_t i = 0; i < rows; ++i)
              for (int64_t k = 0; k < columns; ++k)
                for (int64_t d = 0; d < depth; ++d)
                  wanted[size_t(i * columns + k)] =
                      std::fma(from[i * left.row + d * left.column], right[d * columns + k],
                               wanted[size_t(i * columns + k)]);
            if (add)
              avx2::multiply<true>(rows, left, right, columns, panel, depth, sums.data(), columns);
            else
              avx2::multiply<false>(rows, left, right, columns, panel, depth, sums.data(), columns);
            ASSERT_EQ(sums, wanted) << rows << " rows, depth " << depth << ", " << columns;
          }
        }
}

TEST(Products, OfShortsAreExactModulo32Bits) {
  if (!has_avx2()) GTEST_SKIP() << "needs AVX2";
  std::mt19937 random(1);
  std::uniform_int_distribution<int> any(INT16_MIN, INT16_MAX);
  for (const int64_t columns : {panel, 3 * panel})
    for (const int64_t depth : {2, 48})
      for (int64_t rows = 1; rows <= most_rows; ++rows) {
        std::vector<int16_t> a(size_t(rows * depth)), b(size_t(depth * columns));
        for (int16_t& v : a) v = int16_t(any(random));
        for (int16_t& v : b) v = int16_t(any(random));
        // The one pair of products that leaves int32.
        a[0] = a[1] = b[0] = b[1] = INT16_MIN;
        std::vector<int32_t> sums(size_t(rows * columns)), wanted(sums);
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t k = 0; k < columns; ++k) {
            uint32_t sum = 0;
            for (int64_t d = 0; d < depth; ++d) {
              const int64_t at = k / panel * panel * depth + d / 2 * 2 * panel + k % panel * 2;
              sum += uint32_t(int32_t(a[size_t(i * depth + d)]) * b[size_t(at + d % 2)]);
            }
            wanted[size_t(i * columns + k)] = int32_t(sum);
          }
        avx2::multiply(rows, a.data(), b.data(), depth, sums.data(), columns);
        ASSERT_EQ(sums, wanted) << rows << " rows, depth " << depth << ", " << columns;
      }
}

}  // namespace
}  // namespace qt
