// train/optimizer.h -- what turns gradients into new parameters.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
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

// Requires: the parameters stay where they are. Parameters without a value or without a gradient
// are left alone. Ensures: new tensors, never a write into the old ones.
class Optimizer {
 public:
  virtual ~Optimizer() = default;

  // One step with this learning rate; gradients are cleared. Weight decay is for
  // Parameter::Kind::weight alone, steps of quantizers have their own factor on the rate and stay
  // at or above their floor.
  virtual void step(double lr) = 0;

  // What a checkpoint holds, by parameter name; load() raises CheckpointError where a name or shape
  // does not fit.
  virtual NamedTensors state() const = 0;
  virtual void load(const NamedTensors& state) = 0;

  // Elements of quantizer steps that step() had to lift to their floor, since construction.
  int64_t projections() const { return projections_; }

 protected:
  int64_t projections_ = 0;
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
