// train/optimizer.cpp -- what all optimizers share.
#include "train/optimizer.h"

#include "train/optimizer_kernels.h"

namespace qt {

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
