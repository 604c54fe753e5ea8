// core/autograd/tape.h -- reverse-mode differentiation of a straight-line program.
#pragma once
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "core/tensor/tensor.h"

namespace qt {

Tensor add(const Tensor& a, const Tensor& b);  // core/ops/elementwise.cpp: both f32 or both bf16
Tensor to_float(const Tensor& x);              // core/library/convert.cpp

// A value and what the tape knows about it. The gradient of a tensor that carries a scale is taken
// with respect to its stored numbers (codes, raw sums), not to number * scale: so convolutions need
// no scales in backward.
class Var {
 public:
  Var() = default;
  explicit Var(Tensor value, bool wants_grad = false)
      : value_(std::move(value)), slot_(std::make_shared<Slot>()) {
    slot_->wants_grad = wants_grad;
  }

  bool defined() const { return slot_ != nullptr; }
  const Tensor& value() const { return value_; }
  const Tensor& grad() const { return slot_->grad; }
  bool wants_grad() const { return slot_ && slot_->wants_grad; }
  void add_grad(const Tensor& g) const {
    if (!slot_->wants_grad) return;
    const Tensor given = g.dtype() == gradient_type() ? g : to_float(g);
    slot_->grad = grad().defined() ? sum(grad(), given) : given;
  }
  void set_grad(Tensor g) const { slot_->grad = std::move(g); }
  // The gradient so far, for whoever adds to it in its own memory and sets the sum. (Whoever throws
  // in between leaves none: a backward pass that fails is not gone on with.)
  Tensor take_grad() const { return std::exchange(slot_->grad, Tensor()); }
  void clear_grad() const { slot_->grad = Tensor(); }
  // The type that the gradient may be given in, besides f32: where whoever reads it rounds it to
  // that type, or those who compute it do. f32 unless the value's own backward says otherwise;
  // add_grad converts.
  DType gradient_type() const { return slot_->gradient_type; }
  void set_gradient_type(DType type) const { slot_->gradient_type = type; }
  // For whoever owns a parameter: the next forward pass sees the new value.
  void set_value(Tensor value) { value_ = std::move(value); }

  // Calls hook once per backward pass, when this gradient is final.
  void when_ready(std::function<void(const Var&)> hook) const { slot_->hook = std::move(hook); }

 private:
  friend class Tape;
  static Tensor sum(const Tensor& a, const Tensor& b) {
    return a.dtype() == b.dtype() ? add(a, b) : add(to_float(a), to_float(b));
  }
  struct Slot {
    bool wants_grad = false;
    DType gradient_type = DType::f32;
    int uses = 0;  // recorded steps that may still add to grad
    Tensor grad;
    std::function<void(const Var&)> hook;
  };
  Tensor value_;
  std::shared_ptr<Slot> slot_;
};

class Tape {
 public:
  using Backward = std::function<void(const Tensor& dy)>;

  static Tape& current() {
    static thread_local Tape tape;
    return tape;
  }

  // Notes that y was computed from inputs. backward(dy) adds to their gradients. Undefined inputs
  // are ignored. What backward needs is what its closure captures: the tape itself keeps no values.
  Var record(Tensor y, std::vector<Var> inputs, Backward backward) {
    bool any = false;
    for (const Var& in : inputs) any |= in.wants_grad();
    any &= recording_;
    Var out(std::move(y), any);
    if (!any) return out;
    Step step{out.slot_, {}, std::move(backward)};
    for (Var& in : inputs) {
      if (!in.wants_grad()) continue;
      ++in.slot_->uses;
      step.inputs.push_back(std::move(in));
      step.inputs.back().value_ = Tensor();
    }
    steps_.push_back(std::move(step));
    return out;
  }

  // Runs the program backwards and forgets it; each step frees what it saved. seed has loss's
  // shape.
  void backward(const Var& loss, const Tensor& seed) {
    loss.add_grad(seed);
    for (; !steps_.empty(); steps_.pop_back()) {
      Step& step = steps_.back();
      if (step.out->grad.defined()) {
        const Tensor dy = std::exchange(step.out->grad, Tensor());
        step.backward(dy);
      }
      for (const Var& in : step.inputs)
        if (--in.slot_->uses == 0 && in.slot_->hook) in.slot_->hook(in);
    }
  }

  void forget() {
    for (Step& step : steps_)
      for (const Var& in : step.inputs) --in.slot_->uses;
    steps_.clear();
  }
  size_t size() const { return steps_.size(); }

  // While alive nothing is recorded on this thread's tape (evaluation, calibration).
  class Pause {
   public:
    Pause() : before_(std::exchange(current().recording_, false)) {}
    ~Pause() { current().recording_ = before_; }
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    bool before_;
  };

 private:
  struct Step {
    std::shared_ptr<Var::Slot> out;
    std::vector<Var> inputs;
    Backward backward;
  };
  std::vector<Step> steps_;
  bool recording_ = true;
};

inline Var record(Tensor y, std::vector<Var> inputs, Tape::Backward backward) {
  return Tape::current().record(std::move(y), std::move(inputs), std::move(backward));
}

}  // namespace qt
