// layers/heads.cpp -- image table, pools, flatten, add and classifier.
#include "layers/heads.h"

#include <algorithm>
#include <cmath>

#include "core/ops/ops.h"
#include "quant/norm_act.h"

namespace qt {

ImageInput::ImageInput(const std::array<double, 3>& mean, const std::array<double, 3>& std) {
  reals_ = Tensor::empty({3, 256}, DType::f32);
  Tensor codes = Tensor::empty({3, 256}, DType::i8);
  float largest = 0;
  for (int c = 0; c < 3; ++c)
    for (int p = 0; p < 256; ++p) {
      const float real = float((p / 255.0 - mean[size_t(c)]) / std[size_t(c)]);
      reals_.data<float>()[c * 256 + p] = real;
      largest = std::max(largest, std::fabs(real));
    }
  const float step = largest / 127;
  for (int i = 0; i < 3 * 256; ++i)
    codes.data<int8_t>()[i] =
        int8_t(std::clamp(std::rint(reals_.data<float>()[i] / step), -127.0f, 127.0f));
  codes_ = codes.with_scale(Tensor::full({1}, step), -127, 127);
}

void ImageInput::visit(const Visitor& visitor) {
  visitor.constant("image.codes", codes_);
  visitor.constant("image.reals", reals_);
}

Var MaxPool::forward(const std::vector<Var>& in, const Pass&) {
  return max_pool2d(in.at(0), {.kernel = kernel, .stride = stride, .padding = padding});
}

Shape MaxPool::output_shape(const std::vector<Shape>& in) const {
  const Shape& x = in.at(0);
  return {x[0], window_positions(x[1], padding, kernel, stride),
          window_positions(x[2], padding, kernel, stride), x[3]};
}

GlobalAveragePool::GlobalAveragePool(const QuantSpec& activations)
    : quantizer_(make_quantizer(activations, 1)) {}

Var GlobalAveragePool::forward(const std::vector<Var>& in, const Pass& pass) {
  const Var pooled = global_average_pool(in.at(0));
  if (!pass.quantized()) return pooled;
  const auto real = [&] {  // pooled are sums of codes
    const Tape::Pause pause;
    const NormAct plain{
        .name = "avgpool", .y = pooled, .norm = nullptr, .residual = Var(), .relu = false};
    return norm_act_real(plain, {.mode = pass.mode}).value();
  };
  if (quantizer_->observes(pass)) quantizer_->observe(real());
  const Var codes = quantizer_->quantize(pooled, pass);
  if (is_watched(codes, pass)) pass.observer->quantized("avgpool", real(), codes.value());
  return codes;
}

void GlobalAveragePool::visit(const Visitor& visitor) {
  visit_quantizer(visitor, "avgpool.act_quant", *quantizer_);
}

Shape GlobalAveragePool::output_shape(const std::vector<Shape>& in) const {
  return {in.at(0)[0], 1, 1, in.at(0)[3]};
}

void GlobalAveragePool::check_sums(const CodeRange& codes, const Shape& in) const {
  const int64_t largest = codes.magnitude();
  if (in[1] * in[2] * largest > int64_t{1} << 24)
    throw ConfigError("layer 'avgpool': sums of " + std::to_string(in[1]) + " x " +
                      std::to_string(in[2]) + " codes up to " + std::to_string(largest) +
                      " may exceed 2^24, to which f32 is exact; take smaller pictures or fewer "
                      "bits");
}

Var Flatten::forward(const std::vector<Var>& in, const Pass&) {
  return reshape(in.at(0), output_shape({in.at(0).value().shape()}));
}

Shape Flatten::output_shape(const std::vector<Shape>& in) const {
  const Shape& x = in.at(0);
  return {x[0], 1, 1, x[1] * x[2] * x[3]};
}

Quantize::Quantize(const std::string& name, const QuantSpec& activations)
    : name_(name), quantizer_(make_quantizer(activations, 1)) {}

Var Quantize::forward(const std::vector<Var>& in, const Pass& pass) {
  return quantized_output(name_, in.at(0), *quantizer_, pass);
}

void Quantize::visit(const Visitor& visitor) {
  visit_quantizer(visitor, name_ + ".act_quant", *quantizer_);
}

AddUnit::AddUnit(const std::string& name, const QuantSpec& activations)
    : name_(name), quantizer_(make_quantizer(activations, 1)) {}

Var AddUnit::forward(const std::vector<Var>& in, const Pass& pass) {
  const NormAct args{
      .name = name_, .y = in.at(0), .norm = nullptr, .residual = in.at(1), .relu = true};
  return norm_act(args, *quantizer_, pass);
}

void AddUnit::visit(const Visitor& visitor) {
  visit_quantizer(visitor, name_ + ".act_quant", *quantizer_);
}

Linear::Linear(const std::string& name, int64_t in, int64_t out, const QuantSpec& weights,
               uint64_t seed, uint32_t number)
    : name_(name),
      in_(in),
      out_(out),
      weight_(normal_weights({out, in}, std::sqrt(1.0 / double(3 * in)), seed, number)),
      bias_(constant_parameter(out, 0, Parameter::Kind::bias)),
      weight_quantizer_(make_quantizer(weights, out)) {}

Shape Linear::output_shape(const std::vector<Shape>& in) const { return {in.at(0)[0], out_}; }

void Linear::check_sums(const CodeRange& codes, const Shape&) const {
  check_accumulator(codes, codes_of(*weight_quantizer_), in_, "layer '" + name_ + "'");
}

Tensor Linear::weight_codes() { return weight_codes_of(weight_, *weight_quantizer_); }

Var Linear::forward(const std::vector<Var>& in, const Pass& pass) {
  const Var flat = reshape(in.at(0), {in.at(0).value().dim(0), in_});
  const Var w =
      pass.quantized() ? quantized_weight(name_, weight_, *weight_quantizer_, pass) : weight_.var;
  return scale_bias(linear(flat, w, {.path = pass.path(), .backward = pass.backward}), bias_.var);
}

void Linear::visit(const Visitor& visitor) {
  visitor.parameter(name_ + ".weight", weight_);
  visitor.parameter(name_ + ".bias", bias_);
  visit_quantizer(visitor, name_ + ".weight_quant", *weight_quantizer_);
}

}  // namespace qt
