// tests/support/tensors.h -- tensors with known contents, and comparisons that say where they
// differ.
#pragma once
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/autograd/gradcheck.h"
#include "core/library/library.h"

namespace qt {

// f32 in [-scale, scale].
inline Tensor floats(const Shape& shape, uint64_t seed, float scale = 1) {
  Tensor t = weights_for(shape, seed);
  for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] *= scale;
  return t;
}

// f32 that keep `margin` from each multiple of `spacing` (the kinks of activations).
inline Tensor floats_between(const Shape& shape, uint64_t seed, float scale, float spacing,
                             float margin) {
  Tensor t = floats(shape, seed, scale);
  for (int64_t i = 0; i < t.elements(); ++i) {
    float& x = t.data<float>()[i];
    const float nearest = std::round(x / spacing) * spacing;
    if (std::abs(x - nearest) < margin) x = nearest + (x < nearest ? -margin : margin);
  }
  return t;
}

// f32 that differ from each other by at least 0.05: a pooling window has one clear winner.
inline Tensor distinct_floats(const Shape& shape) {
  Tensor t = Tensor::empty(shape, DType::f32);
  for (int64_t i = 0; i < t.elements(); ++i)
    t.data<float>()[i] = float((i * 7919 + 13) % 10007) * 0.05f - 250.0f;
  return t;
}

// i8 codes of [lo, hi] that stay `inside` off its ends, with a step of 0.25 for all, or one per
// first-axis channel.
inline Tensor codes(const Shape& shape, uint64_t seed, int lo, int hi, bool per_channel = false,
                    int inside = 1) {
  const Tensor u = weights_for(shape, seed);
  Tensor t = Tensor::empty(shape, DType::i8);
  const float middle = float(lo + hi) / 2, reach = float(hi - lo) / 2 - float(inside);
  for (int64_t i = 0; i < t.elements(); ++i)
    t.data<int8_t>()[i] = int8_t(std::lround(middle + reach * u.data<float>()[i]));
  Tensor step = Tensor::full({per_channel ? shape[0] : 1}, 0.25f);
  for (int64_t i = 0; i < step.elements(); ++i) step.data<float>()[i] /= float(1 + i % 3);
  return t.with_scale(step, lo, hi);
}

inline std::vector<double> doubles(const Tensor& x) {
  const Tensor f = to_float(x);
  return {f.data<float>(), f.data<float>() + f.elements()};
}

// "" where every number is within tolerance * (largest wanted magnitude); NaN never is.
inline std::string difference_of(const std::vector<double>& got, const std::vector<double>& wanted,
                                 double tolerance) {
  if (got.size() != wanted.size())
    return std::to_string(got.size()) + " numbers instead of " + std::to_string(wanted.size());
  double largest = 0;
  for (double w : wanted) largest = std::max(largest, std::abs(w));
  for (size_t i = 0; i < got.size(); ++i)
    if (!(std::abs(got[i] - wanted[i]) <= tolerance * largest))
      return "element " + std::to_string(i) + " is " + std::to_string(got[i]) + ", wanted " +
             std::to_string(wanted[i]) + " (largest magnitude " + std::to_string(largest) + ")";
  return "";
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

}  // namespace qt
