// core/library/winograd/images.cpp -- F(4x4, 3x3) from images to images: the forward pass on real
// numbers, and the gradient of the input, which is a forward pass with turned weights.
#include "core/library/avx2/products.h"
#include "core/library/winograd/tiles.h"
#include "core/library/winograd/transforms.h"
#include "core/library/winograd/winograd.h"

namespace qt::winograd {
namespace {

// Transformed weights [36][columns / 16][depth][16]: for each transform point the right factor of
// the product, in panels.
struct Weights {
  Tensor panels;
  float* first;
  int64_t depth, columns;
  const float* point(int64_t i) const { return first + i * depth * columns; }
  float* at(int64_t point, int64_t d, int64_t column) {
    return first + point * depth * columns + column / panel * panel * depth + d * panel +
           column % panel;
  }
};

Weights empty_weights(int64_t depth, int64_t columns) {
  Tensor panels = Tensor::empty({float_points, depth, columns}, DType::f32);
  return {panels, panels.data<float>(), depth, columns};
}

// w [k, 3, 3, c] as the factor from c to k channels. Eight output channels at a time are transposed
// on their way into the panels.
Weights forward_weights(const Tensor& w, int64_t c, int64_t k) {
  Weights to = empty_weights(c, k);
  const float* from = w.data<float>();
  parallel_for(k / 8, [&](int64_t group, int) {
    for (int64_t channel = 0; channel < c; channel += 8) {
      F32x8 lines[float_points][8];  // [point][output channel], eight input channels in a register
      for (int64_t i = 0; i < 8; ++i) {
        const float* taps = from + (group * 8 + i) * 9 * c + channel;
        in_both_directions<WeightLine, F32x8>(
            [&](int row, int column) { return load_floats(taps + (row * 3 + column) * c); },
            [&](int row, int column, F32x8 v) { lines[row * float_side + column][i] = v; });
      }
      for (int point = 0; point < float_points; ++point) {
        transpose(lines[point]);
        for (int64_t i = 0; i < 8; ++i)
          store(to.at(point, channel + i, group * 8), lines[point][i]);
      }
    }
  });
  return to;
}

// The factor from k back to c channels: taps turned by half a turn. Input channels lie side by side
// in memory already.
Weights backward_weights(const Tensor& w, int64_t c, int64_t k) {
  Weights to = empty_weights(k, c);
  const float* from = w.data<float>();
  parallel_for(k, [&](int64_t d, int) {
    const float* taps = from + d * 9 * c;
    for (int64_t channel = 0; channel < c; channel += 8)
      in_both_directions<WeightLine, F32x8>(
          [&](int row, int column) {
            return load_floats(taps + (8 - (row * 3 + column)) * c + channel);
          },
          [&](int row, int column, F32x8 v) {
            store(to.at(row * float_side + column, d, channel), v);
          });
  });
  return to;
}

// B^T d B of one tile; v_point apart for each transform point.
template <class T>
void transform_input(const Pictures<T>& x, const Tile& tile, int64_t padding, float* v,
                     int64_t v_point) {
  const T* pixels[float_side][float_side];
  for (int row = 0; row < float_side; ++row)
    for (int column = 0; column < float_side; ++column)
      pixels[row][column] = x.pixel(tile.n, tile.h + row - padding, tile.w + column - padding);
  for (int64_t c = 0; c < x.channels; c += 8)
    in_both_directions<InputLine, F32x8>(
        [&](int row, int column) { return load_floats(pixels[row][column] + c); },
        [&](int row, int column, F32x8 value) {
          store(v + (row * float_side + column) * v_point + c, value);
        });
}

// A^T m A of one tile, without what lies outside the picture.
void transform_output(const float* m, int64_t m_point, const TileGrid& grid, const Tile& tile,
                      int64_t channels, float* y) {
  float* first = y + ((tile.n * grid.height + tile.h) * grid.width + tile.w) * channels;
  const int64_t rows = grid.height - tile.h, columns = grid.width - tile.w;
  for (int64_t k = 0; k < channels; k += 8)
    in_both_directions<OutputLine, F32x8>(
        [&](int row, int column) {
          return load_floats(m + (row * float_side + column) * m_point + k);
        },
        [&](int row, int column, F32x8 value) {
          if (row < rows && column < columns)
            store(first + (row * grid.width + column) * channels + k, value);
        });
}

// y [n, height, width, columns] of x [n, h, w, depth], of type T.
template <class T>
Tensor convolve(const Tensor& x, const Weights& weights, int64_t padding) {
  const int64_t n = x.dim(0), h = x.dim(1), w = x.dim(2);
  const int64_t depth = weights.depth, columns = weights.columns;
  const TileGrid grid{n, h + 2 * padding - 2, w + 2 * padding - 2, float_tile};
  Tensor y = Tensor::empty({n, grid.height, grid.width, columns}, DType::f32);
  const Tensor zeros = Tensor::zeros({depth}, x.dtype());
  const Pictures<T> pictures{x.data<T>(), h, w, depth, zeros.data<T>()};

  constexpr int64_t bytes = float_points * sizeof(float);
  const auto plan = BlockPlan::of(grid.tiles(), bytes * depth * columns, bytes * (depth + columns));
  const int64_t v_point = plan.block * depth + line<float>;
  const int64_t m_point = plan.block * columns + line<float>;
  float* to = y.data<float>();
  const Tensor transformed = Tensor::empty({plan.slots(), float_points, v_point}, DType::f32);
  const Tensor products = Tensor::empty({plan.slots(), float_points, m_point}, DType::f32);
  const auto v = [&](const Block& block) {
    return static_cast<float*>(transformed.raw()) + block.worker * float_points * v_point;
  };
  const auto m = [&](const Block& block) {
    return static_cast<float*>(products.raw()) + block.worker * float_points * m_point;
  };
  run_blocks(
      plan, float_points,
      [&](const Block& block, int64_t t) {
        transform_input(pictures, grid.tile(block.first + t), padding, v(block) + t * depth,
                        v_point);
      },
      [&](const Block& block, int64_t point) {
        multiply<false>(block.tiles, {v(block) + point * v_point, depth, 1}, weights.point(point),
                        panel, depth * panel, depth, m(block) + point * m_point, columns);
      },
      [&](const Block& block, int64_t t) {
        transform_output(m(block) + t * columns, m_point, grid, grid.tile(block.first + t), columns,
                         to);
      });
  return y;
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) {
  return convolve<float>(x, forward_weights(w, shape.c, shape.k), shape.padding);
}

Tensor conv2d_backward_data(const Tensor& dy, const Tensor& w, const Conv2dShape& shape) {
  const Weights weights = backward_weights(to_float(w), shape.c, shape.k);
  const int64_t padding = 2 - shape.padding;
  return dy.dtype() == DType::bf16 ? convolve<BFloat16>(dy, weights, padding)
                                   : convolve<float>(dy, weights, padding);
}

}  // namespace qt::winograd
