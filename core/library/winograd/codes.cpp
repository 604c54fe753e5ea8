// core/library/winograd/codes.cpp -- F(2x2, 3x3) and F(4x4, 3x3) on integer codes, exact.
//
// Transformed codes and weights are integers that fit int16 (fits() below), a sum of two products
// fits int32. Sums over channels and the output transform are taken modulo 2^32, where addition and
// multiplication keep their laws: what comes out is scale * y modulo 2^32, however often partial
// sums wrapped. The scale is 4 for F(2x2), 4 * 81 for F(4x4). 81 is odd, so it has an inverse
// modulo 2^32, and multiplying by it leaves 4 y modulo 2^32. A factor 4 has none, but where |4 y| <
// 2^31 the number with this remainder in -2^31 .. 2^31 - 1 is 4 y itself, and an arithmetic shift
// divides it exactly. |y| <= 9 c max|x| max|w|, hence the bound of stays_exact().
#include <algorithm>

#include "core/library/arguments.h"
#include "core/library/avx2/products.h"
#include "core/library/code_convolution.h"
#include "core/library/winograd/tiles.h"
#include "core/library/winograd/transforms.h"
#include "core/library/winograd/winograd.h"

namespace qt::winograd {
namespace {

struct SmallTiles {
  using Input = SmallInputLine;
  using Weight = SmallWeightLine;
  using Output = SmallOutputLine;
  static constexpr int tile = 2, side = 4, points = side * side;
  QT_INLINE static U32x8 divided(U32x8 y) { return quarter(y); }
};

struct LargeTiles {
  using Input = LargeInputLine;
  using Weight = LargeWeightLine;
  using Output = LargeOutputLine;
  static constexpr int tile = 4, side = 6, points = side * side;
  static constexpr uint32_t inverse_of_81 = 0x781948b1;
  static_assert(inverse_of_81 * 81u == 1u);
  QT_INLINE static U32x8 divided(U32x8 y) { return quarter(y * inverse_of_81); }
};

// Output channels whose sums are handed on together: four pixels' stay in the first cache.
constexpr int64_t channels_at_a_time = 64;

// Of a block that all threads share: less than for floats, since the transformed weights beside it
// must not raise the memory that training needs.
constexpr int64_t scratch = 8 << 20;

// w [k, 3, 3, c] transformed into panels [points][k / 16][c / 2][16][2]. A register holds eight
// pairs of input channels of one output channel; eight such are transposed as 32-bit lanes.
template <class Form>
Tensor transform_weights(const int8_t* w, int64_t c, int64_t k) {
  Tensor panels = Tensor::empty({Form::points, k * c * 2}, DType::u8);
  auto* to = static_cast<int16_t*>(panels.raw());
  parallel_for(k / 8, [&](int64_t group, int) {
    for (int64_t channel = 0; channel < c; channel += 16) {
      F32x8 lines[Form::points][8];
      for (int64_t i = 0; i < 8; ++i) {
        const int8_t* taps = w + (group * 8 + i) * 9 * c + channel;
        in_both_directions<typename Form::Weight, I16x16>(
            [&](int row, int column) { return load_shorts(taps + (row * 3 + column) * c); },
            [&](int row, int column, I16x16 v) { lines[row * Form::side + column][i] = F32x8(v); });
      }
      for (int64_t point = 0; point < Form::points; ++point) {
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

template <class Form, class Code>
void transform_input(const Pictures<Code>& x, const Tile& tile, int64_t padding, int16_t* v,
                     int64_t v_point) {
  const Code* pixels[Form::side][Form::side];
  for (int row = 0; row < Form::side; ++row)
    for (int column = 0; column < Form::side; ++column)
      pixels[row][column] = x.pixel(tile.n, tile.h + row - padding, tile.w + column - padding);
  for (int64_t c = 0; c < x.channels; c += 16)
    in_both_directions<typename Form::Input, I16x16>(
        [&](int row, int column) { return load_shorts(pixels[row][column] + c); },
        [&](int row, int column, I16x16 value) {
          store(v + (row * Form::side + column) * v_point + c, value);
        });
}

template <class Form>
void transform_output(const int32_t* m, int64_t m_point, const TileGrid& grid, const Tile& tile,
                      int64_t channels, const TakeSums& take) {
  alignas(32) int32_t sums[Form::tile][Form::tile * channels_at_a_time];
  const int64_t rows = std::min<int64_t>(Form::tile, grid.height - tile.h);
  const int64_t columns = std::min<int64_t>(Form::tile, grid.width - tile.w);
  const int64_t first = (tile.n * grid.height + tile.h) * grid.width + tile.w;
  for (int64_t channel = 0; channel < channels; channel += channels_at_a_time) {
    const int64_t wide = std::min(channels_at_a_time, channels - channel);
    for (int64_t k = 0; k < wide; k += 8)
      in_both_directions<typename Form::Output, U32x8>(
          [&](int row, int column) {
            return load_words(m + (row * Form::side + column) * m_point + channel + k);
          },
          [&](int row, int column, U32x8 value) {
            store(sums[row] + column * wide + k, Form::divided(value));
          });
    for (int64_t row = 0; row < rows; ++row)
      take({sums[row], first + row * grid.width, columns, channel, wide});
  }
}

template <class Form, class Code>
void convolve(const Code* x, const Tensor& weights, const Conv2dShape& shape,
              const TakeSums& take) {
  const int64_t c = shape.c, k = shape.k;
  const TileGrid grid{shape.n, shape.out_h(), shape.out_w(), Form::tile};
  const auto* panels = static_cast<const int16_t*>(weights.raw());
  const Tensor zeros = Tensor::zeros({c}, DType::u8);
  const Pictures<Code> pictures{x, shape.h, shape.w, c, static_cast<const Code*>(zeros.raw())};

  const auto plan = BlockPlan::of(grid.tiles(), Form::points * 2 * c * k,
                                  Form::points * (2 * c + 4 * k), scratch);
  const int64_t v_point = plan.block * c + line<int16_t>;
  const int64_t m_point = plan.block * k + line<int32_t>;
  const Tensor transformed = Tensor::empty({plan.slots(), Form::points, v_point * 2}, DType::u8);
  const Tensor products = Tensor::empty({plan.slots(), Form::points, m_point}, DType::i32);
  const auto v = [&](const Block& block) {
    return static_cast<int16_t*>(transformed.raw()) + block.worker * Form::points * v_point;
  };
  const auto m = [&](const Block& block) {
    return static_cast<int32_t*>(products.raw()) + block.worker * Form::points * m_point;
  };
  run_blocks(
      plan, Form::points,
      [&](const Block& block, int64_t t) {
        transform_input<Form>(pictures, grid.tile(block.first + t), shape.padding, v(block) + t * c,
                              v_point);
      },
      [&](const Block& block, int64_t point) {
        multiply(block.tiles, v(block) + point * v_point, panels + point * k * c, c,
                 m(block) + point * m_point, k);
      },
      [&](const Block& block, int64_t t) {
        transform_output<Form>(m(block) + t * k, m_point, grid, grid.tile(block.first + t), k,
                               take);
      });
}

template <class Form>
class Convolution final : public CodeConvolution {
 public:
  Convolution(const Tensor& w, const Conv2dShape& shape)
      : CodeConvolution(shape, {"winograd", kernel_name(Form::tile), "s16s16s32"}),
        weights_(transform_weights<Form>(w.data<int8_t>(), shape.c, shape.k)) {}

 protected:
  void compute(const int8_t* x, const Conv2dShape& shape, const TakeSums& take) const override {
    convolve<Form>(x, weights_, shape, take);
  }
  void compute(const uint8_t* x, const Conv2dShape& shape, const TakeSums& take) const override {
    convolve<Form>(x, weights_, shape, take);
  }

 private:
  Tensor weights_;
};

}  // namespace

bool stays_exact(const Conv2dShape& shape, int64_t x_magnitude, int64_t w_magnitude) {
  return 9 * shape.c * x_magnitude * w_magnitude < int64_t(1) << 29;
}

// In both directions a transformed code is at most 2 * 2 codes for F(2x2). For F(4x4) the largest
// line, that of the point -1, adds 9 codes and subtracts 9: in both directions 9 * 9 + 9 * 9 are
// added and as many subtracted. Padding is code 0.
bool fits(int64_t tile, const CodeRange& x, const CodeRange& w) {
  if (w.lo < -128 || w.hi > 127) return false;
  return tile == 2 || 162 * (std::max(x.hi, 0) - std::min(x.lo, 0)) <= INT16_MAX;
}

std::unique_ptr<CodeConvolution> prepare_codes(const Tensor& w, const Conv2dShape& shape,
                                               int64_t tile) {
  if (tile == 2) return std::make_unique<Convolution<SmallTiles>>(w, shape);
  return std::make_unique<Convolution<LargeTiles>>(w, shape);
}

}  // namespace qt::winograd
