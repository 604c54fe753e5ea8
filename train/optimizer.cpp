// train/optimizer.cpp -- what all optimizers share.
#include "train/optimizer.h"

#include "core/tensor/transfer.h"
#include "train/optimizer_kernels.h"

namespace qt {

Optimizer::Optimizer(double step_lr_multiplier)
    : rate_(Tensor::empty({1}, DType::f32)),
      step_rate_(Tensor::empty({1}, DType::f32)),
      step_lr_multiplier_(step_lr_multiplier) {}

void Optimizer::set_rate(double lr) {
  const float rate = float(lr), step_rate = float(lr * step_lr_multiplier_);
  overwrite(rate_, &rate);
  overwrite(step_rate_, &step_rate);
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options,
                                          const std::vector<NamedParameter>& parameters) {
  return OptimizerRegistry::make("optimizer", options.kind, options, parameters);
}

std::string first_bad_gradient(const std::vector<NamedParameter>& parameters) {
  for (const auto& [name, parameter] : parameters) {
    const Var& var = parameter->var;
    if (var.wants_grad() && var.grad().defined() && !all_finite(var.grad())) return name;
  }
  return "";
}

}  // namespace qt
