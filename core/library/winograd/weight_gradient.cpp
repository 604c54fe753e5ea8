// core/library/winograd/weight_gradient.cpp -- the gradient of the weights by the adjoint of
// F(4x4, 3x3).
//
//   dw = G^T [ sum over tiles of (A dy A^T) * (B^T d B) ] G
//
// The sum is 36 products [k, tiles] x [tiles, c], made for a chunk of tiles at a time.
#include "core/library/avx2/products.h"
#include "core/library/winograd/tiles.h"
#include "core/library/winograd/transforms.h"
#include "core/library/winograd/winograd.h"

namespace qt::winograd {
namespace {

// Tiles that are transformed before they are multiplied: twice as many as for images, because the
// sums are written again for each chunk.
constexpr int64_t chunk = 2 * tiles_at_a_time;
// Sums of up to this many bytes are kept several times, one for each part of the tiles, so that
// threads work apart; the number of parts is fixed, so the bits do not depend on the threads.
constexpr int64_t own_sums_bytes = 640 << 10, most_parts = 16;

template <class X, class Y>
struct Problem {
  Pictures<X> x;
  Pictures<Y> dy;
  TileGrid grid;
  int64_t padding;
  int64_t v_point() const { return chunk * x.channels + line<float>; }
  int64_t m_point() const { return chunk * dy.channels + line<float>; }
};

// Transformed inputs v [36][chunk][c] and gradients m [36][chunk][k].
struct Scratch {
  float *v, *m;
};

template <class X, class Y>
void transform_tile(const Problem<X, Y>& p, const Tile& tile, int64_t slot, const Scratch& to) {
  const X* pixels[float_side][float_side];
  for (int row = 0; row < float_side; ++row)
    for (int column = 0; column < float_side; ++column)
      pixels[row][column] =
          p.x.pixel(tile.n, tile.h + row - p.padding, tile.w + column - p.padding);
  float* v = to.v + slot * p.x.channels;
  if constexpr (std::is_same_v<X, float>) {
    for (int64_t c = 0; c < p.x.channels; c += 8)
      in_both_directions<InputLine, F32x8>(
          [&](int row, int column) { return load_floats(pixels[row][column] + c); },
          [&](int row, int column, F32x8 value) {
            store(v + (row * float_side + column) * p.v_point() + c, value);
          });
  } else {
    for (int64_t c = 0; c < p.x.channels; c += 16)
      in_both_directions<InputLineOfCodes, I16x16>(
          [&](int row, int column) { return load_shorts(pixels[row][column] + c); },
          [&](int row, int column, I16x16 value) {
            store_floats(v + (row * float_side + column) * p.v_point() + c, value);
          });
  }

  const Y* gradients[float_tile][float_tile];
  for (int row = 0; row < float_tile; ++row)
    for (int column = 0; column < float_tile; ++column)
      gradients[row][column] = p.dy.pixel(tile.n, tile.h + row, tile.w + column);
  float* m = to.m + slot * p.dy.channels;
  for (int64_t k = 0; k < p.dy.channels; k += 8)
    in_both_directions<OutputGradientLine, F32x8>(
        [&](int row, int column) { return load_floats(gradients[row][column] + k); },
        [&](int row, int column, F32x8 value) {
          store(m + (row * float_side + column) * p.m_point() + k, value);
        });
}

// sums [k, c] of one transform point (+)= m^T v over the first `tiles` of the chunk.
template <class X, class Y>
void add_products(const Problem<X, Y>& p, int64_t point, int64_t tiles, const Scratch& from,
                  bool add, float* sums) {
  const int64_t c = p.x.channels, k = p.dy.channels;
  const Strided<float> m{from.m + point * p.m_point(), 1, k};
  const float* v = from.v + point * p.v_point();
  float* to = sums + point * k * c;
  if (add)
    multiply<true>(k, m, v, c, panel, tiles, to, c);
  else
    multiply<false>(k, m, v, c, panel, tiles, to, c);
}

// Threads work on parts of the tiles, each with its own sums [part][36][k][c].
template <class X, class Y>
void sum_apart(const Problem<X, Y>& p, int64_t parts, Tensor& sums) {
  const int64_t tiles = p.grid.tiles(), per_part = (tiles + parts - 1) / parts;
  const int64_t of_part = float_points * p.x.channels * p.dy.channels;
  const Tensor v = Tensor::empty({workers(), float_points * p.v_point()}, DType::f32);
  const Tensor m = Tensor::empty({workers(), float_points * p.m_point()}, DType::f32);
  parallel_for(parts, [&](int64_t part, int worker) {
    const Scratch scratch{static_cast<float*>(v.raw()) + worker * v.dim(1),
                          static_cast<float*>(m.raw()) + worker * m.dim(1)};
    float* to = sums.data<float>() + part * of_part;
    const int64_t first = part * per_part, last = std::min(first + per_part, tiles);
    if (first >= last) std::fill(to, to + of_part, 0.0f);
    for (int64_t t = first; t < last; t += chunk) {
      const int64_t count = std::min(chunk, last - t);
      for (int64_t i = 0; i < count; ++i) transform_tile(p, p.grid.tile(t + i), i, scratch);
      for (int64_t point = 0; point < float_points; ++point)
        add_products(p, point, count, scratch, t > first, to);
    }
  });
}

// Threads share each chunk and have transform points of their own.
template <class X, class Y>
void sum_together(const Problem<X, Y>& p, Tensor& sums) {
  const int64_t tiles = p.grid.tiles();
  Tensor v = Tensor::empty({float_points, p.v_point()}, DType::f32);
  Tensor m = Tensor::empty({float_points, p.m_point()}, DType::f32);
  const Scratch scratch{v.data<float>(), m.data<float>()};
  for (int64_t t = 0; t < tiles; t += chunk) {
    const int64_t count = std::min(chunk, tiles - t);
    parallel_for(count, [&](int64_t i, int) { transform_tile(p, p.grid.tile(t + i), i, scratch); });
    parallel_for(float_points, [&](int64_t point, int) {
      add_products(p, point, count, scratch, t > 0, sums.data<float>());
    });
  }
}

// dw [k, 3, 3, c] = G^T (sum of the parts) G.
Tensor transform_sums(const Tensor& sums, int64_t k, int64_t c) {
  Tensor dw = Tensor::empty({k, 3, 3, c}, DType::f32);
  const int64_t parts = sums.dim(0), point = k * c, part = float_points * point;
  parallel_for(k, [&](int64_t row_of_w, int) {
    const float* from = sums.data<float>() + row_of_w * c;
    float* to = dw.data<float>() + row_of_w * 9 * c;
    for (int64_t channel = 0; channel < c; channel += 8)
      in_both_directions<WeightGradientLine, F32x8>(
          [&](int row, int column) {
            const float* p = from + (row * float_side + column) * point + channel;
            F32x8 sum = load_floats(p);
            for (int64_t i = 1; i < parts; ++i) sum += load_floats(p + i * part);
            return sum;
          },
          [&](int row, int column, F32x8 value) {
            store(to + (row * 3 + column) * c + channel, value);
          });
  });
  return dw;
}

template <class X, class Y>
Tensor weight_gradient(const X* x, const Y* dy, const Conv2dShape& shape) {
  const Tensor zeros = Tensor::zeros({std::max(shape.c, shape.k)}, DType::f32);
  const Problem<X, Y> p{
      .x = {x, shape.h, shape.w, shape.c, static_cast<const X*>(zeros.raw())},
      .dy = {dy, shape.out_h(), shape.out_w(), shape.k, static_cast<const Y*>(zeros.raw())},
      .grid = {shape.n, shape.out_h(), shape.out_w(), float_tile},
      .padding = shape.padding};
  const int64_t elements = float_points * shape.k * shape.c;
  const bool apart = elements * int64_t(sizeof(float)) <= own_sums_bytes;
  const int64_t parts = apart ? std::clamp<int64_t>(p.grid.tiles() / chunk, 1, most_parts) : 1;
  Tensor sums = Tensor::empty({parts, elements}, DType::f32);
  if (apart)
    sum_apart(p, parts, sums);
  else
    sum_together(p, sums);
  return transform_sums(sums, shape.k, shape.c);
}

template <class X>
Tensor weight_gradient(const Tensor& x, const Tensor& dy, const Conv2dShape& shape) {
  return dy.dtype() == DType::bf16 ? weight_gradient(x.data<X>(), dy.data<BFloat16>(), shape)
                                   : weight_gradient(x.data<X>(), dy.data<float>(), shape);
}

}  // namespace

Tensor conv2d_backward_weights(const Tensor& x, const Tensor& dy, const Conv2dShape& shape) {
  if (x.dtype() == DType::u8) return weight_gradient<uint8_t>(x, dy, shape);
  if (x.dtype() == DType::i8) return weight_gradient<int8_t>(x, dy, shape);
  return weight_gradient<float>(x, dy, shape);
}

}  // namespace qt::winograd
