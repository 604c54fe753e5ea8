// core/library/winograd/transforms.h -- the transforms of F(4x4, 3x3) on real numbers and
// F(2x2, 3x3) and F(4x4, 3x3) on integers (Lavin & Gray 2016, "Fast Algorithms for Convolutional
// Neural Networks").
//
//   y = A^T [ (G g G^T) * (B^T d B) ] A     for one tile: d its input pixels, g the 3x3 weights
//
// Each function transforms one line of registers; a register holds the same pixel of eight or
// sixteen channels. in_both_directions applies it to the columns and then to the rows of a tile.
#pragma once
#include "core/library/avx2/vector.h"

namespace qt::winograd {

using namespace avx2;

// ---- F(4x4, 3x3): interpolation points 0, 1, -1, 2, -2, infinity; 36 products for 144 ----
constexpr int float_tile = 4, float_side = 6, float_points = float_side * float_side;

struct InputLine {  // B^T d
  static constexpr int from = 6, to = 6;
  QT_INLINE static void apply(const F32x8 (&d)[6], F32x8 (&v)[6]) {
    const F32x8 even1 = fused(-4, d[2], d[4]), odd1 = fused(-4, d[1], d[3]);
    const F32x8 even2 = d[4] - d[2], odd2 = all_lanes(2) * (d[3] - d[1]);
    v[0] = fused(4, d[0], fused(-5, d[2], d[4]));
    v[1] = even1 + odd1;
    v[2] = even1 - odd1;
    v[3] = even2 + odd2;
    v[4] = even2 - odd2;
    v[5] = fused(4, d[1], fused(-5, d[3], d[5]));
  }
};

// The same on codes, sixteen at a time: integers up to 100 * 255, which int16 and f32 hold exactly.
struct InputLineOfCodes {
  static constexpr int from = 6, to = 6;
  QT_INLINE static void apply(const I16x16 (&d)[6], I16x16 (&v)[6]) {
    const I16x16 even1 = d[4] - d[2] * 4, odd1 = d[3] - d[1] * 4;
    const I16x16 even2 = d[4] - d[2], odd2 = (d[3] - d[1]) * 2;
    v[0] = even1 - d[2] + d[0] * 4;
    v[1] = even1 + odd1;
    v[2] = even1 - odd1;
    v[3] = even2 + odd2;
    v[4] = even2 - odd2;
    v[5] = d[5] - d[3] * 5 + d[1] * 4;
  }
};

struct OutputLine {  // A^T m
  static constexpr int from = 6, to = 4;
  QT_INLINE static void apply(const F32x8 (&m)[6], F32x8 (&y)[4]) {
    const F32x8 sum1 = m[1] + m[2], difference1 = m[1] - m[2];
    const F32x8 sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    y[0] = m[0] + (sum1 + sum2);
    y[1] = fused(2, difference2, difference1);
    y[2] = fused(4, sum2, sum1);
    y[3] = m[5] + fused(8, difference2, difference1);
  }
};

struct OutputGradientLine {  // A dy, the adjoint of OutputLine
  static constexpr int from = 4, to = 6;
  QT_INLINE static void apply(const F32x8 (&dy)[4], F32x8 (&m)[6]) {
    const F32x8 even1 = dy[0] + dy[2], odd1 = dy[1] + dy[3];
    const F32x8 even2 = fused(4, dy[2], dy[0]), odd2 = all_lanes(2) * fused(4, dy[3], dy[1]);
    m[0] = dy[0];
    m[1] = even1 + odd1;
    m[2] = even1 - odd1;
    m[3] = even2 + odd2;
    m[4] = even2 - odd2;
    m[5] = dy[3];
  }
};

struct WeightLine {  // G g
  static constexpr int from = 3, to = 6;
  QT_INLINE static void apply(const F32x8 (&g)[3], F32x8 (&u)[6]) {
    const F32x8 even1 = all_lanes(-1 / 6.0f) * (g[0] + g[2]), odd1 = all_lanes(1 / 6.0f) * g[1];
    const F32x8 even2 = all_lanes(1 / 24.0f) * fused(4, g[2], g[0]);
    const F32x8 odd2 = all_lanes(1 / 12.0f) * g[1];
    u[0] = all_lanes(0.25f) * g[0];
    u[1] = even1 - odd1;
    u[2] = even1 + odd1;
    u[3] = even2 + odd2;
    u[4] = even2 - odd2;
    u[5] = g[2];
  }
};

struct WeightGradientLine {  // G^T du, the adjoint of WeightLine
  static constexpr int from = 6, to = 3;
  QT_INLINE static void apply(const F32x8 (&u)[6], F32x8 (&g)[3]) {
    const F32x8 sum1 = u[1] + u[2], difference1 = u[2] - u[1];
    const F32x8 sum2 = u[3] + u[4], difference2 = u[3] - u[4];
    g[0] = fused(0.25f, u[0], fused(-1 / 6.0f, sum1, all_lanes(1 / 24.0f) * sum2));
    g[1] = fused(1 / 6.0f, difference1, all_lanes(1 / 12.0f) * difference2);
    g[2] = u[5] + fused(-1 / 6.0f, sum1, all_lanes(1 / 6.0f) * sum2);
  }
};

// ---- F(2x2, 3x3) on codes, exact: 16 products for 36. G is doubled, so that u holds integers and
// y comes out four times too large ----
struct SmallInputLine {  // B^T d; |v| grows by 2, by 4 in both directions
  static constexpr int from = 4, to = 4;
  QT_INLINE static void apply(const I16x16 (&d)[4], I16x16 (&v)[4]) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[1] - d[3];
  }
};

