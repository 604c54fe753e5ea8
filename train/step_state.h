// train/step_state.h -- the tensors that live from one step to the next, and how a step whose
// numbers are not finite leaves them as they were.
#pragma once
#include <vector>

#include "layers/model.h"
#include "train/optimizer.h"

namespace qt {

// Parameters, running statistics, quantizer steps and what the optimizer keeps.
//
// On the CPU a step puts new tensors in their place and the old ones can be put back. On a GPU each
// has an address of its own for good, since a recorded step reads and writes there: what the step
// made is copied to it, or not, as a number in the GPU's memory says.
class StepState {
 public:
  // Both outlive it, and have all tensors where current_stream() works.
  StepState(Model& model, Optimizer& optimizer);

  // Notes what there is. On a GPU after the first time: what others than a step have put in place
  // since (evaluation with statistics measured anew) goes to its address.
  void begin();
  // Everything is as at begin(): after a step on the CPU, or after a recording that came to
  // nothing.
  void put_back();
  // GPU: keeps what the step made where bad (f32 [1]) is 0; everything is at its address.
  void settle(const Tensor& bad);

 private:
  struct Slot {
    Parameter* parameter;  // null: `tensor`
    Tensor* tensor;
    Tensor before;  // on a GPU: the one that stays
    const Tensor& now() const { return parameter ? parameter->var.value() : *tensor; }
    void set(const Tensor& value) const;
  };
  std::vector<Slot> slots_;
};

}  // namespace qt
