// core/library/winograd/codes.cpp -- F(2x2, 3x3) on integer codes, exact.
//
// Transformed codes are at most 4 * 255 and transformed weights at most 9 * 128, so both fit int16
// and the sum of two products fits int32. Sums over channels wrap modulo 2^32, which the last
// transform undoes: it gives four times the wanted sum, exact wherever that fits int32.
#include "core/library/arguments.h"
#include "core/library/avx2/products.h"
#include "core/library/winograd/tiles.h"
#include "core/library/winograd/transforms.h"
#include "core/library/winograd/winograd.h"

namespace qt::winograd {
namespace {

// w [k, 3, 3, c] transformed into panels [16][k / 16][c / 2][16][2]. A register holds eight pairs
// of input channels of one output channel; eight such are transposed as 32-bit lanes.
Tensor transform_weights(const int8_t* w, int64_t c, int64_t k) {
  Tensor panels = Tensor::empty({code_points, k * c * 2}, DType::u8);
  auto* to = static_cast<int16_t*>(panels.raw());
  parallel_for(k / 8, [&](int64_t group, int) {
    for (int64_t channel = 0; channel < c; channel += 16) {
      F32x8 lines[code_points][8];
      for (int64_t i = 0; i < 8; ++i) {
        const int8_t* taps = w + (group * 8 + i) * 9 * c + channel;
        in_both_directions<CodeWeightLine, I16x16>(
            [&](int row, int column) { return load_shorts(taps + (row * 3 + column) * c); },
            [&](int row, int column, I16x16 v) { lines[row * code_side + column][i] = F32x8(v); });
      }
      for (int64_t point = 0; point < code_points; ++point) {
        transpose(lines[point]);
        int16_t* first =
            to + point * k * c + group / 2 * panel * c + channel * panel + group % 2 * panel;
        for (int64_t pair = 0; pair < 8; ++pair)
          store(first + pair * 2 * panel, I16x16(lines[point][pair]));
      }
    }
  });
  return panels;
}

template <class Code>
void transform_input(const Pictures<Code>& x, const Tile& tile, int64_t padding, int16_t* v,
                     int64_t v_point) {
  const Code* pixels[code_side][code_side];
  for (int row = 0; row < code_side; ++row)
    for (int column = 0; column < code_side; ++column)
      pixels[row][column] = x.pixel(tile.n, tile.h + row - padding, tile.w + column - padding);
  for (int64_t c = 0; c < x.channels; c += 16)
    in_both_directions<CodeInputLine, I16x16>(
        [&](int row, int column) { return load_shorts(pixels[row][column] + c); },
        [&](int row, int column, I16x16 value) {
          store(v + (row * code_side + column) * v_point + c, value);
        });
}

void transform_output(const int32_t* m, int64_t m_point, const TileGrid& grid, const Tile& tile,
                      int64_t channels, float* y) {
  float* first = y + ((tile.n * grid.height + tile.h) * grid.width + tile.w) * channels;
  const int64_t rows = grid.height - tile.h, columns = grid.width - tile.w;
  for (int64_t k = 0; k < channels; k += 8)
    in_both_directions<CodeOutputLine, U32x8>(
        [&](int row, int column) {
          return load_words(m + (row * code_side + column) * m_point + k);
        },
        [&](int row, int column, U32x8 value) {
          if (row < rows && column < columns)
            store(first + (row * grid.width + column) * channels + k, quarter(value));
        });
}

template <class Code>
Tensor convolve(const Code* x, const Tensor& w, const Conv2dShape& shape) {
  const int64_t c = shape.c, k = shape.k;
  const TileGrid grid{shape.n, shape.out_h(), shape.out_w(), code_tile};
  const Tensor weights = transform_weights(w.data<int8_t>(), c, k);
  const auto* panels = static_cast<const int16_t*>(weights.raw());
  Tensor y = Tensor::empty(shape.y_shape(), DType::f32);
  const Tensor zeros = Tensor::zeros({c}, DType::u8);
  const Pictures<Code> pictures{x, shape.h, shape.w, c, static_cast<const Code*>(zeros.raw())};

  const auto plan =
      BlockPlan::of(grid.tiles(), code_points * 2 * c * k, code_points * (2 * c + 4 * k));
  const int64_t v_point = plan.block * c + line<int16_t>;
  const int64_t m_point = plan.block * k + line<int32_t>;
  float* to = y.data<float>();
  const Tensor transformed = Tensor::empty({plan.slots(), code_points, v_point * 2}, DType::u8);
  const Tensor products = Tensor::empty({plan.slots(), code_points, m_point}, DType::i32);
  const auto v = [&](const Block& block) {
    return static_cast<int16_t*>(transformed.raw()) + block.worker * code_points * v_point;
  };
  const auto m = [&](const Block& block) {
    return static_cast<int32_t*>(products.raw()) + block.worker * code_points * m_point;
  };
  run_blocks(
      plan, code_points,
      [&](const Block& block, int64_t t) {
        transform_input(pictures, grid.tile(block.first + t), shape.padding, v(block) + t * c,
                        v_point);
      },
      [&](const Block& block, int64_t point) {
        multiply(block.tiles, v(block) + point * v_point, panels + point * k * c, c,
                 m(block) + point * m_point, k);
      },
      [&](const Block& block, int64_t t) {
        transform_output(m(block) + t * k, m_point, grid, grid.tile(block.first + t), k, to);
      });
  return y;
}

}  // namespace

bool stays_exact(const Conv2dShape& shape, int64_t x_magnitude, int64_t w_magnitude) {
  return 9 * shape.c * x_magnitude * w_magnitude < int64_t(1) << 29;
}

Tensor conv2d_codes(const Tensor& x, const Tensor& w, const Conv2dShape& shape) {
  return x.dtype() == DType::u8 ? convolve(x.data<uint8_t>(), w, shape)
                                : convolve(x.data<int8_t>(), w, shape);
}

}  // namespace qt::winograd
