// core/library/avx2/products.h -- matrix products in panels of sixteen columns, six rows at a time
// in registers.
#pragma once
#include <type_traits>

#include "core/device/cpu.h"
#include "core/library/avx2/vector.h"
#include "core/library/avx512/products.h"

namespace qt::avx2 {

constexpr int64_t panel = 16;  // columns: two registers of f32 or int32

// A matrix by the distance of its rows and of its columns, in elements.
template <class T>
struct Strided {
  const T* first;
  int64_t row, column;
};

// c [Rows, 16] (+)= a [Rows, depth] b [depth, 16]. Twelve sums, two of b and one of a: fifteen of
// the sixteen registers; per step of depth 2 + Rows loads for 2 Rows multiplications.
template <int Rows, bool Add>
QT_INLINE void multiply_rows(Strided<float> a, const float* b, int64_t b_row, int64_t depth,
                             float* c, int64_t c_row) {
  F32x8 left[Rows], right[Rows];
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) {
    left[i] = Add ? load_floats(c + i * c_row) : F32x8{};
    right[i] = Add ? load_floats(c + i * c_row + 8) : F32x8{};
  }
  const float* from = a.first;
  for (int64_t d = 0; d < depth; ++d, b += b_row, from += a.column) {
    const F32x8 b_left = load_floats(b), b_right = load_floats(b + 8);
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) {
      const F32x8 value = all_lanes(from[i * a.row]);
      left[i] = fused(value, b_left, left[i]);
      right[i] = fused(value, b_right, right[i]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) {
    store(c + i * c_row, left[i]);
    store(c + i * c_row + 8, right[i]);
  }
}

// The same on int16 pairs: b holds for each pair of depths 16 columns x 2.
template <int Rows>
QT_INLINE void multiply_rows(const int16_t* a, int64_t a_row, const int16_t* b, int64_t pairs,
                             int32_t* c, int64_t c_row) {
  U32x8 left[Rows], right[Rows];
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) left[i] = right[i] = U32x8{};
  for (int64_t d = 0; d < pairs; ++d, a += 2, b += 2 * panel) {
    const I16x16 b_left = load_shorts(b), b_right = load_shorts(b + panel);
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) {
      const I16x16 pair = all_pairs(a + i * a_row);
      left[i] += multiply_pairs(pair, b_left);
      right[i] += multiply_pairs(pair, b_right);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) {
    store(c + i * c_row, left[i]);
    store(c + i * c_row + 8, right[i]);
  }
}

// Cuts rows into groups of 6, 4, 2 and 1: f(first row, integral_constant<rows>).
template <class F>
QT_INLINE void in_row_groups(int64_t rows, const F& f) {
  int64_t i = 0;
  for (; i + 6 <= rows; i += 6) f(i, std::integral_constant<int, 6>());
  for (; i + 4 <= rows; i += 4) f(i, std::integral_constant<int, 4>());
  for (; i + 2 <= rows; i += 2) f(i, std::integral_constant<int, 2>());
  for (; i < rows; ++i) f(i, std::integral_constant<int, 1>());
}

// c [rows, columns] (+)= a [rows, depth] b [depth, columns]; columns a multiple of 16. b: panels of
// 16 columns `b_panel` apart, rows b_row apart. Sums run over depth in order.
template <bool Add>
inline void multiply(int64_t rows, Strided<float> a, const float* b, int64_t b_row, int64_t b_panel,
                     int64_t depth, float* c, int64_t columns) {
  if (cpu_has(Isa::avx512))
    return avx512::multiply(rows, a.first, a.row, a.column, b, b_row, b_panel, depth, c, columns,
                            Add);
  for (int64_t k = 0; k < columns; k += panel, b += b_panel)
    in_row_groups(rows, [&](int64_t i, auto group) {
      multiply_rows<group(), Add>({a.first + i * a.row, a.row, a.column}, b, b_row, depth,
                                  c + i * columns + k, columns);
    });
}

// c [rows, columns] = a [rows, depth] b, depth even; b as panels [columns / 16][depth / 2][16][2].
inline void multiply(int64_t rows, const int16_t* a, const int16_t* b, int64_t depth, int32_t* c,
                     int64_t columns) {
  if (cpu_has(Isa::avx512_vnni)) return avx512::multiply(rows, a, b, depth, c, columns);
  for (int64_t k = 0; k < columns; k += panel, b += depth * panel)
    in_row_groups(rows, [&](int64_t i, auto group) {
      multiply_rows<group()>(a + i * depth, depth, b, depth / 2, c + i * columns + k, columns);
    });
}

}  // namespace qt::avx2
