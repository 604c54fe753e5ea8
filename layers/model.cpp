// layers/model.cpp -- wiring, running and the state of a network.
#include "layers/model.h"

#include <map>

#include "core/library/arguments.h"

namespace qt {
QuantSpec QuantPolicy::weights_of(int bits) const {
  QuantSpec spec = weights;
  spec.bits = bits;
  spec.is_signed = true;
  spec.momentum = 1;
  spec.count_elements = true;
  return spec;
}

QuantSpec QuantPolicy::activations_of(int bits, bool is_signed) const {
  QuantSpec spec = activations;
  spec.bits = bits;
  spec.is_signed = is_signed;
  spec.per_channel = false;
  return spec;
}

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
  const bool adds = conv.residual.has_value();
  const bool separate_add = adds && policy.residual == ResidualPolicy::both;
  const bool real_output =
      policy.residual == ResidualPolicy::none && (adds || !conv.relu || conv.feeds_residual);
  const bool relu = conv.relu && !separate_add;
  ConvUnitSpec unit{
      .conv_name = conv_name,
      .norm_name = norm_name,
      .in = channels(x),
      .out = conv.out,
      .kernel = conv.kernel,
      .stride = conv.stride,
      .padding = conv.padding,
      .relu = relu,
      .weights = policy.weights_of(conv.first ? policy.first_layer_bits : policy.weights.bits),
      .activations = policy.activations_of(policy.activations.bits, !relu)};
  policy.override_for(conv_name, &unit.weights, real_output ? nullptr : &unit.activations);
  QuantSpec sum = unit.activations;
  if (real_output) unit.activations.kind = "none";
  std::vector<int> inputs{x};
  if (adds && !separate_add) inputs.push_back(*conv.residual);
  const int out =
      add(conv_name, std::make_unique<ConvUnit>(unit, spec_.seed, layers_made_++), inputs);
  if (!separate_add) return out;
  sum.is_signed = false;
  const std::string name = conv_name + ".add";
  policy.override_for(name, nullptr, &sum);
  return add(name, std::make_unique<AddUnit>(name, sum), {out, *conv.residual});
}

int Model::quantize(const std::string& name, int x) {
  const QuantPolicy& policy = spec_.quant;
  QuantSpec activations = policy.activations_of(policy.activations.bits, false);
  policy.override_for(name, nullptr, &activations);
  return add(name, std::make_unique<Quantize>(name, activations), {x});
}

int Model::max_pool(int x, int64_t kernel, int64_t stride, int64_t padding) {
  return add("maxpool", std::make_unique<MaxPool>(kernel, stride, padding), {x});
}

int Model::flatten(int x) { return add("flatten", std::make_unique<Flatten>(), {x}); }

int Model::global_average_pool(int x) {
  QuantSpec activations = spec_.quant.activations_of(spec_.quant.last_layer_bits, false);
  spec_.quant.override_for("avgpool", nullptr, &activations);
  return add("avgpool", std::make_unique<GlobalAveragePool>(activations), {x});
}

int Model::linear(const std::string& name, int x) {
  QuantSpec weights = spec_.quant.weights_of(spec_.quant.last_layer_bits);
  spec_.quant.override_for(name, &weights, nullptr);
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

void check_accumulators(const Model& model) {
  std::vector<CodeRange> codes;
  for (const Model::Step& step : model.steps()) {
    const int from = step.inputs.at(0);
    const CodeRange in = from < 0 ? CodeRange() : codes.at(size_t(from));
    if (from >= 0) step.layer->check_sums(in, model.steps().at(size_t(from)).output);
    codes.push_back(step.layer->output_codes(in));
  }
}

std::vector<std::pair<std::string, Tensor>> state_of(Model& model) {
  std::vector<std::pair<std::string, Tensor>> state;
  Visitor visitor;
  visitor.parameter = [&](const std::string& name, Parameter& p) {
    state.emplace_back(name, p.var.value());
  };
  visitor.buffer = [&](const std::string& name, Tensor& t) { state.emplace_back(name, t); };
  visitor.floor = visitor.buffer;
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
    buffers.emplace_back(&t, take(name, t, false));
  };
  visitor.floor = [&](const std::string& name, Tensor& t) {
    buffers.emplace_back(&t, take(name, t, true));
  };
  model.visit(visitor);
  if (!given.empty())
    throw CheckpointError("the checkpoint holds a tensor '" + given.begin()->first +
                          "' that model " + model.spec().name + " does not have");
  for (auto& [parameter, value] : parameters)
    if (value.defined()) parameter->set(value);
  for (auto& [buffer, value] : buffers)
    if (value.defined()) *buffer = value;
}

}  // namespace qt
