// train/sgd.cpp -- stochastic gradient descent with momentum and Nesterov's look-ahead, as PyTorch
// defines it.
#include "train/optimizer.h"
#include "train/optimizer_kernels.h"

namespace qt {
namespace {

class Sgd : public Optimizer {
 public:
  Sgd(const OptimizerOptions& options, const std::vector<NamedParameter>& parameters)
      : Optimizer(options, parameters, {"velocity"}),
        momentum_(float(options.momentum)),
        nesterov_(options.nesterov) {}

 protected:
  std::vector<AfterUpdate> updated(const std::vector<BeforeUpdate>& list) override {
    std::vector<SgdArguments> arguments;
    arguments.reserve(list.size());
    for (const BeforeUpdate& before : list)
      arguments.push_back(
          {.w = before.value,
           .gradient = before.gradient,
           .velocity = before.moments[0],
           .lr = before.rate,
           .by = {
               .momentum = momentum_, .weight_decay = before.weight_decay, .nesterov = nesterov_}});
    std::vector<AfterUpdate> after;
    after.reserve(list.size());
    for (const SgdResult& result : sgd_update(arguments))
      after.push_back({result.w, {result.velocity}});
    return after;
  }

 private:
  float momentum_;
  bool nesterov_;
};

const OptimizerRegistry::Add add{
    "sgd", [](const OptimizerOptions& options, const std::vector<NamedParameter>& parameters) {
      return std::make_unique<Sgd>(options, parameters);
    }};

}  // namespace
}  // namespace qt
