// train/step_state.cpp -- noting, putting back and settling what a step changes.
#include "train/step_state.h"

#include "core/device/memory.h"
#include "core/device/stream.h"
#include "train/step_kernels.h"

namespace qt {

void StepState::Slot::set(const Tensor& value) const {
  if (parameter)
    parameter->set(value);
  else
    *tensor = value;
}

StepState::StepState(Model& model, Optimizer& optimizer) {
  Visitor visitor;
  visitor.parameter = [&](const std::string&, Parameter& p) {
    slots_.push_back({&p, nullptr, {}});
  };
  visitor.buffer = [&](const std::string&, Tensor& t) { slots_.push_back({nullptr, &t, {}}); };
  model.visit(visitor);
  for (Tensor* t : optimizer.tensors()) slots_.push_back({nullptr, t, {}});
}

void StepState::begin() {
  const bool on_gpu = current_stream().on_gpu;
  for (Slot& slot : slots_) {
    const Tensor now = slot.now();
    if (!on_gpu || !slot.before.defined()) {
      slot.before = now;
    } else if (now.raw() != slot.before.raw()) {
      copy_bytes(slot.before.raw(), now.raw(), now.bytes());
      slot.set(slot.before);
    }
  }
}

void StepState::put_back() {
  for (const Slot& slot : slots_) slot.set(slot.before);
}

void StepState::settle(const Tensor& bad) {
  std::vector<Replacement> list;
  for (Slot& slot : slots_) {
    const Tensor fresh = slot.now();
    if (!fresh.defined() || (slot.before.defined() && fresh.raw() == slot.before.raw())) continue;
    // The optimizer's first step: from nothing, which is zeros.
    if (!slot.before.defined()) slot.before = Tensor::zeros(fresh.shape(), fresh.dtype());
    list.push_back({fresh, slot.before});
    slot.set(slot.before);
  }
  replace_if_good(bad, list);
}

}  // namespace qt
