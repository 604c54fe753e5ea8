// core/library/direct/images.cpp -- from images to images: the forward pass and the gradient of the
// input.
//
// An output pixel is a sum over taps of an input pixel [depth] times the tap's weights [depth,
// columns]. Six output pixels at a time keep their sums in registers over all taps.
#include <algorithm>
#include <vector>

#include "core/kernel/parallel.h"
#include "core/library/avx2/pictures.h"
#include "core/library/avx2/products.h"
#include "core/library/direct/direct.h"

namespace qt::direct {
namespace {

using namespace avx2;

// The weights of each tap as panels [columns / 16][depth][16].
struct Weights {
  Tensor panels;
  int64_t taps, depth, columns;
  float* of_tap(int64_t tap) const {
    return static_cast<float*>(panels.raw()) + tap * depth * columns;
  }
};

Weights empty_weights(int64_t taps, int64_t depth, int64_t columns) {
  return {Tensor::empty({taps, depth, columns}, DType::f32), taps, depth, columns};
}

// w [k, taps, c] as factors from c to k channels; eight by eight weights are transposed.
Weights forward_weights(const Tensor& w, const Conv2dShape& s) {
  const int64_t taps = s.r * s.s, c = s.c;
  const Weights to = empty_weights(taps, c, s.k);
  const float* from = w.data<float>();
  parallel_for(s.k / 8, [&](int64_t group, int) {
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t channel = 0; channel < c; channel += 8) {
        F32x8 lines[8];
        for (int64_t i = 0; i < 8; ++i)
          lines[i] = load_floats(from + ((group * 8 + i) * taps + tap) * c + channel);
        transpose(lines);
        float* first = to.of_tap(tap) + group / 2 * panel * c + channel * panel + group % 2 * 8;
        for (int64_t i = 0; i < 8; ++i) store(first + i * panel, lines[i]);
      }
  });
  return to;
}

// The factors from k back to c channels.
Weights backward_weights(const Tensor& w, const Conv2dShape& s) {
  const int64_t taps = s.r * s.s, c = s.c, k = s.k;
  const Weights to = empty_weights(taps, k, c);
  const float* from = w.data<float>();
  parallel_for(k, [&](int64_t d, int) {
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t channel = 0; channel < c; channel += panel) {
        const float* line = from + (d * taps + tap) * c + channel;
        float* first = to.of_tap(tap) + channel * k + d * panel;
        store(first, load_floats(line));
        store(first + 8, load_floats(line + 8));
      }
  });
  return to;
}

// Pixels that are sums over the same taps: results [i] = sum over t of sources [t * stride + i]
// times weights [t].
struct PixelBlock {
  std::vector<const float*> sources, weights;
  std::vector<float*> results;
  int64_t stride = 0;
};

template <int Rows>
QT_INLINE void multiply_pixels(const PixelBlock& block, int64_t first, int64_t depth,
                               int64_t column) {
  F32x8 left[Rows], right[Rows];
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) left[i] = right[i] = F32x8{};
  for (size_t tap = 0; tap < block.weights.size(); ++tap) {
    const float* const* sources = block.sources.data() + int64_t(tap) * block.stride + first;
    const float* row[Rows];
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) row[i] = sources[i];
    const float* b = block.weights[tap] + column * depth;
    for (int64_t d = 0; d < depth; ++d, b += panel) {
      const F32x8 b_left = load_floats(b), b_right = load_floats(b + 8);
#pragma GCC unroll 6
      for (int i = 0; i < Rows; ++i) {
        const F32x8 value = all_lanes(row[i][d]);
        left[i] = fused(value, b_left, left[i]);
        right[i] = fused(value, b_right, right[i]);
      }
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) {
    store(block.results[size_t(first + i)] + column, left[i]);
    store(block.results[size_t(first + i)] + column + 8, right[i]);
  }
}

void multiply_block(const PixelBlock& block, int64_t depth, int64_t columns) {
  for (int64_t column = 0; column < columns; column += panel)
    in_row_groups(int64_t(block.results.size()), [&](int64_t first, auto group) {
      multiply_pixels<group()>(block, first, depth, column);
    });
}

// Enough pixels to pay for reading a panel of weights that does not fit the first cache.
int64_t pixels_at_a_time(const Weights& w) {
  return w.taps * w.depth * w.columns * int64_t(sizeof(float)) > (512 << 10) ? 192 : 48;
}

