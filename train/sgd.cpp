// train/sgd.cpp -- stochastic gradient descent with momentum and Nesterov's look-ahead, as PyTorch
// defines it.
#include <map>
#include <utility>
#include <vector>

#include "core/tensor/transfer.h"
#include "train/optimizer.h"
#include "train/optimizer_kernels.h"

namespace qt {
namespace {

class Sgd : public Optimizer {
 public:
  Sgd(const OptimizerOptions& options, const std::vector<NamedParameter>& parameters)
      : Optimizer(options.step_lr_multiplier), options_(options), parameters_(parameters) {
    for (const NamedParameter& parameter : parameters_) velocity_[parameter.name] = Tensor();
  }

  // Together on a GPU, where a launch costs more than a small tensor; one by one on the CPU, where
  // the memory of one is good for the next.
  void update() override {
    std::vector<Parameter*> updated, steps;
    std::vector<Tensor*> velocities;
    std::vector<SgdArguments> list;
    const auto run = [&] {
      const std::vector<SgdResult> results = sgd_update(std::exchange(list, {}));
      for (size_t i = 0; i < results.size(); ++i) {
        *velocities[i] = results[i].velocity;
        updated[i]->set(results[i].w);
        updated[i]->var.clear_grad();
      }
      updated.clear(), velocities.clear();
    };
    for (const auto& [name, parameter] : parameters_) {
      const Var& var = parameter->var;
      if (!var.defined() || !var.value().defined() || !var.grad().defined()) continue;
      const bool is_step = parameter->kind == Parameter::Kind::step;
      const bool decays = parameter->kind == Parameter::Kind::weight;
      updated.push_back(parameter);
      velocities.push_back(&velocity_.at(name));
      list.push_back({.w = var.value(),
                      .gradient = var.grad(),
                      .velocity = *velocities.back(),
                      .lr = is_step ? step_rate_ : rate_,
                      .by = {.momentum = float(options_.momentum),
                             .weight_decay = float(decays ? options_.weight_decay : 0),
                             .nesterov = options_.nesterov}});
      if (is_step && parameter->step_floor > 0) steps.push_back(parameter);
      if (!current_stream().on_gpu) run();
    }
    run();
    lift(steps);
  }

  NamedTensors state() const override {
    NamedTensors list;
    for (const auto& [name, parameter] : parameters_) {
      const Tensor& velocity = velocity_.at(name);
      if (velocity.defined()) list.emplace_back(name + ".velocity", velocity);
    }
    return list;
  }

  void load(const NamedTensors& state) override {
    std::map<std::string, Tensor> velocity;
    for (const auto& [name, parameter] : parameters_) {
      for (const auto& [key, tensor] : state) {
        if (key != name + ".velocity") continue;
        if (tensor.dtype() != DType::f32 || !(tensor.shape() == parameter->var.value().shape()))
          throw CheckpointError("optimizer state '" + key + "' is " + name_of(tensor.dtype()) +
                                tensor.shape().text() + ", the parameter is f32" +
                                parameter->var.value().shape().text());
        velocity[name] = here(tensor);
      }
    }
    if (velocity.size() != state.size())
      throw CheckpointError("the optimizer state has " + std::to_string(state.size()) +
                            " tensors, of which " + std::to_string(velocity.size()) +
                            " belong to parameters of this network");
    for (auto& [name, tensor] : velocity_) tensor = velocity[name];
  }

  std::vector<Tensor*> tensors() override {
    std::vector<Tensor*> list;
    for (const NamedParameter& parameter : parameters_)
      list.push_back(&velocity_.at(parameter.name));
    return list;
  }

 private:
  void lift(const std::vector<Parameter*>& steps) {
    lifted_ = Tensor();
    if (steps.empty()) return;
    std::vector<Lifting> list;
    for (const Parameter* step : steps) list.push_back({step->var.value(), step->step_floor});
    const Lifted high = lift_to_floor(list);
    for (size_t i = 0; i < steps.size(); ++i) steps[i]->set(high.w[i]);
    lifted_ = high.count;
  }

  OptimizerOptions options_;
  std::vector<NamedParameter> parameters_;
  std::map<std::string, Tensor> velocity_;
};

const OptimizerRegistry::Add add{
    "sgd", [](const OptimizerOptions& options, const std::vector<NamedParameter>& parameters) {
      return std::make_unique<Sgd>(options, parameters);
    }};

}  // namespace
}  // namespace qt
