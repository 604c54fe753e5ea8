// quant/rules.h -- the arithmetic of codes: pure structs that the fused op is a template over. The
// plain quantizer is UniformCode's.
#pragma once
#include <cmath>

#include "core/tensor/dtype.h"

namespace qt {

// A rule maps v, the value in units of the step, to a code (or, for reals, to itself within
// bounds), and says what its gradient is:
//   code(v)           the number stored
//   passes(v)         whether the gradient goes through to v (straight-through estimate)
//   step_gradient(v)  d(code * step) / d step, by the rule's own estimate; with what passes() said,
//                     where v is no longer exact
// Comparisons, not fminf and fmaxf: they vectorize, and they fix what a NaN becomes (lo).

// Uniform codes lo..hi; the step gradient is LSQ's (Esser et al. 2020, eq. 3), and so is what
// passes unless other bounds are given (eq. 5): what is not clipped.
struct UniformCode {
  static constexpr bool codes = true;
  float lo, hi;
  float above, below;  // what lies between them passes
  QT_HD UniformCode(float lo, float hi) : UniformCode(lo, hi, lo, hi) {}
  QT_HD UniformCode(float lo, float hi, float above, float below)
      : lo(lo), hi(hi), above(above), below(below) {}
  QT_HD float code(float v) const {
    v = v > lo ? v : lo;
    v = v < hi ? v : hi;
    return rintf(v);
  }
  QT_HD bool passes(float v) const { return v > above && v < below; }
  QT_HD float step_gradient(float v) const {
    const float inside = rintf(v) - v, up_to_hi = v > lo ? inside : lo;
    return v < hi ? up_to_hi : hi;
  }
  QT_HD float step_gradient(float v, bool passes) const {
    const float inside = rintf(v) - v, outside = v > 0.5f * (lo + hi) ? hi : lo;
    return passes ? inside : outside;
  }
};

// Real numbers kept within bounds: [0, inf] is ReLU.
struct Bounded {
  static constexpr bool codes = false;
  float lo, hi;
  QT_HD float code(float v) const {
    v = v > lo ? v : lo;
    return v < hi ? v : hi;
  }
  QT_HD bool passes(float v) const { return v > lo && v < hi; }
  QT_HD float step_gradient(float) const { return 0.0f; }
  QT_HD float step_gradient(float, bool) const { return 0.0f; }
};

}  // namespace qt
