// quant/quantizer.h -- what turns real numbers into integer codes, and how a network learns the
// step between them.
#pragma once
#include <memory>
#include <string>

#include "core/autograd/tape.h"
#include "core/base/registry.h"
#include "quant/pass.h"

namespace qt {

// A named, trained tensor. Layers own theirs at a fixed address; the optimizer replaces its value.
struct Parameter {
  enum class Kind { weight, bias, norm, step };  // weight decay is for `weight` alone
  Var var;
  Kind kind = Kind::weight;
  // Of a step that has one: f32 [1], in the host's memory always, kept in checkpoints: what every
  // update leaves at least in the step. 0 until the step is chosen.
  Tensor floor = {};
  void set(Tensor value) {
    QT_CHECK(var.defined(), "a parameter gets its first value with Var(value, true)");
    var.set_value(std::move(value));
  }
};

// The floor of a step that starts with these values (in the host's memory): a thousandth of the
// least.
Tensor floor_of_step(const Tensor& values);

// The codes of one tensor: bits, sign and range.
struct QuantSpec {
  std::string kind = "lsq";  // a registered quantizer
  int bits = 8;              // 2 .. 8
  bool is_signed = true;
  bool narrow = true;  // signed: -(2^(b-1)-1) .. 2^(b-1)-1; otherwise from -2^(b-1) (`range: full`)
  bool unsigned_full =
      false;                 // unsigned 8 bit: 0..255 instead of 0..127, for backends that have it
  bool per_channel = false;  // a step per first-axis channel (weights); otherwise one
  bool count_elements = false;  // LSQ's N: all elements instead of features per sample
  double momentum = 0.1;        // minmax: share of the newest observation
  int lo() const;
  int hi() const;
};

struct NormAct;  // quant/norm_act.h

// Requires: real inputs are f32; weights have their output channel first.
// Ensures: int8 and exact_float give i8 codes that carry the step; fake_quant gives f32 code * step
// without scale.
class Quantizer {
 public:
  explicit Quantizer(const QuantSpec& spec) : spec_(spec) {}
  virtual ~Quantizer() = default;
  const QuantSpec& spec() const { return spec_; }

  // Codes of x. x may carry a one-for-all scale (sums of codes from a pool): then v = x *
  // float(scale / step), otherwise v = x / step; code = clamp(rint(v), lo, hi).
  virtual Var quantize(const Var& x, const Pass& pass) = 0;
  // The fused form: normalization, residual, activation and codes in one pass (quant/norm_act.h).
  virtual Var norm_act(const NormAct& args, const Pass& pass) = 0;
  // Whether values must be shown to observe(), which chooses or moves the step, before they are
  // quantized in this pass.
  virtual bool observes(const Pass& pass) const = 0;
  virtual void observe(const Tensor& real) = 0;
  // Whether a step has been chosen (by observation or a checkpoint).
  virtual bool ready() const = 0;

  // The step, f32 [1] or [channels], 0 until chosen; trained where its Var wants a gradient. None
  // for `none`: nullptr.
  virtual Parameter* step() = 0;

  // observe() sees this rank's part of what all ranks together have seen. Not for weights, which
  // are whole on every rank.
  void observe_on(Communicator* ranks) { ranks_ = ranks; }

 protected:
  Communicator* ranks_ = nullptr;
  QuantSpec spec_;
};

// channels: length of the step (1 for one step). Registered in the quantizer's file.
using QuantizerRegistry = Registry<Quantizer, const QuantSpec&, int64_t>;
std::unique_ptr<Quantizer> make_quantizer(const QuantSpec& spec, int64_t channels);

}  // namespace qt
