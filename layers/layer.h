// layers/layer.h -- a step of a network: parameters, buffers and a forward function.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/autograd/tape.h"
#include "core/library/arguments.h"
#include "quant/norm_act.h"
#include "quant/pass.h"
#include "quant/quantizer.h"

namespace qt {

// Called with every parameter, buffer (running statistics), quantizer and batch normalization, by
// full torchvision-style name, in a fixed order; and with tensors that are made from the spec and
// never change. A normalization's tensors are parameters and buffers too. A floor is
// Parameter::floor of a step that has one, behind its step.
struct Visitor {
  std::function<void(const std::string& name, Parameter&)> parameter = [](const std::string&,
                                                                          Parameter&) {};
  std::function<void(const std::string& name, Tensor&)> buffer = [](const std::string&, Tensor&) {};
  std::function<void(const std::string& name, Tensor&)> floor = [](const std::string&, Tensor&) {};
  std::function<void(const std::string& name, Tensor&)> constant = [](const std::string&, Tensor&) {
  };
  std::function<void(const std::string& name, Quantizer&)> quantizer = [](const std::string&,
                                                                          Quantizer&) {};
  std::function<void(const std::string& name, BatchNormState&)> norm = [](const std::string&,
                                                                          BatchNormState&) {};
};

// Requires: in has as many values as the model wired. Ensures: inputs are not written to; gradients
// flow where the tape records. A layer is owned by one model and is neither copied nor moved.
class Layer {
 public:
  Layer() = default;
  virtual ~Layer() = default;
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  virtual Var forward(const std::vector<Var>& in, const Pass& pass) = 0;
  virtual void visit(const Visitor& visitor) = 0;
  // Shape of the output for inputs of these shapes; InternalError where they do not fit.
  virtual Shape output_shape(const std::vector<Shape>& in) const = 0;
  // The codes that it emits where the first input has these; 0..0 stands for reals.
  virtual CodeRange output_codes(const CodeRange& in) const = 0;
  // ConfigError, naming the layer, where sums of such codes over an input of this shape may leave
  // what holds them exactly.
  virtual void check_sums(const CodeRange& /*codes*/, const Shape& /*in*/) const {}
};

// ---- for layers ----

// Shows <name>, <name>.scale and <name>.scale_floor.
void visit_quantizer(const Visitor& visitor, const std::string& name, Quantizer& quantizer);
// Drawn from N(0, deviation^2), number telling layers of one seed apart.
Parameter normal_weights(const Shape& shape, double deviation, uint64_t seed, uint32_t number);
Parameter constant_parameter(int64_t elements, float value, Parameter::Kind kind);
// 0..0 for a quantizer that leaves reals.
CodeRange codes_of(const Quantizer& quantizer);
// Whether somebody wants to see what became these codes.
inline bool is_watched(const Var& codes, const Pass& pass) {
  return pass.observer && codes.value().is_codes();
}
// The weight's codes (or simulated reals); its quantizer is shown the values first where it wants
// to see them. An observer sees them as <layer>.weight.
Var quantized_weight(const std::string& layer, const Parameter& weight, Quantizer& quantizer,
                     const Pass& pass);
// The codes of a real activation; real itself in a float32 pass. name: for an observer.
Var quantized_output(const std::string& name, const Var& real, Quantizer& quantizer,
                     const Pass& pass);
// The fused operation with this quantizer: codes in one pass, the program's arithmetic. A quantizer
// that wants to see the real values is shown them first, in a pass of their own.
Var norm_act(const NormAct& args, Quantizer& quantizer, const Pass& pass);
// i8 codes with step, outside of any tape.
Tensor weight_codes_of(const Parameter& weight, Quantizer& quantizer);

}  // namespace qt
