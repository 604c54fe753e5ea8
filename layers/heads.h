// layers/heads.h -- the layers around the convolutions: image input, pools, flatten, add,
// classifier.
#pragma once
#include <array>
#include <memory>

#include "layers/layer.h"

namespace qt {

// u8 pixels [n, h, w, 3] -> codes by a 3 x 256 table (or normalized reals in float32 and fake_quant
// mode). The step is fixed: the largest |normalized pixel| / 127. code = clamp(rint(((p / 255) -
// mean) / std / step)).
class ImageInput : public Layer {
 public:
  ImageInput(const std::array<double, 3>& mean, const std::array<double, 3>& std);
  Var forward(const std::vector<Var>& in, const Pass& pass) override;
  void visit(const Visitor& visitor) override;
  Shape output_shape(const std::vector<Shape>& in) const override { return in.at(0); }
  CodeRange output_codes(const CodeRange&) const override { return {codes_.lo(), codes_.hi()}; }
  const Tensor& codes() const { return codes_; }  // i8 [3, 256] with step [1]
  const Tensor& reals() const { return reals_; }  // f32 [3, 256]

 private:
  Tensor codes_, reals_;
};

class MaxPool : public Layer {
 public:
  MaxPool(int64_t kernel, int64_t stride, int64_t padding)
      : kernel(kernel), stride(stride), padding(padding) {}
  Var forward(const std::vector<Var>& in, const Pass& pass) override;
  void visit(const Visitor&) override {}
  Shape output_shape(const std::vector<Shape>& in) const override;
  CodeRange output_codes(const CodeRange& in) const override { return in; }
  const int64_t kernel, stride, padding;
};

// [n, h, w, c] -> [n, 1, 1, c]: the mean, quantized for the classifier. Name:
// avgpool.act_quant.scale.
class GlobalAveragePool : public Layer {
 public:
  explicit GlobalAveragePool(const QuantSpec& activations);
  Var forward(const std::vector<Var>& in, const Pass& pass) override;
  void visit(const Visitor& visitor) override;
  Shape output_shape(const std::vector<Shape>& in) const override;
  CodeRange output_codes(const CodeRange&) const override { return codes_of(*quantizer_); }
  void check_sums(const CodeRange& codes, const Shape& in) const override;
  Quantizer& activation_quantizer() { return *quantizer_; }

 private:
  std::unique_ptr<Quantizer> quantizer_;
};

// [n, h, w, c] -> [n, 1, 1, h w c].
class Flatten : public Layer {
 public:
  Var forward(const std::vector<Var>& in, const Pass& pass) override;
  void visit(const Visitor&) override {}
  Shape output_shape(const std::vector<Shape>& in) const override;
  CodeRange output_codes(const CodeRange& in) const override { return in; }
};

// Quantizes a real tensor (residual: none).
class Quantize : public Layer {
 public:
  Quantize(const std::string& name, const QuantSpec& activations);
  Var forward(const std::vector<Var>& in, const Pass& pass) override;
  void visit(const Visitor& visitor) override;
  Shape output_shape(const std::vector<Shape>& in) const override { return in.at(0); }
  CodeRange output_codes(const CodeRange&) const override { return codes_of(*quantizer_); }
  Quantizer& activation_quantizer() { return *quantizer_; }

 private:
  std::string name_;
  std::unique_ptr<Quantizer> quantizer_;
};

// a + b, ReLU, codes (residual: both): v = (a * m) + b * r with m = s_a / s_y, r as the residual's.
class AddUnit : public Layer {
 public:
  AddUnit(const std::string& name, const QuantSpec& activations);
  Var forward(const std::vector<Var>& in, const Pass& pass) override;
  void visit(const Visitor& visitor) override;
  Shape output_shape(const std::vector<Shape>& in) const override { return in.at(0); }
  CodeRange output_codes(const CodeRange&) const override { return codes_of(*quantizer_); }
  Quantizer& activation_quantizer() { return *quantizer_; }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  std::unique_ptr<Quantizer> quantizer_;
};

// [n, 1, 1, c] -> logits [n, classes], f32: float(acc) * (s_x s_w[k]) + bias[k]. Names: fc.weight,
// fc.bias, fc.weight_quant.scale.
class Linear : public Layer {
 public:
  Linear(const std::string& name, int64_t in, int64_t out, const QuantSpec& weights, uint64_t seed,
         uint32_t number);
  Var forward(const std::vector<Var>& in, const Pass& pass) override;
  void visit(const Visitor& visitor) override;
  Shape output_shape(const std::vector<Shape>& in) const override;
  CodeRange output_codes(const CodeRange&) const override { return {}; }
  void check_sums(const CodeRange& codes, const Shape& in) const override;
  Parameter& weight() { return weight_; }
  Parameter& bias() { return bias_; }
  Quantizer& weight_quantizer() { return *weight_quantizer_; }
  Tensor weight_codes();  // i8 [classes, c] with step
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  int64_t in_, out_;
  Parameter weight_, bias_;
  std::unique_ptr<Quantizer> weight_quantizer_;
};

}  // namespace qt
