// quant/norm_act.h -- normalize + residual + activation + quantize as one op: the only memory pass
// between two convolutions. The arithmetic is that of the integer program (docs/numerics.md).
#pragma once
#include "core/autograd/tape.h"
#include "quant/fold.h"
#include "quant/quantizer.h"

namespace qt {

// Batch normalization's parameters and running statistics (real units), all f32 [C].
struct BatchNormState {
  Parameter gamma, beta;
  Tensor running_mean, running_var;  // running_var: unbiased, as PyTorch's
  float momentum = 0.1f, eps = 1e-5f;
  bool frozen = false;  // running statistics are used in training too, and not updated
};

// v = ((y * live + b) * m) + residual * r, every step rounded to f32; code = clamp(rint(v), lo,
// hi). The constants are those of quant/fold.h; r is residual_ratio where the residual carries a
// step, 1 / step where it is real.
struct NormAct {
  std::string name;                // for messages
  Var y;                           // [n, h, w, C] raw sums with scale [C], or real f32
  BatchNormState* norm = nullptr;  // nullptr: y is taken as it is (codes or reals), b = 0
  Var residual;                    // undefined, codes of y's shape with a scale, or real f32
  bool relu = true;
};

// The form without codes: real outputs, f32 (float training, calibration, `none`).
Var norm_act_real(const NormAct& args, const Pass& pass);

}  // namespace qt
