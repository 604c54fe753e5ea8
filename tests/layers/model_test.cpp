// tests/layers/model_test.cpp -- forward modes give the same bits; state travels by name.
#include "layers/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "core/base/philox.h"
#include "core/ops/ops.h"
#include "tests/support/tensors.h"

namespace qt {
namespace {

ModelSpec spec_of(int bits, ResidualPolicy residual = ResidualPolicy::identity) {
  ModelSpec spec;
  spec.name = "resnet20";
  spec.image_size = 8;
  spec.quant.weights.bits = spec.quant.activations.bits = bits;
  spec.quant.weights.per_channel = true;
  spec.quant.residual = residual;
  return spec;
}

Tensor pictures() {
  Tensor images = Tensor::empty({4, 8, 8, 3}, DType::u8);
  Philox draws(5, DrawKind::test);
  for (int64_t i = 0; i < images.elements(); ++i)
    images.data<uint8_t>()[i] = uint8_t(draws.below(256));
  return images;
}

std::unique_ptr<Model> calibrated(const ModelSpec& spec) {
  auto model = make_model(spec);
  const Tape::Pause pause;
  model->forward(pictures(), {.mode = ForwardMode::int8, .calibrate = true});
  return model;
}

// One training pass: logits, then every gradient.
std::vector<Tensor> logits_and_gradients(const ModelSpec& spec, ForwardMode mode) {
  const auto model = calibrated(spec);
  const Var logits = model->forward(pictures(), {.mode = mode, .training = true});
  const Var loss = softmax_cross_entropy(logits, Tensor::of<int64_t>({4}, {1, 2, 3, 4}), 0);
  Tape::current().backward(loss, Tensor::full({1}, 1));
  std::vector<Tensor> all{logits.value()};
  Visitor visitor;
  visitor.parameter = [&](const std::string& name, Parameter& p) {
    EXPECT_TRUE(p.var.grad().defined()) << name;
    if (p.var.grad().defined()) all.push_back(p.var.grad());
  };
  model->visit(visitor);
  return all;
}

class ModelBits : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Bits, ModelBits, testing::Values(2, 4, 8));

TEST_P(ModelBits, IntegerAndExactFloatGiveTheSameLogitsAndGradients) {
  const auto a = logits_and_gradients(spec_of(GetParam()), ForwardMode::int8);
  const auto b = logits_and_gradients(spec_of(GetParam()), ForwardMode::exact_float);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_EQ(a[i].to_vector<float>(), b[i].to_vector<float>()) << i;
}

TEST(Model, IntegerModeRunsIntegerKernelsAndExactFloatRunsFloatOnes) {
  const auto model = calibrated(spec_of(8));
  const auto count = [&](ForwardMode mode) {
    const LibraryTrace trace;
    const Tape::Pause pause;
    model->forward(pictures(), {.mode = mode});
    return std::count_if(trace.calls().begin(), trace.calls().end(), [](const LibraryCall& call) {
      return call.operation == "conv2d_codes" && call.arithmetic != "f32";
    });
  };
  EXPECT_GE(count(ForwardMode::int8), 20)
      << "all convolutions but the first, whose codes are signed";
  EXPECT_EQ(count(ForwardMode::exact_float), 0);
}

TEST(Model, EveryResidualPolicyTrains) {
  for (const ResidualPolicy policy :
       {ResidualPolicy::identity, ResidualPolicy::both, ResidualPolicy::none})
    EXPECT_GT(logits_and_gradients(spec_of(8, policy), ForwardMode::int8).size(), 60u);
}

TEST(Model, StateTravelsByNameAndWhatDoesNotFitIsRefused) {
  const auto model = calibrated(spec_of(8));
  auto state = state_of(*model);
  const auto other = make_model(spec_of(8));
  load_state(*other, state, false);
  const Tape::Pause pause;
  EXPECT_EQ(model->forward(pictures(), {}).value().to_vector<float>(),
            other->forward(pictures(), {}).value().to_vector<float>());
  const auto refuses = [&](const std::string& message) {
    try {
      load_state(*other, state, true);
      ADD_FAILURE() << "accepted; wanted: " << message;
    } catch (const CheckpointError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(message));
    }
  };
  state.emplace_back("layer9.weight", Tensor::full({1}, 1));
  refuses("holds a tensor 'layer9.weight'");
  state.pop_back();
  std::swap(state[0].second, state[1].second);
  refuses("tensor 'conv1.weight' of the checkpoint is f32 [16]");
  std::swap(state[0].second, state[1].second);
  state.erase(state.begin());
  refuses("no tensor 'conv1.weight'");
}

