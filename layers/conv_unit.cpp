// layers/conv_unit.cpp -- convolution, normalization, residual, activation and codes in two
// operations.
#include "layers/conv_unit.h"

#include <cmath>

namespace qt {

ConvUnit::ConvUnit(const ConvUnitSpec& spec, uint64_t seed, uint32_t number)
    : spec_(spec),
      weight_(normal_weights(
          {spec.out, spec.kernel, spec.kernel, spec.in / spec.groups},
          std::sqrt(2.0 * double(spec.groups) / double(spec.out * spec.kernel * spec.kernel)), seed,
          number)),
      weight_quantizer_(make_quantizer(spec.weights, spec.out)),
      activation_quantizer_(make_quantizer(spec.activations, 1)) {
  norm_.gamma = constant_parameter(spec.out, 1, Parameter::Kind::norm);
  norm_.beta = constant_parameter(spec.out, 0, Parameter::Kind::norm);
  norm_.running_mean = Tensor::full({spec.out}, 0);
  norm_.running_var = Tensor::full({spec.out}, 1);
}

Conv2dShape ConvUnit::conv_shape(const Shape& x) const {
  QT_CHECK(x.rank() == 4 && x[3] == spec_.in, spec_.conv_name + ": input " + x.text() +
                                                  ", wants [n, h, w, " + std::to_string(spec_.in) +
                                                  "]");
  return {.n = x[0],
          .h = x[1],
          .w = x[2],
          .c = spec_.in,
          .k = spec_.out,
          .r = spec_.kernel,
          .s = spec_.kernel,
          .stride = spec_.stride,
          .padding = spec_.padding,
          .dilation = spec_.dilation,
          .groups = spec_.groups};
}

Shape ConvUnit::output_shape(const std::vector<Shape>& in) const {
  return conv_shape(in.at(0)).y_shape();
}

void ConvUnit::check_sums(const CodeRange& codes, const Shape&) const {
  const int64_t products = spec_.kernel * spec_.kernel * (spec_.in / spec_.groups);
  check_accumulator(codes, codes_of(*weight_quantizer_), products,
                    "layer '" + spec_.conv_name + "'");
}

Tensor ConvUnit::weight_codes() { return weight_codes_of(weight_, *weight_quantizer_); }

Var ConvUnit::forward(const std::vector<Var>& in, const Pass& pass) {
  const ConvOptions options{.stride = spec_.stride,
                            .padding = spec_.padding,
                            .dilation = spec_.dilation,
                            .groups = spec_.groups,
                            .path = pass.path(),
                            .forward = pass.forward(),
                            .backward = pass.backward};
  const Var w = pass.quantized()
                    ? quantized_weight(spec_.conv_name, weight_, *weight_quantizer_, pass)
                    : weight_.var;
  const NormAct args{.name = spec_.conv_name,
                     .y = conv2d(in.at(0), w, options),
                     .norm = &norm_,
                     .residual = in.size() > 1 ? in[1] : Var(),
                     .relu = spec_.relu};
  return norm_act(args, *activation_quantizer_, pass);
}

void ConvUnit::visit(const Visitor& visitor) {
  visitor.parameter(spec_.conv_name + ".weight", weight_);
  visitor.parameter(spec_.norm_name + ".weight", norm_.gamma);
  visitor.parameter(spec_.norm_name + ".bias", norm_.beta);
  visitor.norm(spec_.norm_name, norm_);
  visitor.buffer(spec_.norm_name + ".running_mean", norm_.running_mean);
  visitor.buffer(spec_.norm_name + ".running_var", norm_.running_var);
  visit_quantizer(visitor, spec_.conv_name + ".weight_quant", *weight_quantizer_);
  visit_quantizer(visitor, spec_.conv_name + ".act_quant", *activation_quantizer_);
}

}  // namespace qt
