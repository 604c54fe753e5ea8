// layers/model.cpp -- wiring, running and the state of a network.
#include "layers/model.h"

#include <map>

#include "core/library/arguments.h"

namespace qt {
namespace {

constexpr int no_residual = -2;

}  // namespace

Model::Model(const ModelSpec& spec) : spec_(spec) {
  if (spec.classes < 2)
    throw ConfigError("a model of " + std::to_string(spec.classes) +
                      " classes; at least 2 are needed");
}

int Model::add(const std::string& name, std::unique_ptr<Layer> layer,
               const std::vector<int>& inputs) {
  std::vector<Shape> shapes;
  for (const int i : inputs)
    shapes.push_back(i < 0 ? Shape{1, spec_.image_size, spec_.image_size, 3}
                           : steps_.at(size_t(i)).output);
  const Shape output = layer->output_shape(shapes);
  if (output.elements() < 1)
    throw ConfigError("model " + spec_.name + ": images of " + std::to_string(spec_.image_size) +
                      " pixels are too small: " + name + " would give " + output.text());
  steps_.push_back({name, std::move(layer), inputs, output});
  return int(steps_.size()) - 1;
}

int Model::image() {
  return add("image", std::make_unique<ImageInput>(spec_.mean, spec_.std), {-1});
}

int Model::conv(const std::string& conv_name, const std::string& norm_name, int x,
                const Conv& conv) {
  const QuantPolicy& policy = spec_.quant;
  ConvUnitSpec unit{.conv_name = conv_name,
                    .norm_name = norm_name,
                    .in = channels(x),
                    .out = conv.out,
                    .kernel = conv.kernel,
                    .stride = conv.stride,
                    .padding = conv.padding,
                    .relu = conv.relu,
                    .weights = policy.weights,
                    .activations = policy.activations};
  if (conv.first) unit.weights.bits = policy.first_layer_bits;
  unit.weights.is_signed = true;
  unit.weights.momentum = 1;
  unit.weights.count_elements = true;
  unit.activations.per_channel = false;
  unit.activations.is_signed = !conv.relu;
  const bool separate_add = conv.residual != no_residual && policy.residual == ResidualPolicy::both;
  const bool real_output = policy.residual == ResidualPolicy::none &&
                           (conv.residual != no_residual || !conv.relu || conv.feeds_residual);
  if (separate_add) unit.relu = false, unit.activations.is_signed = true;
  if (policy.overrides) policy.overrides(conv_name, unit.weights, unit.activations);
  const QuantSpec activations = unit.activations;
  if (real_output) unit.activations.kind = "none";
  std::vector<int> inputs{x};
  if (conv.residual != no_residual && !separate_add) inputs.push_back(conv.residual);
  int out = add(conv_name, std::make_unique<ConvUnit>(unit, spec_.seed, layers_made_++), inputs);
  if (!separate_add) return out;
  QuantSpec sum = activations;
  sum.is_signed = false;
  const std::string name = conv_name + ".add";
  QuantSpec unused;
  if (policy.overrides) policy.overrides(name, unused, sum);
  return add(name, std::make_unique<AddUnit>(name, sum), {out, conv.residual});
}

int Model::quantize(const std::string& name, int x) {
  QuantSpec activations = spec_.quant.activations, unused = spec_.quant.weights;
  activations.is_signed = false;
  activations.per_channel = false;
  if (spec_.quant.overrides) spec_.quant.overrides(name, unused, activations);
  return add(name, std::make_unique<Quantize>(name, activations), {x});
}

int Model::max_pool(int x, int64_t kernel, int64_t stride, int64_t padding) {
  return add("maxpool", std::make_unique<MaxPool>(kernel, stride, padding), {x});
}

int Model::flatten(int x) { return add("flatten", std::make_unique<Flatten>(), {x}); }

int Model::global_average_pool(int x) {
  QuantSpec activations = spec_.quant.activations, unused;
  activations.bits = spec_.quant.last_layer_bits;
  activations.is_signed = false;
  activations.per_channel = false;
  if (spec_.quant.overrides) spec_.quant.overrides("avgpool", unused, activations);
  return add("avgpool", std::make_unique<GlobalAveragePool>(activations), {x});
}

int Model::linear(const std::string& name, int x) {
  QuantSpec weights = spec_.quant.weights, unused;
  weights.bits = spec_.quant.last_layer_bits;
  weights.is_signed = true;
  weights.momentum = 1;
  weights.count_elements = true;
  if (spec_.quant.overrides) spec_.quant.overrides(name, weights, unused);
  return add(name,
             std::make_unique<Linear>(name, channels(x), spec_.classes, weights, spec_.seed,
                                      layers_made_++),
             {x});
}

Var Model::forward(const Tensor& images, const Pass& pass) {
  std::vector<size_t> last_use(steps_.size(), 0);
  for (size_t i = 0; i < steps_.size(); ++i)
    for (const int from : steps_[i].inputs)
      if (from >= 0) last_use[size_t(from)] = i;
  std::vector<Var> values(steps_.size());
  for (size_t i = 0; i < steps_.size(); ++i) {
    std::vector<Var> in;
    for (const int from : steps_[i].inputs)
      in.push_back(from < 0 ? Var(images) : values[size_t(from)]);
    values[i] = steps_[i].layer->forward(in, pass);
    for (const int from : steps_[i].inputs)
      if (from >= 0 && last_use[size_t(from)] == i) values[size_t(from)] = Var();
  }
  return values.back();
}

void Model::visit(const Visitor& visitor) {
  for (const Step& step : steps_) step.layer->visit(visitor);
}

std::unique_ptr<Model> make_model(const ModelSpec& spec) {
  return ModelRegistry::make("model", spec.name, spec);
}

namespace {

CodeRange range_of(const Quantizer& quantizer) {
  if (quantizer.spec().kind == "none") return {};
  return {quantizer.spec().lo(), quantizer.spec().hi()};
}

// The codes that a layer emits; those of its input where it keeps them, 0..0 for reals.
CodeRange range_of_output(Layer& layer, const CodeRange& input) {
  if (auto* image = dynamic_cast<ImageInput*>(&layer))
    return {image->codes().lo(), image->codes().hi()};
  if (auto* conv = dynamic_cast<ConvUnit*>(&layer)) return range_of(conv->activation_quantizer());
  if (auto* pool = dynamic_cast<GlobalAveragePool*>(&layer))
    return range_of(pool->activation_quantizer());
  if (auto* codes = dynamic_cast<Quantize*>(&layer)) return range_of(codes->activation_quantizer());
  if (auto* sum = dynamic_cast<AddUnit*>(&layer)) return range_of(sum->activation_quantizer());
  return input;
}

}  // namespace

void check_accumulators(Model& model) {
  std::vector<CodeRange> ranges;
  for (const Model::Step& step : model.steps()) {
    const int from = step.inputs.at(0);
    const CodeRange input = from < 0 ? CodeRange() : ranges.at(size_t(from));
    ranges.push_back(range_of_output(*step.layer, input));
    const auto check = [&](Parameter& weight, const Quantizer& quantizer) {
      const Shape& shape = weight.var.value().shape();
      check_accumulator(input, range_of(quantizer), shape.elements() / shape[0],
                        "layer '" + step.name + "'");
    };
    if (auto* conv = dynamic_cast<ConvUnit*>(step.layer.get()))
      check(conv->weight(), conv->weight_quantizer());
    if (auto* linear = dynamic_cast<Linear*>(step.layer.get()))
      check(linear->weight(), linear->weight_quantizer());
  }
}

std::vector<std::pair<std::string, Tensor>> state_of(Model& model) {
  std::vector<std::pair<std::string, Tensor>> state;
  Visitor visitor;
  visitor.parameter = [&](const std::string& name, Parameter& p) {
    state.emplace_back(name, p.var.value());
  };
  visitor.buffer = [&](const std::string& name, Tensor& t) { state.emplace_back(name, t); };
  model.visit(visitor);
  return state;
}

void load_state(Model& model, const std::vector<std::pair<std::string, Tensor>>& state,
                bool allow_missing_steps) {
  std::map<std::string, Tensor> given(state.begin(), state.end());
  std::vector<std::pair<std::string, Tensor>> chosen;
  const auto take = [&](const std::string& name, const Tensor& now, bool may_miss) {
    const auto found = given.find(name);
    if (found == given.end()) {
      if (may_miss && allow_missing_steps) return Tensor();
      throw CheckpointError("the checkpoint has no tensor '" + name + "' that model " +
                            model.spec().name + " needs");
    }
    const Tensor value = found->second;
    given.erase(found);
    if (value.shape() != now.shape() || value.dtype() != now.dtype())
      throw CheckpointError("tensor '" + name + "' of the checkpoint is " + name_of(value.dtype()) +
                            " " + value.shape().text() + ", model " + model.spec().name + " of " +
                            std::to_string(model.spec().classes) + " classes wants " +
                            name_of(now.dtype()) + " " + now.shape().text());
    return value;
  };
  std::vector<std::pair<Parameter*, Tensor>> parameters;
  std::vector<std::pair<Tensor*, Tensor>> buffers;
  Visitor visitor;
  visitor.parameter = [&](const std::string& name, Parameter& p) {
    parameters.emplace_back(&p, take(name, p.var.value(), p.kind == Parameter::Kind::step));
  };
  visitor.buffer = [&](const std::string& name, Tensor& t) {
    buffers.emplace_back(&t, take(name, t, name.ends_with(".scale_floor")));
  };
  model.visit(visitor);
  if (!given.empty())
    throw CheckpointError("the checkpoint holds a tensor '" + given.begin()->first +
                          "' that model " + model.spec().name + " does not have");
  for (auto& [parameter, value] : parameters)
    if (value.defined()) parameter->set(value);
  for (auto& [buffer, value] : buffers)
    if (value.defined()) *buffer = value;
  model.visit({});  // floors reach their steps
}

}  // namespace qt
