// core/library/exact_float.cpp -- products of codes through float convolutions, exact in any order
// of summation.
//
// A float holds every integer below 2^24, so a float sum is exact, whatever its order, while max|x|
// * sum|w| < 2^24 for each output channel. Where that fails, the input channels are cut into parts
// that satisfy it; the parts are added in int32 and rounded to float once, as the integer kernels
// do.
#include <cstdlib>
#include <utility>
#include <vector>

#include "core/library/arguments.h"
#include "core/library/library.h"
#include "core/library/plain.h"

namespace qt {
namespace {

constexpr int64_t exact_limit = int64_t(1) << 24;

// Input channels [first, last) of every group.
struct Part {
  int64_t first = 0, last = 0;
};

// sums[k * depth + c]: sum of |w| over the taps of one input channel.
template <class Code>
std::vector<int64_t> magnitudes(const Code* w, const Conv2dShape& shape) {
  const int64_t depth = shape.c / shape.groups, taps = shape.r * shape.s;
  std::vector<int64_t> sums(size_t(shape.k * depth), 0);
  for (int64_t k = 0; k < shape.k; ++k)
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t c = 0; c < depth; ++c) sums[size_t(k * depth + c)] += std::abs(int(*w++));
  return sums;
}

// The fewest parts that each satisfy the bound; none where a single channel does not.
std::vector<Part> split(const Tensor& w, const Conv2dShape& shape, int64_t x_magnitude) {
  const int64_t depth = shape.c / shape.groups;
  const auto sums = w.dtype() == DType::i8 ? magnitudes(w.data<int8_t>(), shape)
                                           : magnitudes(w.data<uint8_t>(), shape);
  std::vector<int64_t> running(size_t(shape.k), 0);
  std::vector<Part> parts{{0, depth}};
  for (int64_t c = 0; c < depth; ++c) {
    bool fits = true, fits_alone = true;
    for (int64_t k = 0; k < shape.k; ++k) {
      const int64_t more = sums[size_t(k * depth + c)];
      fits_alone &= more * x_magnitude < exact_limit;
      fits &= (running[size_t(k)] + more) * x_magnitude < exact_limit;
    }
    if (!fits_alone) return {};
    if (!fits) {
      parts.back().last = c;
      parts.push_back({c, depth});
      running.assign(running.size(), 0);
    }
    for (int64_t k = 0; k < shape.k; ++k) running[size_t(k)] += sums[size_t(k * depth + c)];
  }
  return parts;
}

// Channels [first, last) of each of `groups` groups of the last axis.
Tensor channels_of(const Tensor& t, int64_t groups, const Part& part) {
  const int64_t depth = t.channels() / groups, width = part.last - part.first;
  auto extents = t.shape().vector();
  extents.back() = groups * width;
  Tensor chosen = Tensor::empty(Shape(extents), DType::f32);
  const float* from = t.data<float>() + part.first;
  float* to = chosen.data<float>();
  for (int64_t i = 0; i < t.rows() * groups; ++i, from += depth, to += width)
    for (int64_t c = 0; c < width; ++c) to[c] = from[c];
  return chosen;
}

// product(part), f32 of this shape, added over all parts.
template <class Product>
Tensor sum_of(const std::vector<Part>& parts, const Shape& shape, Product product) {
  std::vector<int32_t> sums(size_t(shape.elements()), 0);
  for (const Part& part : parts) {
    const Tensor of_part = product(part);
    const float* from = of_part.data<float>();
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += int32_t(from[i]);
  }
  Tensor y = Tensor::empty(shape, DType::f32);
  float* to = y.data<float>();
  for (size_t i = 0; i < sums.size(); ++i) to[i] = float(sums[i]);
  return y;
}

void note(const Library& library, const std::string& operation, size_t parts,
          const Conv2dShape& shape) {
  if (!LibraryTrace::active()) return;
  const std::string kernel =
      parts == 0 ? "plain loops" : "integer-valued floats in " + std::to_string(parts) + " parts";
  LibraryTrace::note({library.name(), operation, kernel, parts == 0 ? "s32" : "f32", shape.text()});
}

}  // namespace

Tensor Library::exact_float_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) {
  const auto parts = split(w, shape, code_range("conv2d_codes' x", x).magnitude());
  note(*this, "conv2d_codes", parts.size(), shape);
  if (parts.empty()) return plain_conv2d_codes(x, w, shape);
  const Tensor x_float = to_float(x), w_float = to_float(w);
  if (parts.size() == 1) return direct_conv2d(x_float, w_float, shape);

  return sum_of(parts, shape.y_shape(), [&](const Part& part) {
    Conv2dShape of_part = shape;
    of_part.c = shape.groups * (part.last - part.first);
    return direct_conv2d(channels_of(x_float, shape.groups, part), channels_of(w_float, 1, part),
                         of_part);
  });
}

Tensor Library::exact_float_linear(const Tensor& x, const Tensor& w) {
  const Conv2dShape shape = linear_as_conv2d(x, w);
  const auto parts = split(w, shape, code_range("linear_codes' x", x).magnitude());
  note(*this, "linear_codes", parts.size(), shape);
  const Tensor x_float = to_float(x), w_float = to_float(w);
  if (parts.size() == 1) return matmul(x_float, false, w_float, true);

  return sum_of(parts, {x.dim(0), w.dim(0)}, [&](const Part& part) {
    return matmul(channels_of(x_float, 1, part), false, channels_of(w_float, 1, part), true);
  });
}

}  // namespace qt
