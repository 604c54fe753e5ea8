// layers/model.h -- a network as a list of wired layers: built by the model files, run in order,
// read by deploy.
#pragma once
#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/registry.h"
#include "layers/conv_unit.h"
#include "layers/heads.h"
#include "layers/layer.h"

namespace qt {

// Where residual additions read: see docs/numerics.md.
enum class ResidualPolicy { identity, both, none };

// Which codes each layer gets; filled from the config's `quant` section.
struct QuantPolicy {
  QuantSpec weights, activations;
  int first_layer_bits = 8, last_layer_bits = 8;
  ResidualPolicy residual = ResidualPolicy::identity;
  // Applied to each layer by name ("layer4.1.conv2") after everything else; null for what the layer
  // does not quantize. An addition of residual: both ("layer4.1.conv2.add") has what its
  // convolution's activations have before it is asked for itself.
  using Overrides =
      std::function<void(const std::string& name, QuantSpec* weights, QuantSpec* activations)>;
  Overrides overrides;

  // Before overrides. Weights are signed, and observed whole. Activations have one step.
  QuantSpec weights_of(int bits) const;
  QuantSpec activations_of(int bits, bool is_signed) const;
  void override_for(const std::string& name, QuantSpec* quantized_weights,
                    QuantSpec* quantized_activations) const {
    if (overrides) overrides(name, quantized_weights, quantized_activations);
  }
};

struct ModelSpec {
  std::string name = "resnet18";
  int64_t image_size = 32, classes = 10;
  std::string stem = "cifar";           // imagenet | cifar (resnet18/34)
  std::vector<int64_t> hidden = {256};  // mlp
  std::array<double, 3> mean = {0.5, 0.5, 0.5}, std = {0.25, 0.25, 0.25};
  uint64_t seed = 1;
  QuantPolicy quant;
};

class Model {
 public:
  struct Step {
    std::string name;
    std::unique_ptr<Layer> layer;
    std::vector<int> inputs;  // indices of steps; -1: the image
    Shape output;             // for one image
  };

  explicit Model(const ModelSpec& spec);

  // Logits [n, classes] of u8 images [n, h, w, 3].
  Var forward(const Tensor& images, const Pass& pass);
  void visit(const Visitor& visitor);
  const ModelSpec& spec() const { return spec_; }
  const std::vector<Step>& steps() const { return steps_; }

  // For the model files. Each returns the number of the step it added.
  int add(const std::string& name, std::unique_ptr<Layer> layer, const std::vector<int>& inputs);
  int image();
  struct Conv {
    int64_t out, kernel = 3, stride = 1, padding = 1;
    bool relu = true, first = false;
    bool feeds_residual = false;  // the stem: real where the residual stream is (residual: none)
    std::optional<int> residual = {};  // step whose output is added before the activation
  };
  // conv_name "layer1.0.conv1", norm_name "layer1.0.bn1"
  int conv(const std::string& conv_name, const std::string& norm_name, int x, const Conv& conv);
  int quantize(const std::string& name, int x);  // codes of a real tensor (residual: none)
  int max_pool(int x, int64_t kernel, int64_t stride, int64_t padding);
  int flatten(int x);
  int global_average_pool(int x);
  int linear(const std::string& name, int x);
  int64_t channels(int step) const { return steps_.at(size_t(step)).output[-1]; }

 private:
  ModelSpec spec_;
  std::vector<Step> steps_;
  uint32_t layers_made_ = 0;
};

// Registered in the model's file: static const ModelRegistry::Add add{"resnet20", build}, where
// build makes the network of a spec.
using ModelRegistry = Registry<Model, const ModelSpec&>;
std::unique_ptr<Model> make_model(const ModelSpec& spec);

// ConfigError, naming the layer, where sums of the products of codes may leave the int32
// accumulators of the integer program: inputs per output * largest |code| * largest |weight code|
// >= 2^31; or where the sums of a global average pool, which training holds in f32, may exceed
// 2^24. Layers without codes are not looked at.
void check_accumulators(const Model& model);

// Every parameter and buffer by name, in order: what a checkpoint holds.
std::vector<std::pair<std::string, Tensor>> state_of(Model& model);
// Sets parameters and buffers; CheckpointError naming what is missing, unknown or of another shape.
// Steps may be missing in a checkpoint of float training (allow_missing_steps).
void load_state(Model& model, const std::vector<std::pair<std::string, Tensor>>& state,
                bool allow_missing_steps);

}  // namespace qt
