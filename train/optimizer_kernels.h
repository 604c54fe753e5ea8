// train/optimizer_kernels.h -- the passes of optimizers over whole tensors.
#pragma once
#include <cstdint>
#include <vector>

#include "core/tensor/tensor.h"

namespace qt {

struct SgdCoefficients {
  float momentum, weight_decay;
  bool nesterov;
};

struct SgdArguments {
  Tensor w, gradient, velocity;  // f32 of one shape; an undefined velocity stands for zeros
  Tensor lr;                     // f32 [1]
  SgdCoefficients by;
};
struct SgdResult {
  Tensor w, velocity;
};

// PyTorch's SGD: g += decay w; v = momentum v + g; w -= lr (nesterov ? g + momentum v : v), for
// each of the list.
std::vector<SgdResult> sgd_update(const std::vector<SgdArguments>& list);

// max(w, floor) of each, and how many elements of all that changed, f32 [1]. NaN stays.
struct Lifting {
  Tensor w;
  float floor;
};
struct Lifted {
  std::vector<Tensor> w;
  Tensor count;
};
Lifted lift_to_floor(const std::vector<Lifting>& list);

bool all_finite(const Tensor& x);  // f32

}  // namespace qt
