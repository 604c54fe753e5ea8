// tests/core/ops/golden_resnet20_test.cpp -- a ResNet-20 written out in operations: two training
// steps, as PyTorch's.
#include "tests/support/golden_resnet20.h"

#include <gtest/gtest.h>

#include "core/ops/ops.h"

namespace qt {
namespace {

namespace golden = golden_resnet20;

class Network {
 public:
  Network() {
    for (const auto& [name, value] : golden::initial_values())
      parameters_.emplace(name, Var(value, true));
  }

  Var forward(Var x) {
    x = relu(conv("conv1", "bn1", x, 1));
    for (int stage = 1; stage <= 3; ++stage)
      for (int i = 0; i < 3; ++i)
        x = block("layer" + std::to_string(stage) + "." + std::to_string(i) + ".", x,
                  stage > 1 && i == 0);
    x = reshape(global_average_pool(x), {x.value().dim(0), 64});
    return scale_bias(linear(x, parameters_.at("fc.weight"), {}), parameters_.at("fc.bias"));
  }

  std::map<std::string, Tensor> gradients() const {
    std::map<std::string, Tensor> all;
    for (const auto& [name, p] : parameters_) all[name] = p.grad();
    return all;
  }
  std::map<std::string, Tensor> weights() const {
    std::map<std::string, Tensor> all;
    for (const auto& [name, p] : parameters_) all[name] = p.value();
    return all;
  }
  const std::map<std::string, Tensor>& buffers() const { return buffers_; }

  void sgd_step() {
    for (auto& [name, p] : parameters_) {
      Tensor& velocity = velocity_[name];
      const bool first = !velocity.defined(), decays = p.value().shape().rank() > 1;
      Tensor v = Tensor::empty(p.value().shape(), DType::f32),
             w = Tensor::empty(v.shape(), DType::f32);
      for (int64_t i = 0; i < v.elements(); ++i) {
        const double before = p.value().data<float>()[i];
        const double g = p.grad().data<float>()[i] + (decays ? golden::weight_decay * before : 0);
        v.data<float>()[i] = float(first ? g : golden::momentum * velocity.data<float>()[i] + g);
        w.data<float>()[i] = float(before - golden::learning_rate * v.data<float>()[i]);
      }
      velocity = v;
      p.set_value(w);
      p.clear_grad();
    }
  }

 private:
  Var conv(const std::string& name, const std::string& norm, const Var& x, int64_t stride) {
    const Var& w = parameters_.at(name + ".weight");
    const int64_t channels = w.value().dim(0);
    Tensor& mean =
        buffers_.try_emplace(norm + ".running_mean", Tensor::full({channels}, 0)).first->second;
    Tensor& var =
        buffers_.try_emplace(norm + ".running_var", Tensor::full({channels}, 1)).first->second;
    const Var y = conv2d(x, w, {.stride = stride, .padding = w.value().dim(1) / 2});
    return batch_norm(y, parameters_.at(norm + ".weight"), parameters_.at(norm + ".bias"), mean,
                      var, {});
  }
  Var block(const std::string& name, const Var& x, bool down) {
    const Var h = relu(conv(name + "conv1", name + "bn1", x, down ? 2 : 1));
    const Var y = conv(name + "conv2", name + "bn2", h, 1);
    return relu(add(y, down ? conv(name + "downsample.0", name + "downsample.1", x, 2) : x));
  }

  std::map<std::string, Var> parameters_;
  std::map<std::string, Tensor> buffers_, velocity_;
};

Tensor real_images() {
  const Tensor pixels = golden::pixels();
  Tensor x = Tensor::empty(pixels.shape(), DType::f32);
  for (int64_t i = 0; i < x.elements(); ++i)
    x.data<float>()[i] =
        float((pixels.data<uint8_t>()[i] / 255.0 - golden::pixel_mean) / golden::pixel_std);
  return x;
}

// Plain loops stay within a few roundings of PyTorch's direct sums, more in the second step, which
// multiplies those of the first. Winograd's roundings are ten times larger and turn the sign of
// some activations next to zero, whose gradients then come or go: of its second step only the
// outcome is compared.
class GoldenResNet20 : public testing::TestWithParam<std::string> {};

TEST_P(GoldenResNet20, TwoTrainingStepsInOperationsEqualPyTorch) {
  const UseLibrary use(library_by_name(GetParam()));
  const Golden file("resnet20.safetensors");
  Network network;
  for (int step = 0; step < 2; ++step) {
    const std::string prefix = "step" + std::to_string(step) + ".";
    const bool plain = GetParam() == "reference";
    const double tolerance = step == 0 ? (plain ? 2e-5 : 5e-3) : (plain ? 5e-4 : 5e-2);
    const Var logits = network.forward(Var(real_images()));
    const Var loss = softmax_cross_entropy(logits, file["labels"], 0);
    EXPECT_EQ(difference_of(doubles(logits.value()), doubles(file[prefix + "logits"]), tolerance),
              "")
        << prefix;
    EXPECT_EQ(difference_of(doubles(loss.value()), doubles(file[prefix + "loss"]), tolerance), "")
        << prefix;
    Tape::current().backward(loss, Tensor::full({1}, 1));
    if (plain || step == 0)
      golden::expect_equal(file, prefix + "gradient", network.gradients(), tolerance);
    network.sgd_step();
    if (plain || step == 0)
      golden::expect_equal(file, prefix + "weight", network.weights(), tolerance);
    if (step > 0) continue;
    for (const auto& [name, value] : network.buffers())
      EXPECT_EQ(difference_of(doubles(value), doubles(file["step0.buffer." + name]), tolerance), "")
          << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Libraries, GoldenResNet20, testing::Values("onednn", "reference"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace qt
