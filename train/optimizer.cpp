// train/optimizer.cpp -- what all optimizers share.
#include "train/optimizer.h"

#include <algorithm>
#include <map>
#include <utility>

#include "core/tensor/transfer.h"
#include "train/optimizer_kernels.h"

namespace qt {

Optimizer::Optimizer(const OptimizerOptions& options, const std::vector<NamedParameter>& parameters,
                     const std::vector<std::string>& moments)
    : weight_decay_(options.weight_decay),
      step_lr_multiplier_(options.step_lr_multiplier),
      names_(moments),
      rate_(Tensor::empty({1}, DType::f32)),
      step_rate_(Tensor::empty({1}, DType::f32)) {
  for (const NamedParameter& parameter : parameters)
    slots_.push_back({parameter, std::vector<Tensor>(moments.size())});
}

void Optimizer::set_rate(double lr) {
  const float rate = float(lr), step_rate = float(lr * step_lr_multiplier_);
  overwrite(rate_, &rate);
  overwrite(step_rate_, &step_rate);
}

// Together on a GPU, where a launch costs more than a small tensor; one by one on the CPU, where
// the memory of one is good for the next.
void Optimizer::update() {
  std::vector<Slot*> together;
  std::vector<Parameter*> floored;
  for (Slot& slot : slots_) {
    Parameter& parameter = *slot.of.parameter;
    const Var& var = parameter.var;
    if (!var.defined() || !var.value().defined() || !var.grad().defined()) continue;
    if (parameter.floor.defined() && parameter.floor.data<float>()[0] > 0)
      floored.push_back(&parameter);
    if (current_stream().on_gpu)
      together.push_back(&slot);
    else
      update({&slot});
  }
  update(together);
  lift(floored);
}

void Optimizer::update(const std::vector<Slot*>& slots) {
  if (slots.empty()) return;
  std::vector<BeforeUpdate> list;
  list.reserve(slots.size());
  for (const Slot* slot : slots) {
    const Parameter& parameter = *slot->of.parameter;
    const bool decays = parameter.kind == Parameter::Kind::weight;
    list.push_back({.value = parameter.var.value(),
                    .gradient = parameter.var.grad(),
                    .moments = slot->moments,
                    .rate = parameter.kind == Parameter::Kind::step ? step_rate_ : rate_,
                    .weight_decay = float(decays ? weight_decay_ : 0)});
  }
  std::vector<AfterUpdate> results = updated(list);
  QT_CHECK(results.size() == slots.size(), "an optimizer gave another number of parameters back");
  for (size_t i = 0; i < slots.size(); ++i) {
    QT_CHECK(results[i].moments.size() == names_.size(),
             "an optimizer gave another number of moments of " + slots[i]->of.name + " back");
    // One by one: the address of each stays.
    std::move(results[i].moments.begin(), results[i].moments.end(), slots[i]->moments.begin());
    slots[i]->of.parameter->set(results[i].value);
    slots[i]->of.parameter->var.clear_grad();
  }
}

void Optimizer::lift(const std::vector<Parameter*>& steps) {
  lifted_ = Tensor();
  if (steps.empty()) return;
  std::vector<Lifting> list;
  for (const Parameter* step : steps)
    list.push_back({step->var.value(), step->floor.data<float>()[0]});
  const Lifted high = lift_to_floor(list);
  for (size_t i = 0; i < steps.size(); ++i) steps[i]->set(high.w[i]);
  lifted_ = high.count;
}

NamedTensors Optimizer::state() const {
  NamedTensors list;
  for (const Slot& slot : slots_)
    for (size_t k = 0; k < names_.size(); ++k)
      if (slot.moments[k].defined())
        list.emplace_back(slot.of.name + "." + names_[k], slot.moments[k]);
  return list;
}

void Optimizer::load(const NamedTensors& state) {
  std::map<std::string, Tensor> given(state.begin(), state.end());
  std::vector<std::vector<Tensor>> loaded;
  size_t found = 0;
  for (const Slot& slot : slots_) {
    std::vector<Tensor>& moments = loaded.emplace_back(names_.size());
    for (size_t k = 0; k < names_.size(); ++k) {
      const auto entry = given.find(slot.of.name + "." + names_[k]);
      if (entry == given.end()) continue;
      const Tensor& tensor = entry->second;
      const Shape& shape = slot.of.parameter->var.value().shape();
      if (tensor.dtype() != DType::f32 || !(tensor.shape() == shape))
        throw CheckpointError("optimizer state '" + entry->first + "' is " +
                              name_of(tensor.dtype()) + tensor.shape().text() +
                              ", the parameter is f32" + shape.text());
      moments[k] = here(tensor);
      ++found;
    }
  }
  if (found != state.size())
    throw CheckpointError("the optimizer state has " + std::to_string(state.size()) +
                          " tensors, of which " + std::to_string(found) +
                          " belong to parameters of this network");
  for (size_t i = 0; i < slots_.size(); ++i)
    std::copy(loaded[i].begin(), loaded[i].end(), slots_[i].moments.begin());
}

std::vector<Tensor*> Optimizer::tensors() {
  std::vector<Tensor*> list;
  for (Slot& slot : slots_)
    for (Tensor& moment : slot.moments) list.push_back(&moment);
  return list;
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
