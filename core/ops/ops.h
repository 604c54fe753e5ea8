// core/ops/ops.h -- the differentiable operations. Each reads Vars, never writes to them, and
// records its backward.
#pragma once
#include "core/autograd/tape.h"
#include "core/library/library.h"

namespace qt {

struct ConvOptions {
  int64_t stride = 1, padding = 0, dilation = 1, groups = 1;
  CodePath path = CodePath::integer;   // for code tensors
  Precision forward = Precision::f32;  // of convolutions of real numbers
  Precision backward = Precision::f32;
};

// y [n, h', w', k] of x [n, h, w, c] and w [k, r, s, c / groups]. Two code tensors: raw integer
// sums as f32 that carry the scale [k] = x.step * w.step; otherwise f32.
Var conv2d(const Var& x, const Var& w, const ConvOptions& options);
// y [n, k] of x [n, c] and w [k, c]; scales as conv2d.
Var linear(const Var& x, const Var& w, const ConvOptions& options);
// f32 [C]: the scale of sums that carry one per channel, one for all, or none (1).
Tensor channel_scale(const Tensor& sums);
// y = x * scale[channel] + bias[channel]; real f32. x may carry a scale as above.
Var scale_bias(const Var& x, const Var& bias);

struct BatchNormOptions {
  bool training = true;
  float momentum = 0.1f, eps = 1e-5f;
};
// Over all but the last axis (Ioffe & Szegedy 2015). running_mean / running_var are replaced in
// training.
Var batch_norm(const Var& x, const Var& gamma, const Var& beta, Tensor& running_mean,
               Tensor& running_var, const BatchNormOptions& options);

Var relu(const Var& x);
Var relu6(const Var& x);
Var add(const Var& a, const Var& b);  // real f32 of one shape

struct PoolOptions {
  int64_t kernel = 2, stride = 2, padding = 0;
};
// Codes stay codes with the same scale; f32 stays f32. Padding never wins.
Var max_pool2d(const Var& x, const PoolOptions& options);
// f32; padding counts as zeros (count_include_pad, as PyTorch's default).
Var average_pool2d(const Var& x, const PoolOptions& options);
// [n, h, w, c] -> [n, 1, 1, c]. f32: the mean. Codes: exact sums as f32 that carry the scale step /
// (h w).
Var global_average_pool(const Var& x);
Var reshape(const Var& x, const Shape& shape);
// Mean over the batch of the cross entropy with labels i64 [n] smoothed by `smoothing` (Szegedy et
// al. 2016); f32 [1].
Var softmax_cross_entropy(const Var& logits, const Tensor& labels, float smoothing);

}  // namespace qt
