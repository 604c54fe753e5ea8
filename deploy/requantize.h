// deploy/requantize.h -- the arithmetic between accumulators and codes, as pure functors for the
// launchers.
#pragma once
#include "core/kernel/operands.h"
#include "core/tensor/dtype.h"
#include "quant/rules.h"

namespace qt {

// UniformCode clamps to lo..hi first and rounds then: with whole bounds that is clamp(rint(v), lo,
// hi).

// Conv without residual.
struct Requantize {
  UniformCode range;
  QT_HD float operator()(float acc, float b, float m) const {
    const float t = acc + b;
    return range.code(t * m);
  }
};

// Conv with residual codes q_r.
struct RequantizeResidual {
  UniformCode range;
  float r;
  QT_HD float operator()(float acc, float b, float m, int8_t q_r) const {
    const float t = acc + b;
    const float p = t * m;
    const float skip = float(q_r) * r;
    return range.code(p + skip);
  }
};

struct AddCodes {
  UniformCode range;
  float m, r;
  QT_HD float operator()(int8_t q_a, int8_t q_b) const {
    const float p = float(q_a) * m;
    const float skip = float(q_b) * r;
    return range.code(p + skip);
  }
};

struct RequantizeSum {
  UniformCode range;
  float multiplier;
  QT_HD float operator()(float sum) const { return range.code(sum * multiplier); }
};

struct Logit {
  QT_HD float operator()(float acc, float m, float bias) const {
    const float p = acc * m;
    return p + bias;
  }
};

// A code that needs no arithmetic.
struct SameCode {
  QT_HD float operator()(int8_t q) const { return float(q); }
};

// Maximum over a window, for fold_windows; the second number of the state is not used.
struct GreatestCode {
  QT_HD Values<2> start() const { return {{-128.0f, 0.0f}}; }
  QT_HD Values<2> operator()(Values<2> state, float q, float) const {
    return {{q > state.v[0] ? q : state.v[0], 0.0f}};
  }
  QT_HD Values<2> finish(Values<2> state) const { return state; }
};

// Sum over a window, exact while below 2^24.
struct SumOfCodes {
  QT_HD Values<2> start() const { return {{0.0f, 0.0f}}; }
  QT_HD Values<2> operator()(Values<2> sum, float q, float) const { return {{sum.v[0] + q, 0.0f}}; }
  QT_HD Values<2> finish(Values<2> sum) const { return sum; }
};

}  // namespace qt
