// core/library/avx512/products.cpp -- sixteen rows at a time: sixteen sums and one register of b,
// numbers of a straight from memory. One load for each multiplication, as many as the CPU does.
#include "core/library/avx512/products.h"

#include <immintrin.h>

#define QT_INLINE inline __attribute__((always_inline))

namespace qt::avx512 {
namespace {

constexpr int64_t panel = 16;

// Four rows from each of four addresses: few enough for the general registers.
template <class T>
struct RowsOf {
  const T* four[4];
  int64_t row;
  RowsOf(const T* first, int64_t row) : four{}, row(row) {
    for (int i = 0; i < 4; ++i) four[i] = first + 4 * i * row;
  }
  QT_INLINE const T* at(int i) const { return four[i / 4] + i % 4 * row; }
  QT_INLINE void advance(int64_t by) {
    for (const T*& p : four) p += by;
  }
};

QT_INLINE __m512i all_pairs(const int16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return _mm512_set1_epi32(pair);
}

template <int Rows>
QT_INLINE void multiply_rows(const float* a, int64_t a_row, int64_t a_column, const float* b,
                             int64_t b_row, int64_t depth, float* c, int64_t c_row, bool add) {
  __m512 sums[Rows];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) sums[i] = add ? _mm512_loadu_ps(c + i * c_row) : __m512{};
  RowsOf<float> from(a, a_row);
  for (int64_t d = 0; d < depth; ++d, b += b_row, from.advance(a_column)) {
    const __m512 right = _mm512_loadu_ps(b);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i)
      sums[i] = _mm512_fmadd_ps(_mm512_set1_ps(*from.at(i)), right, sums[i]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) _mm512_storeu_ps(c + i * c_row, sums[i]);
}

template <int Rows>
QT_INLINE void multiply_rows(const int16_t* a, int64_t a_row, const int16_t* b, int64_t pairs,
                             int32_t* c, int64_t c_row) {
  __m512i sums[Rows];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) sums[i] = __m512i{};
  RowsOf<int16_t> from(a, a_row);
  for (int64_t d = 0; d < pairs; ++d, b += 2 * panel, from.advance(2)) {
    const __m512i right = _mm512_loadu_si512(b);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i)
      sums[i] = _mm512_dpwssd_epi32(sums[i], all_pairs(from.at(i)), right);
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) _mm512_storeu_si512(c + i * c_row, sums[i]);
}

template <int Rows>
struct Count {
  static constexpr int rows = Rows;
};

// Cuts rows into groups of 16, 8, 4, 2 and 1: f(first row, Count<rows>).
template <class F>
QT_INLINE void in_row_groups(int64_t rows, const F& f) {
  int64_t i = 0;
  for (; i + 16 <= rows; i += 16) f(i, Count<16>());
  if (i + 8 <= rows) f(i, Count<8>()), i += 8;
  if (i + 4 <= rows) f(i, Count<4>()), i += 4;
  if (i + 2 <= rows) f(i, Count<2>()), i += 2;
  if (i < rows) f(i, Count<1>());
}

}  // namespace

void multiply(int64_t rows, const float* a, int64_t a_row, int64_t a_column, const float* b,
              int64_t b_row, int64_t b_panel, int64_t depth, float* c, int64_t columns, bool add) {
  for (int64_t k = 0; k < columns; k += panel, b += b_panel)
    in_row_groups(rows, [&](int64_t i, auto count) {
      multiply_rows<count.rows>(a + i * a_row, a_row, a_column, b, b_row, depth,
                                c + i * columns + k, columns, add);
    });
}

void multiply(int64_t rows, const int16_t* a, const int16_t* b, int64_t depth, int32_t* c,
              int64_t columns) {
  for (int64_t k = 0; k < columns; k += panel, b += depth * panel)
    in_row_groups(rows, [&](int64_t i, auto count) {
      multiply_rows<count.rows>(a + i * depth, depth, b, depth / 2, c + i * columns + k, columns);
    });
}

}  // namespace qt::avx512