TEST(Model, UnknownNamesListTheKnownOnes) {
  ModelSpec spec = spec_of(8);
  spec.name = "resnet19";
  try {
    make_model(spec);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("resnet18, resnet20"));
  }
}

// Logits and each layer's codes of a pass that does not train.
struct Evaluation : Observer {
  std::map<std::string, Tensor> codes;
  Tensor logits;
  void quantized(const std::string& name, const Tensor&, const Tensor& seen) override {
    codes[name] = seen;
  }
  Evaluation(Model& model, ForwardMode mode) {
    const Tape::Pause pause;
    logits = model.forward(pictures(), {.mode = mode, .observer = this}).value();
  }
};

void expect_same(const Evaluation& a, const Evaluation& b) {
  EXPECT_TRUE(same_bits(a.logits, b.logits));
  ASSERT_EQ(a.codes.size(), b.codes.size());
  for (const auto& [name, codes] : a.codes) {
    ASSERT_TRUE(b.codes.count(name)) << name;
    EXPECT_TRUE(same_bits(codes, b.codes.at(name))) << name;
  }
}

TEST_P(ModelBits, IntegerAndExactFloatGiveTheSameCodesAndLogitsInEvaluation) {
  const auto model = calibrated(spec_of(GetParam()));
  const Evaluation a(*model, ForwardMode::int8), b(*model, ForwardMode::exact_float);
  expect_same(a, b);
  EXPECT_EQ(a.codes.size(), 21u) << "19 convolutions of 3x3 and two downsamplings";
}

TEST_P(ModelBits, LibrariesGiveTheSameCodesAndLogits) {
  const auto model = calibrated(spec_of(GetParam()));
  const Evaluation onednn(*model, ForwardMode::int8);
  const UseLibrary use(library_by_name("reference"));
  expect_same(onednn, Evaluation(*model, ForwardMode::int8));
}

TEST(Model, ResNet18HasTorchvisionsNames) {
  ModelSpec spec = spec_of(8);
  spec.name = "resnet18";
  spec.stem = "imagenet";
  spec.image_size = 64;
  const auto model = make_model(spec);
  std::map<std::string, std::string> shapes;
  for (const auto& [name, tensor] : state_of(*model)) shapes[name] = tensor.shape().text();
  EXPECT_EQ(shapes["conv1.weight"], "[64, 7, 7, 3]");
  EXPECT_EQ(shapes["layer1.1.bn2.bias"], "[64]");
  EXPECT_EQ(shapes["layer2.0.downsample.0.weight"], "[128, 1, 1, 64]");
  EXPECT_EQ(shapes["layer2.0.downsample.1.running_mean"], "[128]");
  EXPECT_EQ(shapes["layer4.1.conv2.weight"], "[512, 3, 3, 512]");
  EXPECT_EQ(shapes["fc.weight"], "[10, 512]");
}

TEST(Model, OverridesReachTheLayersTheyNameAndNoOthers) {
  ModelSpec spec = spec_of(4);
  spec.quant.overrides = [](const std::string& name, QuantSpec& weights, QuantSpec& activations) {
    if (name == "layer2.1.conv2") weights.bits = 3, activations.bits = 5;
  };
  const auto model = make_model(spec);
  std::map<std::string, int> wanted{{"layer2.1.conv2.weight_quant", 3},
                                    {"layer2.1.conv2.act_quant", 5},
                                    {"conv1.weight_quant", 8},
                                    {"fc.weight_quant", 8},
                                    {"avgpool.act_quant", 8}};
  Visitor visitor;
  visitor.quantizer = [&](const std::string& name, Quantizer& q) {
    EXPECT_EQ(q.spec().bits, wanted.count(name) ? wanted[name] : 4) << name;
  };
  model->visit(visitor);
}

TEST(Model, TooSmallImagesAreRefused) {
  ModelSpec spec = spec_of(8);
  spec.image_size = 3;
  Model model(spec);
  const int image = model.image();
  try {
    model.max_pool(image, 5, 2, 0);
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("images of 3 pixels are too small"));
  }
}

}  // namespace
}  // namespace qt
