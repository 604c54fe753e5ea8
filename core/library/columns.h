// core/library/columns.h -- convolutions as matrix products: the windows of an image written
// out as rows, and the way back.
#pragma once
#include <cstdint>

#include "core/library/library.h"

namespace qt {

// Elements of T in 16 bytes, what one thread writes at a time.
template <class T>
constexpr int64_t packet_size = int64_t(16 / sizeof(T));

constexpr int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The windows of `images` images, each a row of one matrix per group: [groups][rows][width], row =
// output pixel, column = (r * s) * depth + channel of the group, depth = c / groups; zeros after
// the last.
struct ColumnShape {
  Conv2dShape conv;
  int64_t images = 0;
  int64_t width = 0;  // at least products(), a multiple of packet_size

  int64_t depth() const { return conv.c / conv.groups; }
  int64_t products() const { return conv.r * conv.s * depth(); }
  int64_t rows() const { return images * conv.out_h() * conv.out_w(); }
  int64_t elements() const { return conv.groups * rows() * width; }
};

// Enqueued on current_stream(). x: the first of `images` images, NHWC; `columns` and `dx` in the
// same memory as x. Where x is u8 and columns are i8, columns hold x - 128, also where x is padding
// (-128 stands for 0).
template <class From, class To>
void write_columns(const ColumnShape& shape, const From* x, To* columns);

// dx [images, h, w, c]: each element the sum of the columns it was written to, taps in row-major
// order. columns: f32.
void add_columns(const ColumnShape& shape, const float* columns, float* dx);

// ---- weights of integer products ----
// How codes reach int8: as they are, or u8 codes as 2 * upper + lower.
enum class CodePart { all, upper, lower };
// w [k, products] -> packed i8 [groups][per_group][width], zeros where there is no weight.
struct PackedWeights {
  int64_t groups = 1, per_group = 0, products = 0;  // as they come: k = groups * per_group
  int64_t padded_per_group = 0, width = 0;
};
template <class Code>
void pack_weights(const PackedWeights& shape, const Code* w, CodePart part, int8_t* packed);
// offsets[k] = 128 * sum of w[k], int32: what x - 128 instead of x leaves out of a sum.
template <class Code>
void weight_offsets(int64_t k, int64_t products, const Code* w, int32_t* offsets);

// ---- results of integer products ----
// y[row, k] = float(sum), rounded once, from sums [groups][rows][padded_per_group]; sum = sums, or
// 2 * sums + lower where there is a lower half, plus offsets[k] where there are any.
struct IntegerSums {
  int64_t rows = 0, groups = 1, per_group = 0, padded_per_group = 0;
  const int32_t *sums = nullptr, *lower = nullptr, *offsets = nullptr;
};
void sums_to_floats(const IntegerSums& sums, float* y);

}  // namespace qt
