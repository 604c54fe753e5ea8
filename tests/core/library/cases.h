// tests/core/library/cases.h -- the convolutions and code tensors that every compute library is
// tested on.
#pragma once
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "core/library/arguments.h"
#include "core/library/library.h"

namespace qt {

inline std::vector<Conv2dShape> convolution_cases() {
  return {
      {.n = 1, .h = 1, .w = 1, .c = 1, .k = 1},
      {.n = 3, .h = 1, .w = 1, .c = 17, .k = 5},
      {.n = 2, .h = 8, .w = 8, .c = 16, .k = 32},
      {.n = 1, .h = 7, .w = 5, .c = 33, .k = 17, .stride = 2},
      {.n = 2, .h = 9, .w = 9, .c = 64, .k = 64, .stride = 3},
      {.n = 2, .h = 8, .w = 8, .c = 1, .k = 3, .r = 3, .s = 3, .padding = 1},
      {.n = 2, .h = 10, .w = 12, .c = 3, .k = 16, .r = 3, .s = 3, .padding = 1},
      {.n = 2, .h = 8, .w = 8, .c = 16, .k = 16, .r = 3, .s = 3, .padding = 1},
      {.n = 2, .h = 9, .w = 7, .c = 17, .k = 33, .r = 3, .s = 3, .stride = 2, .padding = 1},
      {.n = 1, .h = 8, .w = 8, .c = 64, .k = 32, .r = 3, .s = 3, .stride = 2, .padding = 1},
      {.n = 1, .h = 1, .w = 1, .c = 32, .k = 32, .r = 3, .s = 3, .padding = 1},
      {.n = 1, .h = 11, .w = 11, .c = 5, .k = 8, .r = 3, .s = 3, .padding = 2, .dilation = 2},
      {.n = 1,
       .h = 11,
       .w = 9,
       .c = 16,
       .k = 16,
       .r = 3,
       .s = 3,
       .stride = 2,
       .padding = 2,
       .dilation = 2},
      {.n = 1, .h = 9, .w = 9, .c = 16, .k = 16, .r = 5, .s = 5, .padding = 2},
      {.n = 1, .h = 12, .w = 12, .c = 33, .k = 3, .r = 5, .s = 5, .stride = 3},
      {.n = 2, .h = 23, .w = 21, .c = 3, .k = 64, .r = 7, .s = 7, .stride = 2, .padding = 3},
      {.n = 2, .h = 6, .w = 8, .c = 8, .k = 16, .r = 1, .s = 3, .padding = 0},
      {.n = 2, .h = 8, .w = 8, .c = 32, .k = 32, .r = 3, .s = 3, .padding = 1, .groups = 32},
      {.n = 1,
       .h = 8,
       .w = 8,
       .c = 17,
       .k = 17,
       .r = 3,
       .s = 3,
       .stride = 2,
       .padding = 1,
       .groups = 17},
      {.n = 1, .h = 8, .w = 8, .c = 5, .k = 10, .r = 3, .s = 3, .padding = 1, .groups = 5},
      {.n = 2, .h = 8, .w = 8, .c = 32, .k = 32, .r = 3, .s = 3, .padding = 1, .groups = 2},
      {.n = 1, .h = 7, .w = 7, .c = 6, .k = 10, .r = 3, .s = 3, .padding = 1, .groups = 2},
      {.n = 1, .h = 7, .w = 7, .c = 12, .k = 8, .groups = 4},
      {.n = 1, .h = 4, .w = 4, .c = 512, .k = 24, .r = 3, .s = 3, .padding = 1},
  };
}

inline Tensor random_floats(const Shape& shape, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  Tensor t = Tensor::empty(shape, DType::f32);
  for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] = uniform(generator);
  return t;
}

enum class Fill { all_high, all_low, alternating, ends, uniform };
inline std::vector<Fill> all_fills() {
  return {Fill::all_high, Fill::all_low, Fill::alternating, Fill::ends, Fill::uniform};
}

// Codes of a range, in i8 where they fit and u8 where not.
inline Tensor codes_of(const Shape& shape, const CodeRange& range, Fill fill, unsigned seed = 1) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int> uniform(range.lo, range.hi);
  Tensor t = Tensor::empty(shape, range.hi > 127 ? DType::u8 : DType::i8);
  for (int64_t i = 0; i < t.elements(); ++i) {
    int code = 0;
    switch (fill) {
      case Fill::all_high: code = range.hi; break;
      case Fill::all_low: code = range.lo; break;
      case Fill::alternating: code = i % 2 ? range.lo : range.hi; break;
      case Fill::ends: code = generator() & 1024 ? range.lo : range.hi; break;
      case Fill::uniform: code = uniform(generator); break;
    }
    static_cast<uint8_t*>(t.raw())[i] = uint8_t(code);
  }
  return t.with_scale(Tensor::full({1}, 0.5f), range.lo, range.hi);
}

// Largest difference as a share of the largest magnitude of `wanted`; infinite where a number is
// not finite.
inline double relative_error(const Tensor& got, const Tensor& wanted) {
  double largest = 1e-30, difference = 0;
  for (int64_t i = 0; i < wanted.elements(); ++i) {
    const double g = got.data<float>()[i], w = wanted.data<float>()[i];
    if (!std::isfinite(g)) return INFINITY;
    largest = std::max(largest, std::abs(w));
    difference = std::max(difference, std::abs(g - w));
  }
  return difference / largest;
}

inline int64_t count_differences(const Tensor& got, const Tensor& wanted) {
  if (!(got.shape() == wanted.shape())) return -1;
  int64_t count = 0;
  for (int64_t i = 0; i < wanted.elements(); ++i)
    count += got.data<float>()[i] != wanted.data<float>()[i];
  return count;
}

}  // namespace qt
