// deploy/requantize_kernels.cpp -- kernel file: the program's element-wise passes and pools through
// the launchers.
#include "deploy/requantize_kernels.h"

#include <algorithm>
#include <vector>

#include "core/kernel/launch.h"
#include "deploy/requantize.h"

namespace qt {
namespace {

UniformCode range_of(const CodeTarget& target) { return {float(target.lo), float(target.hi)}; }

struct Number {
  QT_HD Values<1> operator()(int8_t q) const { return {{float(q)}}; }
};

}  // namespace

void look_up_codes(const Tensor& images, const Tensor& table, CodeTarget target) {
  map(current_stream(), images.rows(), images.channels(), SameCode{},
      lookup(images.data<uint8_t>(), table.data<int8_t>(), images.channels()),
      out(target.codes.data<int8_t>()));
}

void requantize(const Tensor& sums, const Tensor& m, const Tensor& b, const Tensor& residual,
                float residual_ratio, CodeTarget target) {
  const auto acc = in(sums.data<float>());
  const auto b_of = per_channel(b.data<float>()), m_of = per_channel(m.data<float>());
  const auto codes = out(target.codes.data<int8_t>());
  if (residual.defined())
    map(current_stream(), sums.rows(), sums.channels(),
        RequantizeResidual{range_of(target), residual_ratio}, acc, b_of, m_of,
        in(residual.data<int8_t>()), codes);
  else
    map(current_stream(), sums.rows(), sums.channels(), Requantize{range_of(target)}, acc, b_of,
        m_of, codes);
}

namespace {

// Constants of pixels that lie side by side, so that few channels are no short loops.
constexpr int64_t constants_side_by_side = 64;

std::vector<float> side_by_side(const Tensor& t, int64_t times) {
  std::vector<float> all;
  for (int64_t i = 0; i < times; ++i)
    all.insert(all.end(), t.data<float>(), t.data<float>() + t.elements());
  return all;
}

}  // namespace

TakeSums requantize_into(const Tensor& m, const Tensor& b, const Tensor& residual,
                         float residual_ratio, CodeTarget target) {
  const int64_t k = target.codes.channels();
  const int64_t joined = std::max<int64_t>(1, constants_side_by_side / k);
  const int8_t* skip = residual.defined() ? residual.data<int8_t>() : nullptr;
  int8_t* codes = target.codes.data<int8_t>();
  const UniformCode range = range_of(target);
  return [=, all_m = side_by_side(m, joined), all_b = side_by_side(b, joined)](const CodeSums& s) {
    const int64_t pixels_at_once = s.channels == k ? joined : 1;
    for (int64_t p = 0; p < s.pixels; p += pixels_at_once) {
      const int64_t first = (s.pixel + p) * k + s.channel;
      const int64_t count = std::min(pixels_at_once, s.pixels - p) * s.channels;
      const auto acc = in(s.sums + p * s.channels);
      const auto b_of = in(all_b.data() + s.channel), m_of = in(all_m.data() + s.channel);
      if (skip)
        map_row(count, RequantizeResidual{range, residual_ratio}, acc, b_of, m_of, in(skip + first),
                out(codes + first));
      else
        map_row(count, Requantize{range}, acc, b_of, m_of, out(codes + first));
    }
  };
}

void add_codes(const Tensor& a, const Tensor& b, float m, float r, CodeTarget target) {
  map(current_stream(), a.rows(), a.channels(), AddCodes{range_of(target), m, r},
      in(a.data<int8_t>()), in(b.data<int8_t>()), out(target.codes.data<int8_t>()));
}

void max_pool_codes(const Tensor& x, int64_t kernel, int64_t stride, int64_t padding,
                    CodeTarget target) {
  const WindowShape shape{
      x.dim(0), x.dim(1), x.dim(2), x.dim(3), target.codes.dim(1), target.codes.dim(2),
      kernel,   stride,   padding};
  fold_windows(current_stream(), shape, GreatestCode{}, x.data<int8_t>(),
               out(target.codes.data<int8_t>()));
}

void average_pool_codes(const Tensor& x, float multiplier, CodeTarget target) {
  const int64_t n = x.dim(0), c = x.dim(3), pixels = x.dim(1) * x.dim(2);
  Tensor sums = Tensor::empty({n, c}, DType::f32);
  if (pixels <= (1 << 24) / 128) {  // exact in f32: one window over each image
    const WindowShape shape{n, x.dim(1), x.dim(2), c, 1, 1, std::max(x.dim(1), x.dim(2)), 1, 0};
    fold_windows(current_stream(), shape, SumOfCodes{}, x.data<int8_t>(), out(sums.data<float>()));
  } else {
    // A chunk's sum of at most 128 codes fits f32, chunks are merged in double and rounded once.
    for (int64_t i = 0; i < n; ++i)
      sum_columns<1>(current_stream(), pixels, c, Number{}, sums.data<float>() + i * c,
                     in(x.data<int8_t>() + i * pixels * c));
  }
  map(current_stream(), n, c, RequantizeSum{range_of(target), multiplier}, in(sums.data<float>()),
      out(target.codes.data<int8_t>()));
}

Tensor logits_of(const Tensor& sums, const Tensor& m, const Tensor& bias) {
  Tensor logits = Tensor::empty(sums.shape(), DType::f32);
  map(current_stream(), sums.rows(), sums.channels(), Logit{}, in(sums.data<float>()),
      per_channel(m.data<float>()), per_channel(bias.data<float>()), out(logits.data<float>()));
  return logits;
}

}  // namespace qt
