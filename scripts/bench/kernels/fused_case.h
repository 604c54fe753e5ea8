// scripts/bench/kernels/fused_case.h -- one unit's pass between two convolutions: its operands, and
// the bytes it has to move.
#pragma once
#include <functional>
#include <memory>

#include "quant/norm_act.h"
#include "quant/quantizer.h"
#include "tests/support/tensors.h"

namespace qt::bench {

struct FusedCase {
  Shape shape;
  bool quantized = true, residual = false;
  bool bf16 = false;  // gradients, as a GPU's step has them
  bool kept = false;  // 16 bits for backward

  std::string text() const {
    return "norm_act " + shape.text() + (quantized ? " codes" : " f32") +
           (residual ? " residual" : "");
  }
};

// Read for the statistics and to emit, and what is emitted and kept.
inline double forward_bytes(const FusedCase& c) {
  const double elements = double(c.shape.elements()), stored = c.quantized ? 1 : 4;
  return elements * (4 + 4 + stored + (c.kept ? 2 : 0) + (c.residual ? stored : 0));
}
// dout and y, or what was kept of it, read twice (and the residual, once where that says which
// gradients pass), dy (and the residual's gradient) written.
inline double backward_bytes(const FusedCase& c) {
  const double elements = double(c.shape.elements()), stored = c.quantized ? 1 : 4;
  const double gradient = c.bf16 ? 2 : 4, saved = c.kept ? 2 : 4;
  const double residual = c.residual ? stored * (c.kept ? 1 : 2) + gradient : 0;
  return elements * (2 * (gradient + saved) + residual + gradient);
}

// A unit's operands with all gradients wanted, as in training. Running statistics stay as they are.
class FusedOperands {
 public:
  // place(tensor) puts what was made on the host where the pass runs.
  using Place = std::function<Tensor(const Tensor&)>;
  explicit FusedOperands(
      const FusedCase& c, const Place& place = [](const Tensor& t) { return t; })
      : pass_{.mode = c.quantized ? ForwardMode::int8 : ForwardMode::float32,
              .training = true,
              .backward = c.bf16 ? Precision::bf16 : Precision::f32,
              .keep_16_bits = c.kept} {
    const int64_t channels = c.shape[3];
    Tensor real = floats(c.shape, 1, c.quantized ? 100 : 1);
    if (c.quantized) real = real.with_scale(Tensor::full({channels}, 0.01f), -(1 << 24), 1 << 24);
    y = Var(place(real), true);
    norm_.gamma.var = Var(place(Tensor::full({channels}, 1)), true);
    norm_.beta.var = Var(place(Tensor::full({channels}, 0)), true);
    norm_.running_mean = place(Tensor::full({channels}, 0));
    norm_.running_var = place(Tensor::full({channels}, 1));
    if (c.residual)
      residual = Var(place(c.quantized ? codes(c.shape, 2, 0, 127) : floats(c.shape, 2)), true);
    if (c.bf16) y.set_gradient_type(DType::bf16);
    if (c.bf16 && c.residual) residual.set_gradient_type(DType::bf16);
    if (!c.quantized) return;
    quantizer_ = make_quantizer({.is_signed = false}, 1);
    quantizer_->step()->set(place(Tensor::full({1}, 0.02f)));
  }
  Var run() {
    const NormAct args{.name = "unit", .y = y, .norm = &norm_, .residual = residual};
    const Tensor mean = norm_.running_mean, var = norm_.running_var;
    const Var out = quantizer_ ? quantizer_->norm_act(args, pass_) : norm_act_real(args, pass_);
    norm_.running_mean = mean, norm_.running_var = var;
    return out;
  }
  void clear_gradients() {
    for (const Var* v : {&y, &residual, &norm_.gamma.var, &norm_.beta.var})
      if (v->defined()) v->clear_grad();
    if (quantizer_) quantizer_->step()->var.clear_grad();
  }
  Var y, residual;

 private:
  BatchNormState norm_;
  std::unique_ptr<Quantizer> quantizer_;
  Pass pass_;
};

}  // namespace qt::bench
