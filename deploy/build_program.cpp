// deploy/build_program.cpp -- one function per kind of layer: what the integer program makes of it.
#include "deploy/build_program.h"

#include <cmath>

#include "deploy/validate.h"
#include "quant/norm_act.h"

namespace qt {
namespace {

// [n, h, w, c] as [h, w, c]; a flat [n, c] as [1, 1, c].
Shape of_one_image(const Shape& output) {
  if (output.rank() < 4) return Shape({1, 1, output[-1]});
  return Shape({output[1], output[2], output[3]});
}

class Builder {
 public:
  explicit Builder(Model& model) : model_(model) {}

  std::vector<Instruction> build() {
    refuse_float_stream();
    for (const Model::Step& step : model_.steps()) {
      step_ = &step;
      Instruction at;
      at.name = step.name;
      at.output = of_one_image(step.output);
      for (const int input : step.inputs)
        if (input >= 0) at.inputs.push_back(input);
      lower(at);
      list_.push_back(std::move(at));
    }
    return std::move(list_);
  }

 private:
  std::string where() const { return "layer '" + step_->name + "'"; }
  [[noreturn]] void no_program(const std::string& cause) const {
    throw ConfigError(where() + " has no integer program: " + cause);
  }

  // First of all: that such a model was not calibrated, or that some layer emits reals, is not the
  // point.
  void refuse_float_stream() {
    for (const Model::Step& step : model_.steps()) {
      step_ = &step;
      if (dynamic_cast<Quantize*>(step.layer.get()))
        no_program(
            "it quantizes a float residual stream (quant.residual: none); identity and both have a "
            "program");
    }
  }

  void lower(Instruction& at) {
    Layer* layer = step_->layer.get();
    if (auto* image = dynamic_cast<ImageInput*>(layer)) return lower(*image, at);
    if (auto* conv = dynamic_cast<ConvUnit*>(layer)) return lower(*conv, at);
    if (auto* pool = dynamic_cast<MaxPool*>(layer)) return lower(*pool, at);
    if (auto* pool = dynamic_cast<GlobalAveragePool*>(layer)) return lower(*pool, at);
    if (dynamic_cast<Flatten*>(layer)) return lower_flatten(at);
    if (auto* sum = dynamic_cast<AddUnit*>(layer)) return lower(*sum, at);
    if (auto* linear = dynamic_cast<Linear*>(layer)) return lower(*linear, at);
    no_program("its kind is not known to deploy/build_program.cpp");
  }

  const Instruction& input(const Instruction& at, size_t i) const {
    return list_.at(size_t(at.inputs.at(i)));
  }

  void set_codes(Instruction& at, Quantizer& quantizer) const {
    check_quantizer(quantizer, "activations");
    at.lo = quantizer.spec().lo();
    at.hi = quantizer.spec().hi();
    at.step = quantizer.step()->var.value().data<float>()[0];
  }
  void check_quantizer(Quantizer& quantizer, const std::string& what) const {
    const QuantSpec& spec = quantizer.spec();
    if (spec.kind == "none" || !quantizer.step())
      no_program("its " + what + " are not quantized (kind: none)");
    if (spec.lo() < -128 || spec.hi() > 127)
      no_program("its " + what + " use codes " + std::to_string(spec.lo()) + ".." +
                 std::to_string(spec.hi()) +
                 "; the engines' int8 registers hold -128..127 (unsigned_full: false)");
    QT_CHECK(quantizer.ready(),
             where() + ": the quantizer of its " + what +
                 " has no step yet; calibrate or load a quantized checkpoint first");
  }

  // The scale of the raw sums of output channel k, f32 as the training pass's scale tensor.
  static float sum_scale(float x_step, const Tensor& w_step, int64_t k) {
    return x_step * w_step.data<float>()[w_step.elements() == 1 ? 0 : k];
  }
  void finite(const char* what, int64_t k, float value) const {
    if (!std::isfinite(value))
      throw DivergenceError(where() + ": constant " + what + "[" + std::to_string(k) +
                            "] of its integer program is " + std::to_string(value) +
                            "; its batch normalization, steps or weights have diverged");
  }

  void lower(const ImageInput& layer, Instruction& at) {
    const Tensor& codes = layer.codes();
    at.operation = ImageTable{codes.without_scale()};
    at.lo = codes.lo();
    at.hi = codes.hi();
    at.step = codes.step().data<float>()[0];
  }