struct SmallWeightLine {  // 2 G g; |u| grows by 3, by 9 in both directions
  static constexpr int from = 3, to = 4;
  QT_INLINE static void apply(const I16x16 (&g)[3], I16x16 (&u)[4]) {
    const I16x16 even = g[0] + g[2];
    u[0] = g[0] + g[0];
    u[1] = even + g[1];
    u[2] = even - g[1];
    u[3] = g[2] + g[2];
  }
};

struct SmallOutputLine {  // A^T m, modulo 2^32: only the result must fit
  static constexpr int from = 4, to = 2;
  QT_INLINE static void apply(const U32x8 (&m)[4], U32x8 (&y)[2]) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) - m[3];
  }
};

// ---- F(4x4, 3x3) on codes, exact: 36 products for 144 ----
//
// Interpolation points 0, 1, -1, 2, 1/2, infinity. The usual ones (+2 and -2 instead of 2 and 1/2)
// have the denominators 4, 6 and 24: eight times an odd number in each direction, so that of a sum
// modulo 2^32 only 26 bits would survive. Here the six points fall into the three residue classes
// of the projective line modulo 2, two into each, and points of a class differ by two times an odd
// number: the denominators are 2 and 18 at most. With integer B and G, A comes out 18 times too
// large, y 18^2 = 4 * 81 times.
struct LargeInputLine {  // B^T d
  static constexpr int from = 6, to = 6;
  QT_INLINE static void apply(const I16x16 (&d)[6], I16x16 (&v)[6]) {
    const I16x16 p = d[1] - d[3], q = d[4] - d[2];
    v[0] = (d[4] - d[0]) * 2 + p * 5;
    v[1] = (d[1] + d[4]) * 2 - (d[2] + d[3]) * 3;
    v[2] = (d[4] - d[1]) * 2 + (d[2] - d[3]) * 7;
    v[3] = p + q * 2;
    v[4] = p * 2 + q;
    v[5] = (d[5] - d[1]) * 2 - q * 5;
  }
};

struct LargeWeightLine {  // G g; |u| grows by 7, by 49 in both directions
  static constexpr int from = 3, to = 6;
  QT_INLINE static void apply(const I16x16 (&g)[3], I16x16 (&u)[6]) {
    const I16x16 even = g[0] + g[2];
    u[0] = g[0];
    u[1] = even + g[1];
    u[2] = even - g[1];
    u[3] = g[0] + g[1] * 2 + g[2] * 4;
    u[4] = g[0] * 4 + g[1] * 2 + g[2];
    u[5] = g[2];
  }
};

struct LargeOutputLine {  // 18 A^T m, modulo 2^32
  static constexpr int from = 6, to = 4;
  QT_INLINE static void apply(const U32x8 (&m)[6], U32x8 (&y)[4]) {
    const U32x8 m1 = (m[1] << 3) + m[1];
    const U32x8 even = m[2] - m1, odd = m[2] + m1;
    const U32x8 m3 = m[3] + m[3], m4 = m[4] + m[4];
    y[0] = (even + m[3]) + ((m4 << 2) - ((m[0] << 3) + m[0]));
    y[1] = (m3 + (m4 << 1)) - odd;
    y[2] = even + ((m3 << 1) + m4);
    y[3] = ((m3 << 2) + m[4]) + (((m[5] << 3) + m[5]) - odd);
  }
};

// out [to][to] = Line applied to the columns of in(row, column), then to the rows of the result.
template <class Line, class Register, class In, class Out>
QT_INLINE void in_both_directions(const In& in, const Out& out) {
  Register half[Line::to][Line::from];
#pragma GCC unroll 6
  for (int column = 0; column < Line::from; ++column) {
    Register from[Line::from], to[Line::to];
#pragma GCC unroll 6
    for (int row = 0; row < Line::from; ++row) from[row] = in(row, column);
    Line::apply(from, to);
#pragma GCC unroll 6
    for (int row = 0; row < Line::to; ++row) half[row][column] = to[row];
  }
#pragma GCC unroll 6
  for (int row = 0; row < Line::to; ++row) {
    Register to[Line::to];
    Line::apply(half[row], to);
#pragma GCC unroll 6
    for (int column = 0; column < Line::to; ++column) out(row, column, to[column]);
  }
}

}  // namespace qt::winograd
