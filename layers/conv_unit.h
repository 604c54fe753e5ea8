// layers/conv_unit.h -- convolution + batch normalization + residual + activation + quantizer: the
// unit that ResNets are made of and that the integer program runs as one instruction.
#pragma once
#include <memory>
#include <optional>

#include "core/ops/ops.h"
#include "layers/layer.h"
#include "quant/norm_act.h"

namespace qt {

struct ConvUnitSpec {
  std::string conv_name, norm_name;  // "layer1.0.conv1", "layer1.0.bn1"
  int64_t in = 0, out = 0, kernel = 3, stride = 1, padding = 1, dilation = 1, groups = 1;
  bool relu = true;
  QuantSpec weights, activations;  // activations: of what the unit emits; kind "none": real values
};

// in: x [, residual]; out: codes (or reals in float32 and fake_quant mode) [n, h', w', out].
// Names: <conv_name>.weight, <norm_name>.{weight,bias,running_mean,running_var},
// <conv_name>.weight_quant.scale, <conv_name>.act_quant.scale.
class ConvUnit : public Layer {
 public:
  // Weights are drawn by Kaiming's rule (He et al. 2015, fan out) from the seed and the layer's
  // number.
  ConvUnit(const ConvUnitSpec& spec, uint64_t seed, uint32_t number);
  Var forward(const std::vector<Var>& in, const Pass& pass) override;
  void visit(const Visitor& visitor) override;
  Shape output_shape(const std::vector<Shape>& in) const override;
  CodeRange output_codes(const CodeRange&) const override {
    return codes_of(*activation_quantizer_);
  }
  void check_sums(const CodeRange& codes, const Shape& in) const override;

  const ConvUnitSpec& spec() const { return spec_; }
  Conv2dShape conv_shape(const Shape& x) const;
  Parameter& weight() { return weight_; }
  BatchNormState& norm() { return norm_; }
  Quantizer& weight_quantizer() { return *weight_quantizer_; }
  Quantizer& activation_quantizer() { return *activation_quantizer_; }
  // i8 codes [k, r, s, c] with step [k] or [1], as the forward pass uses them.
  Tensor weight_codes();

 private:
  ConvUnitSpec spec_;
  Parameter weight_;
  BatchNormState norm_;
  std::unique_ptr<Quantizer> weight_quantizer_, activation_quantizer_;
};

}  // namespace qt