  void lower(ConvUnit& layer, Instruction& at) {
    set_codes(at, layer.activation_quantizer());
    check_quantizer(layer.weight_quantizer(), "weights");
    const Instruction& x = input(at, 0);
    Conv op;
    op.shape = layer.conv_shape(Shape({1, x.output[0], x.output[1], x.output[2]}));
    op.shape.n = 0;
    op.codes = layer.weight_codes().clone();
    op.m = Tensor::empty({op.shape.k}, DType::f32);
    op.b = Tensor::empty({op.shape.k}, DType::f32);
    const BatchNormState& norm = layer.norm();
    const auto of = [](const Tensor& t, int64_t k) { return double(t.data<float>()[k]); };
    const int64_t weights = op.codes.elements() / op.shape.k;
    for (int64_t k = 0; k < op.shape.k; ++k) {
      const FoldedConstants folded = fold_constants(
          double(sum_scale(x.step, op.codes.step(), k)), of(norm.gamma.var.value(), k),
          of(norm.beta.var.value(), k), of(norm.running_mean, k), of(norm.running_var, k),
          double(norm.eps), double(at.step));
      finite("m", k, folded.m);
      finite("b", k, folded.b);
      op.m.data<float>()[k] = folded.m;
      op.b.data<float>()[k] = folded.b;
      if (folded.live == 0) std::fill_n(op.codes.data<int8_t>() + k * weights, weights, int8_t(0));
    }
    if (at.inputs.size() > 1)
      op.residual_ratio = residual_ratio(double(input(at, 1).step), double(at.step));
    at.operation = std::move(op);
  }

  void lower(const MaxPool& layer, Instruction& at) {
    keep_codes(at);
    at.operation = MaxPoolCodes{layer.kernel, layer.stride, layer.padding};
  }
  void lower_flatten(Instruction& at) {
    keep_codes(at);
    at.operation = FlattenCodes{};
  }
  void keep_codes(Instruction& at) const {
    const Instruction& x = input(at, 0);
    at.lo = x.lo;
    at.hi = x.hi;
    at.step = x.step;
  }

  void lower(GlobalAveragePool& layer, Instruction& at) {
    set_codes(at, layer.activation_quantizer());
    const Instruction& x = input(at, 0);
    // The pool's sums carry the f32 scale step / (h w); the quantizer multiplies them by
    // float(scale / step).
    const float scale = float(double(x.step) / double(x.output[0] * x.output[1]));
    at.operation = AveragePoolCodes{float(double(scale) / double(at.step))};
  }

  void lower(AddUnit& layer, Instruction& at) {
    set_codes(at, layer.activation_quantizer());
    const float m = float(double(input(at, 0).step) / double(at.step));
    at.operation = Add{m, residual_ratio(double(input(at, 1).step), double(at.step))};
  }

  void lower(Linear& layer, Instruction& at) {
    check_quantizer(layer.weight_quantizer(), "weights");
    Classifier op;
    op.codes = layer.weight_codes();
    op.bias = layer.bias().var.value().clone();
    const int64_t classes = op.codes.dim(0);
    op.m = Tensor::empty({classes}, DType::f32);
    for (int64_t k = 0; k < classes; ++k) {
      op.m.data<float>()[k] = sum_scale(input(at, 0).step, op.codes.step(), k);
      finite("m", k, op.m.data<float>()[k]);
      finite("bias", k, op.bias.data<float>()[k]);
    }
    at.output = Shape({1, 1, classes});
    at.operation = std::move(op);
  }

  Model& model_;
  const Model::Step* step_ = nullptr;
  std::vector<Instruction> list_;
};

// A weight that is not finite would become a code like any other.
void check_finite(Model& model) {
  for (const auto& [name, tensor] : state_of(model))
    for (int64_t i = 0; i < tensor.elements(); ++i)
      if (const float value = tensor.data<float>()[i]; !std::isfinite(value))
        throw DivergenceError("tensor '" + name + "' has the value " + std::to_string(value) +
                              " at " + std::to_string(i) +
                              ": the network has diverged and has no integer program");
}

}  // namespace

bool has_program(Model& model) {
  bool codes = true;
  Visitor visitor;
  visitor.quantizer = [&](const std::string&, Quantizer& quantizer) {
    codes = codes && quantizer.spec().kind != "none";
  };
  model.visit(visitor);
  for (const Model::Step& step : model.steps())
    codes = codes && !dynamic_cast<Quantize*>(step.layer.get());
  return codes;
}

Program build_program(Model& model, const BuildOptions& options) {
  const ModelSpec& spec = model.spec();
  check_finite(model);
  check_accumulators(model);
  Program program;
  program.instructions = Builder(model).build();
  program.preprocessing = {spec.image_size, spec.image_size, options.resize, spec.mean, spec.std};
  program.class_names = options.class_names;
  program.notes = options.notes;
  try {
    validate(program, "model '" + spec.name + "'");
  } catch (const CheckpointError& error) {  // what is left are constants out of all proportion
    throw DivergenceError(error.what());
  }
  return program;
}

}  // namespace qt
