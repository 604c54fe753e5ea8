// train/optimizer_kernels.h -- the passes of optimizers over whole tensors.
#pragma once
#include <cstdint>

#include "core/tensor/tensor.h"

namespace qt {

struct SgdCoefficients {
  float lr, momentum, weight_decay;
  bool nesterov;
};

struct SgdResult {
  Tensor w, velocity;
};

// PyTorch's SGD: g += decay w; v = momentum v + g; w -= lr (nesterov ? g + momentum v : v). All f32
// of one shape; an undefined velocity stands for zeros.
SgdResult sgd_update(const Tensor& w, const Tensor& gradient, const Tensor& velocity,
                     const SgdCoefficients& by);

// max(w, floor), and how many elements that changed. NaN stays.
Tensor lift_to_floor(const Tensor& w, float floor, int64_t& lifted);

bool all_finite(const Tensor& x);  // f32

}  // namespace qt
