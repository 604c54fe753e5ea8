// layers/layer.cpp -- what layers share: showing a quantizer to a visitor, drawing weights.
#include "layers/layer.h"

#include <cmath>

#include "core/base/philox.h"

namespace qt {

void visit_quantizer(const Visitor& visitor, const std::string& name, Quantizer& quantizer) {
  visitor.quantizer(name, quantizer);
  Parameter* const step = quantizer.step();
  if (!step) return;
  visitor.parameter(name + ".scale", *step);
  if (step->floor.defined()) visitor.floor(name + ".scale_floor", step->floor);
}

CodeRange codes_of(const Quantizer& quantizer) {
  if (quantizer.spec().kind == "none") return {};
  return {quantizer.spec().lo(), quantizer.spec().hi()};
}

Parameter normal_weights(const Shape& shape, double deviation, uint64_t seed, uint32_t number) {
  Tensor w = Tensor::empty(shape, DType::f32);
  Philox draws(seed, DrawKind::init_weights, number);
  for (int64_t i = 0; i < w.elements(); ++i) w.data<float>()[i] = float(deviation * draws.normal());
  return {.var = Var(w, true), .kind = Parameter::Kind::weight};
}

Parameter constant_parameter(int64_t elements, float value, Parameter::Kind kind) {
  return {.var = Var(Tensor::full({elements}, value), true), .kind = kind};
}

Var quantized_weight(const std::string& layer, const Parameter& weight, Quantizer& quantizer,
                     const Pass& pass) {
  if (quantizer.observes(pass) && !(pass.calibrate && quantizer.ready()))
    quantizer.observe(weight.var.value());
  Pass of_weights = pass;
  of_weights.samples_per_sample = 1;  // weights are whole on every rank
  const Var codes = quantizer.quantize(weight.var, of_weights);
  if (is_watched(codes, pass))
    pass.observer->quantized(layer + ".weight", weight.var.value(), codes.value());
  return codes;
}

Var quantized_output(const std::string& name, const Var& real, Quantizer& quantizer,
                     const Pass& pass) {
  if (!pass.quantized()) return real;
  if (quantizer.observes(pass)) quantizer.observe(real.value());
  const Var codes = quantizer.quantize(real, pass);
  if (is_watched(codes, pass)) pass.observer->quantized(name, real.value(), codes.value());
  return codes;
}

namespace {

// What a unit would emit without codes. Running statistics stay: the pass itself moves them.
Tensor real_values(const NormAct& args, const Pass& pass) {
  const Tape::Pause pause;
  const auto compute = [&] { return norm_act_real(args, pass).value(); };
  if (!args.norm) return compute();
  const Tensor mean = args.norm->running_mean, var = args.norm->running_var;
  const Tensor real = compute();
  args.norm->running_mean = mean;
  args.norm->running_var = var;
  return real;
}

}  // namespace

Var norm_act(const NormAct& args, Quantizer& quantizer, const Pass& pass) {
  if (!pass.quantized()) return norm_act_real(args, pass);
  Tensor real;
  if (quantizer.observes(pass)) quantizer.observe(real = real_values(args, pass));
  const Var out = quantizer.norm_act(args, pass);
  if (is_watched(out, pass))
    pass.observer->quantized(args.name, real.defined() ? real : real_values(args, pass),
                             out.value());
  return out;
}

Tensor weight_codes_of(const Parameter& weight, Quantizer& quantizer) {
  const Tape::Pause pause;
  return quantizer.quantize(weight.var, Pass{.mode = ForwardMode::int8}).value();
}

}  // namespace qt
