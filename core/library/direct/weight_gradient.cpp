// core/library/direct/weight_gradient.cpp -- the gradient of the weights: for each tap the product
// dy^T [k, pixels] x [pixels, c].
#include <algorithm>
#include <vector>

#include "core/kernel/parallel.h"
#include "core/library/avx2/pictures.h"
#include "core/library/avx2/products.h"
#include "core/library/direct/direct.h"

namespace qt::direct {
namespace {

using namespace avx2;

constexpr int64_t chunk = 1024;  // pixels that threads work on together
constexpr int64_t strip = 192;  // pixels whose rows are copied side by side, to fit the first cache
constexpr int64_t rows_at_a_time = 48;  // output channels that a thread takes

// The rows of both factors for a chunk of output pixels.
template <class T>
struct Chunk {
  std::vector<const float*> gradients;  // [pixels], k values each
  std::vector<const T*> inputs;         // [taps][pixels], c values each
  int64_t pixels = 0;
};

// What a thread multiplies at a time: gradients [strip][rows], inputs [strip][16].
struct Strips {
  alignas(64) float gradients[strip * rows_at_a_time], inputs[strip * panel];
};

template <class T>
void describe(const Pictures<T>& x, const float* dy, const Conv2dShape& s, int64_t first,
              Chunk<T>& to) {
  const int64_t out_h = s.out_h(), out_w = s.out_w();
  to.gradients.resize(size_t(to.pixels));
  to.inputs.resize(size_t(s.r * s.s * to.pixels));
  for (int64_t i = 0; i < to.pixels; ++i) {
    const int64_t p = first + i, n = p / out_w / out_h;
    const int64_t top = p / out_w % out_h * s.stride - s.padding;
    const int64_t left = p % out_w * s.stride - s.padding;
    to.gradients[size_t(i)] = dy + p * s.k;
    for (int64_t r = 0; r < s.r; ++r)
      for (int64_t q = 0; q < s.s; ++q)
        to.inputs[size_t((r * s.s + q) * to.pixels + i)] =
            x.pixel(n, top + r * s.dilation, left + q * s.dilation);
  }
}

// to [pixels][width] = from[pixel][first, first + width).
template <class T>
void copy_rows(const T* const* from, int64_t pixels, int64_t first, int64_t width, float* to) {
  for (int64_t p = 0; p < pixels; ++p, to += width)
    for (int64_t i = 0; i < width; i += 8) store(to + i, load_floats(from[p] + first + i));
}

// dw [rows][c], `dw_row` apart, (+)= the products of one tap over a strip of pixels.
template <class T>
void add_strip(const float* const* gradients, const T* const* inputs, int64_t pixels,
               int64_t first_k, int64_t rows, int64_t c, bool add, float* dw, int64_t dw_row,
               Strips& strips) {
  copy_rows(gradients, pixels, first_k, rows, strips.gradients);
  for (int64_t channel = 0; channel < c; channel += panel) {
    copy_rows(inputs, pixels, channel, panel, strips.inputs);
    in_row_groups(rows, [&](int64_t i, auto group) {
      const Strided<float> a{strips.gradients + i, 1, rows};
      float* to = dw + i * dw_row + channel;
      if (add)
        multiply_rows<group(), true>(a, strips.inputs, panel, pixels, to, dw_row);
      else
        multiply_rows<group(), false>(a, strips.inputs, panel, pixels, to, dw_row);
    });
  }
}

template <class T>
Tensor weight_gradient(const T* x, const float* dy, const Conv2dShape& s) {
  const Tensor zeros = Tensor::zeros({s.c}, DType::f32);
  const Pictures<T> pictures{x, s.h, s.w, s.c, static_cast<const T*>(zeros.raw())};
  Tensor dw = Tensor::empty(s.w_shape(), DType::f32);
  float* to = dw.data<float>();
  const int64_t pixels = s.n * s.out_h() * s.out_w(), taps = s.r * s.s;
  const int64_t groups = (s.k + rows_at_a_time - 1) / rows_at_a_time;
  std::vector<Strips> strips(static_cast<size_t>(workers()));
  Chunk<T> part;
  for (int64_t first = 0; first < pixels; first += chunk) {
    part.pixels = std::min(chunk, pixels - first);
    describe(pictures, dy, s, first, part);
    parallel_for(taps * groups, [&](int64_t unit, int worker) {
      const int64_t tap = unit % taps, k = unit / taps * rows_at_a_time;
      for (int64_t p = 0; p < part.pixels; p += strip)
        add_strip(part.gradients.data() + p, part.inputs.data() + tap * part.pixels + p,
                  std::min(strip, part.pixels - p), k, std::min(rows_at_a_time, s.k - k), s.c,
                  first + p > 0, to + (k * taps + tap) * s.c, taps * s.c, strips[size_t(worker)]);
    });
  }
  return dw;
}

}  // namespace

Tensor conv2d_backward_weights(const Tensor& x, const Tensor& dy, const Conv2dShape& s) {
  const float* gradient = dy.data<float>();
  if (x.dtype() == DType::u8) return weight_gradient(x.data<uint8_t>(), gradient, s);
  if (x.dtype() == DType::i8) return weight_gradient(x.data<int8_t>(), gradient, s);
  return weight_gradient(x.data<float>(), gradient, s);
}

}  // namespace qt::direct
