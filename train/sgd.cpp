// train/sgd.cpp -- stochastic gradient descent with momentum and Nesterov's look-ahead, as PyTorch
// defines it.
#include <map>

#include "train/optimizer.h"
#include "train/optimizer_kernels.h"

namespace qt {
namespace {

class Sgd : public Optimizer {
 public:
  Sgd(const OptimizerOptions& options, const std::vector<NamedParameter>& parameters)
      : options_(options), parameters_(parameters) {}

  void step(double lr) override {
    for (const auto& [name, parameter] : parameters_) {
      const Var& var = parameter->var;
      if (!var.defined() || !var.value().defined() || !var.grad().defined()) continue;
      const bool is_step = parameter->kind == Parameter::Kind::step;
      const bool decays = parameter->kind == Parameter::Kind::weight;
      const double rate = is_step ? lr * options_.step_lr_multiplier : lr;
      Tensor& velocity = velocity_[name];
      const SgdResult after = sgd_update(var.value(), var.grad(), velocity,
                                         {.lr = float(rate),
                                          .momentum = float(options_.momentum),
                                          .weight_decay = float(decays ? options_.weight_decay : 0),
                                          .nesterov = options_.nesterov});
      velocity = after.velocity;
      var.clear_grad();
      parameter->set(is_step ? projected(after.w, parameter->step_floor) : after.w);
    }
  }

  NamedTensors state() const override {
    NamedTensors list;
    for (const auto& [name, parameter] : parameters_) {
      const auto it = velocity_.find(name);
      if (it != velocity_.end()) list.emplace_back(name + ".velocity", it->second);
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
        velocity[name] = tensor;
      }
    }
    if (velocity.size() != state.size())
      throw CheckpointError("the optimizer state has " + std::to_string(state.size()) +
                            " tensors, of which " + std::to_string(velocity.size()) +
                            " belong to parameters of this network");
    velocity_ = std::move(velocity);
  }

 private:
  Tensor projected(const Tensor& step, float floor) {
    if (!(floor > 0)) return step;
    int64_t lifted = 0;
    Tensor high = lift_to_floor(step, floor, lifted);
    projections_ += lifted;
    return high;
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
