// train/optimizer.h -- what turns gradients into new parameters.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/base/config.h"
#include "core/base/registry.h"
#include "core/tensor/safetensors.h"
#include "quant/quantizer.h"

namespace qt {

struct NamedParameter {
  std::string name;
  Parameter* parameter;
};

struct OptimizerOptions;

// Requires: the parameters stay where they are, and lie where current_stream() works, as the
// optimizer does. Parameters without a value or without a gradient are left alone. Ensures: new
// tensors, never a write into the old ones.
class Optimizer {
 public:
  // The rate of quantizer steps is the learning rate times this.
  explicit Optimizer(double step_lr_multiplier);
  virtual ~Optimizer() = default;

  // One step with this learning rate: both of the following.
  void step(double lr) {
    set_rate(lr);
    update();
  }
  // The rates lie in memory of their own, so that a recorded update() follows them.
  void set_rate(double lr);
  // Gradients are cleared. Weight decay is for Parameter::Kind::weight alone, steps of quantizers
  // stay at or above their floor. Nothing is waited for.
  virtual void update() = 0;
  // How many elements of quantizer steps the last update() lifted to their floor, f32 [1];
  // undefined where it had no step to watch. For the first call after it.
  Tensor take_lifted() { return std::exchange(lifted_, Tensor()); }

  // What a checkpoint holds, by parameter name; load() raises CheckpointError where a name or shape
  // does not fit.
  virtual NamedTensors state() const = 0;
  virtual void load(const NamedTensors& state) = 0;
  // Every tensor that update() may replace besides parameters, in a fixed order, at addresses that
  // stay; undefined ones have no value yet.
  virtual std::vector<Tensor*> tensors() = 0;

 protected:
  Tensor rate_, step_rate_;  // f32 [1]
  Tensor lifted_;

 private:
  double step_lr_multiplier_;
};

using OptimizerRegistry =
    Registry<Optimizer, const OptimizerOptions&, const std::vector<NamedParameter>&>;

struct OptimizerConfig : Section {
  using Section::Section;
  Key<std::string> kind{this, "kind", "sgd", one_of_names(OptimizerRegistry::names), "optimizer"};
  Key<double> momentum{this, "momentum", 0.9, half_open(0, 1),
                       "share of the last update that stays"};
  Key<bool> nesterov{this, "nesterov", false, any(), "look ahead by one momentum step (Nesterov)"};
  Key<double> weight_decay{this, "weight_decay", 5e-4, at_least(0),
                           "of weights; norm, bias and steps have none"};
};

struct OptimizerOptions {
  std::string kind = "sgd";
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 0;
  double step_lr_multiplier = 1;
};

std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options,
                                          const std::vector<NamedParameter>& parameters);

// The first parameter whose gradient holds NaN or infinity, "" where there is none.
std::string first_bad_gradient(const std::vector<NamedParameter>& parameters);

}  // namespace qt
