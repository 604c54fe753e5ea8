// quant/fold.h -- the constants of the integer program: computed once in double, rounded to f32,
// the same on host and device.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/tensor/dtype.h"

namespace qt {

// Per-channel constants of v = (y * live + b) * m, with y raw sums whose real value is y * scale:
//   slope = gamma / sqrt(var + eps)
//   m = scale slope / step
//   b = (beta / slope - mean) / scale
// mean and var in real units. Where gamma = 0: live = 0, m = 1, b = beta / step.
struct FoldedConstants {
  float live, b, m;
};

QT_HD inline FoldedConstants fold_constants(double scale, double gamma, double beta, double mean,
                                            double var, double eps, double step) {
  const double slope = gamma / sqrt(var + eps);
  if (slope == 0) return {0.0f, float(beta / step), 1.0f};
  return {1.0f, float((beta / slope - mean) / scale), float(scale * slope / step)};
}

// r = residual_step / out_step rounded to f32, then to 16 significant bits (ties to even), so that
// code * r is exact for codes of 8 bits.
QT_HD inline float residual_ratio(double residual_step, double out_step) {
  const float ratio = float(residual_step / out_step);
  uint32_t bits;
  memcpy(&bits, &ratio, 4);
  bits = (bits + 0x7fu + ((bits >> 8) & 1u)) & ~0xffu;
  float rounded;
  memcpy(&rounded, &bits, 4);
  return rounded;
}

}  // namespace qt