// Fills a block for pixels [first, last) of `count` and multiplies it.
template <class Describe>
void in_blocks(int64_t pixels, const Weights& w, size_t taps, const Describe& describe) {
  const int64_t at_a_time = pixels_at_a_time(w);
  std::vector<PixelBlock> blocks(static_cast<size_t>(workers()));
  for (PixelBlock& block : blocks) {  // memory may run out here, but not between threads
    block.sources.reserve(taps * size_t(at_a_time));
    block.weights.reserve(taps);
    block.results.reserve(size_t(at_a_time));
  }
  parallel_for((pixels + at_a_time - 1) / at_a_time, [&](int64_t i, int worker) {
    const int64_t first = i * at_a_time, count = std::min(at_a_time, pixels - first);
    PixelBlock& block = blocks[size_t(worker)];
    block.stride = count;
    block.sources.resize(taps * size_t(count));
    block.weights.resize(taps);
    block.results.resize(size_t(count));
    describe(first, block);
    multiply_block(block, w.depth, w.columns);
  });
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& s) {
  const Tensor x_float = to_float(x), zeros = Tensor::zeros({s.c}, DType::f32);
  const Weights weights = forward_weights(to_float(w), s);
  Tensor y = Tensor::empty(s.y_shape(), DType::f32);
  float* to = y.data<float>();
  const Pictures<float> pictures{x_float.data<float>(), s.h, s.w, s.c, zeros.data<float>()};
  const int64_t out_h = s.out_h(), out_w = s.out_w();
  in_blocks(s.n * out_h * out_w, weights, size_t(weights.taps),
            [&](int64_t first, PixelBlock& block) {
              for (int64_t tap = 0; tap < weights.taps; ++tap)
                block.weights[size_t(tap)] = weights.of_tap(tap);
              for (int64_t i = 0; i < block.stride; ++i) {
                const int64_t p = first + i, n = p / out_w / out_h;
                const int64_t top = p / out_w % out_h * s.stride - s.padding;
                const int64_t left = p % out_w * s.stride - s.padding;
                block.results[size_t(i)] = to + p * s.k;
                for (int64_t r = 0; r < s.r; ++r)
                  for (int64_t q = 0; q < s.s; ++q)
                    block.sources[size_t((r * s.s + q) * block.stride + i)] =
                        pictures.pixel(n, top + r * s.dilation, left + q * s.dilation);
              }
            });
  return y;
}

namespace {

// The taps through which input rows (or columns) h with h % stride == residue reach outputs: output
// (h + padding - tap * dilation) / stride.
std::vector<int64_t> taps_of(int64_t residue, int64_t taps, const Conv2dShape& s) {
  std::vector<int64_t> chosen;
  for (int64_t tap = 0; tap < taps; ++tap)
    if ((residue + s.padding - tap * s.dilation) % s.stride == 0) chosen.push_back(tap);
  return chosen;
}

}  // namespace

// Input pixels are taken by their remainders modulo the stride: within a class all are sums over
// the same taps.
Tensor conv2d_backward_data(const Tensor& dy, const Tensor& w, const Conv2dShape& s) {
  const Tensor zeros = Tensor::zeros({s.k}, DType::f32);
  const Weights weights = backward_weights(to_float(w), s);
  Tensor dx = Tensor::empty(s.x_shape(), DType::f32);
  float* to = dx.data<float>();
  const Pictures<float> gradients{dy.data<float>(), s.out_h(), s.out_w(), s.k, zeros.data<float>()};
  for (int64_t top = 0; top < std::min(s.stride, s.h); ++top)
    for (int64_t left = 0; left < std::min(s.stride, s.w); ++left) {
      const auto rows = taps_of(top, s.r, s), columns = taps_of(left, s.s, s);
      const int64_t high = (s.h - top + s.stride - 1) / s.stride;
      const int64_t wide = (s.w - left + s.stride - 1) / s.stride;
      in_blocks(s.n * high * wide, weights, rows.size() * columns.size(),
                [&](int64_t first, PixelBlock& block) {
                  size_t tap = 0;
                  for (const int64_t r : rows)
                    for (const int64_t q : columns)
                      block.weights[tap++] = weights.of_tap(r * s.s + q);
                  for (int64_t i = 0; i < block.stride; ++i) {
                    const int64_t p = first + i, n = p / wide / high;
                    const int64_t h = p / wide % high * s.stride + top;
                    const int64_t v = p % wide * s.stride + left;
                    block.results[size_t(i)] = to + ((n * s.h + h) * s.w + v) * s.c;
                    tap = 0;
                    for (const int64_t r : rows)
                      for (const int64_t q : columns)
                        block.sources[tap++ * size_t(block.stride) + size_t(i)] =
                            gradients.pixel(n, (h + s.padding - r * s.dilation) / s.stride,
                                            (v + s.padding - q * s.dilation) / s.stride);
                  }
                });
    }
  return dx;
}

}  // namespace qt::direct
