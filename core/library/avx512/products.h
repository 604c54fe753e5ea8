// core/library/avx512/products.h -- the matrix products of core/library/avx2/products.h in
// registers of sixteen columns: the same sums in the same order, so the same bits.
//
// products.cpp alone is compiled for AVX512. What it includes holds no inline function that other
// files use too: the linker could take that file's.
#pragma once
#include <cstdint>

namespace qt::avx512 {

// c [rows, columns] = a b, or += with add: a [rows, depth] with rows a_row and columns a_column
// apart, b in panels of 16 columns b_panel apart, rows b_row apart. Needs AVX512F.
void multiply(int64_t rows, const float* a, int64_t a_row, int64_t a_column, const float* b,
              int64_t b_row, int64_t b_panel, int64_t depth, float* c, int64_t columns, bool add);

// c [rows, columns] = a [rows, depth] b, depth even; b as panels [columns / 16][depth / 2][16][2].
// Sums wrap. Needs AVX512_VNNI.
void multiply(int64_t rows, const int16_t* a, const int16_t* b, int64_t depth, int32_t* c,
              int64_t columns);

}  // namespace qt::avx512
