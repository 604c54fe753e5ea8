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

struct OptimizerOptions {
  std::string kind = "sgd";
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 0;
  double step_lr_multiplier = 1;  // the rate of quantizer steps is the learning rate times this
};

// A parameter before its update, and after it: f32 tensors of one shape where current_stream()
// works.
struct BeforeUpdate {
  Tensor value, gradient;
  std::vector<Tensor> moments;  // as many as the optimizer names; undefined ones stand for zeros
  Tensor rate;                  // f32 [1]
  float weight_decay = 0;
};
struct AfterUpdate {
  Tensor value;
  std::vector<Tensor> moments;
};

// What all optimizers share: which parameters are updated and with which rates, the floor of steps,
// and what is kept of each parameter (its moments). A kind of optimizer says what one update makes.
//
// Requires: the parameters stay where they are, and lie where current_stream() works, as the
// optimizer does. Parameters without a value or without a gradient are left alone. Ensures: new
// tensors, never a write into the old ones.
class Optimizer {
 public:
  // moments: names of what is kept of each parameter, in checkpoints <parameter>.<name>.
  Optimizer(const OptimizerOptions& options, const std::vector<NamedParameter>& parameters,
            const std::vector<std::string>& moments);
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
  void update();
  // How many elements of quantizer steps the last update() lifted to their floor, f32 [1];
  // undefined where it had no step to watch. For the first call after it.
  Tensor take_lifted() { return std::exchange(lifted_, Tensor()); }

  // What a checkpoint holds, by parameter name; load() raises CheckpointError where a name or shape
  // does not fit.
  NamedTensors state() const;
  void load(const NamedTensors& state);
  // Every tensor that update() may replace besides parameters, in a fixed order, at addresses that
  // stay; undefined ones have no value yet.
  std::vector<Tensor*> tensors();

 protected:
  // One for each of the list.
  virtual std::vector<AfterUpdate> updated(const std::vector<BeforeUpdate>& list) = 0;

 private:
  struct Slot {
    NamedParameter of;
    std::vector<Tensor> moments;
  };
  void update(const std::vector<Slot*>& slots);
  void lift(const std::vector<Parameter*>& steps);

  double weight_decay_, step_lr_multiplier_;
  std::vector<std::string> names_;  // of the moments
  std::vector<Slot> slots_;         // one for each parameter
  Tensor rate_, step_rate_;         // f32 [1]
  Tensor lifted_;
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

std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options,
                                          const std::vector<NamedParameter>& parameters);

// The first parameter whose gradient holds NaN or infinity, "" where there is none.
std::string first_bad_gradient(const std::vector<NamedParameter>& parameters);

}  // namespace qt
