// tests/layers/resnet50_test.cpp -- ResNet-50: torchvision's names and shapes, where its stride and
// its quantizers are, and the same bits from integers and from integer-valued floats.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>

#include "layers/model.h"
#include "tests/layers/training_pass.h"
#include "tests/support/places.h"
#include "tests/support/tensors.h"

namespace qt {
namespace {

ModelSpec spec_of(int64_t image_size, ResidualPolicy residual = ResidualPolicy::identity) {
  ModelSpec spec;
  spec.name = "resnet50";
  spec.stem = "imagenet";
  spec.image_size = image_size;
  spec.quant.weights.per_channel = true;
  spec.quant.residual = residual;
  return spec;
}

// Weights are many: tests that only look share one network, torchvision's own.
Model& classifier_of_1000() {
  static const std::unique_ptr<Model> model = [] {
    ModelSpec spec = spec_of(224);
    spec.classes = 1000;
    return make_model(spec);
  }();
  return *model;
}

const Model::Step& step_of(const Model& model, const std::string& name) {
  const auto found = std::find_if(model.steps().begin(), model.steps().end(),
                                  [&](const Model::Step& step) { return step.name == name; });
  if (found == model.steps().end()) throw std::runtime_error("no step " + name);
  return *found;
}

const ConvUnitSpec& unit_of(const Model& model, const std::string& name) {
  return dynamic_cast<const ConvUnit&>(*step_of(model, name).layer).spec();
}

std::map<std::string, QuantSpec> quantizers_of(Model& model) {
  std::map<std::string, QuantSpec> specs;
  Visitor visitor;
  visitor.quantizer = [&](const std::string& name, Quantizer& q) { specs[name] = q.spec(); };
  model.visit(visitor);
  return specs;
}

TEST(ResNet50, HasTorchvisionsNamesShapesAndNumberOfParameters) {
  std::ifstream file(source_folder() + "/tests/golden/resnet50_names.txt");
  std::map<std::string, std::string> wanted, got;
  for (std::string line; std::getline(file, line);)
    wanted[line.substr(0, line.find(' '))] = line.substr(line.find(' ') + 1);
  ASSERT_EQ(wanted.size(), 53u * 5 + 2) << "53 convolutions with normalization, and a classifier";
  int64_t parameters = 0;
  Visitor visitor;
  visitor.parameter = [&](const std::string& name, Parameter& p) {
    if (p.kind == Parameter::Kind::step) return;
    parameters += p.var.value().elements();
    got[name] = p.var.value().shape().text();
  };
  visitor.buffer = [&](const std::string& name, Tensor& t) { got[name] = t.shape().text(); };
  classifier_of_1000().visit(visitor);
  EXPECT_EQ(got, wanted);
  EXPECT_EQ(parameters, 25557032) << "as torchvision's documentation says";
}

TEST(ResNet50, HalvesThePictureFiveTimesWithTheStrideInTheMiddleConvolution) {
  const Model& model = classifier_of_1000();
  EXPECT_EQ(step_of(model, "conv1").output, (Shape{1, 112, 112, 64}));
  EXPECT_EQ(step_of(model, "maxpool").output, (Shape{1, 56, 56, 64}));
  EXPECT_EQ(step_of(model, "layer1.2.conv3").output, (Shape{1, 56, 56, 256}));
  EXPECT_EQ(step_of(model, "layer2.0.conv1").output, (Shape{1, 56, 56, 128})) << "v1.5";
  EXPECT_EQ(step_of(model, "layer2.0.conv2").output, (Shape{1, 28, 28, 128}));
  EXPECT_EQ(step_of(model, "layer3.5.conv3").output, (Shape{1, 14, 14, 1024}));
  EXPECT_EQ(step_of(model, "layer4.2.conv3").output, (Shape{1, 7, 7, 2048}));
  EXPECT_EQ(step_of(model, "fc").output[-1], 1000);
  for (const auto& [name, kernel, stride] : {std::tuple{"layer3.0.conv1", 1, 1},
                                             {"layer3.0.conv2", 3, 2},
                                             {"layer3.0.conv3", 1, 1},
                                             {"layer3.0.downsample.0", 1, 2},
                                             {"layer1.0.downsample.0", 1, 1},
                                             {"layer3.1.conv2", 3, 1}}) {
    EXPECT_EQ(unit_of(model, name).kernel, kernel) << name;
    EXPECT_EQ(unit_of(model, name).stride, stride) << name;
  }
}

TEST(ResNet50, ABlocksLastConvolutionAddsItsInputOrItsProjection) {
  const Model& model = classifier_of_1000();
  const auto& steps = model.steps();
  const auto inputs_of = [&](const std::string& name) {
    std::vector<std::string> names;
    for (const int input : step_of(model, name).inputs) names.push_back(steps[size_t(input)].name);
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(inputs_of("layer1.0.conv3"), (Names{"layer1.0.conv2", "layer1.0.downsample.0"}));
  EXPECT_EQ(inputs_of("layer1.1.conv3"), (Names{"layer1.1.conv2", "layer1.0.conv3"}));
  EXPECT_EQ(inputs_of("layer2.0.downsample.0"), Names{"layer1.2.conv3"});
  EXPECT_FALSE(unit_of(model, "layer1.0.downsample.0").relu);
  for (const char* name : {"layer1.0.conv1", "layer1.0.conv2", "layer1.0.conv3"})
    EXPECT_TRUE(unit_of(model, name).relu) << name;
}

TEST(ResNet50, KnowsTheStemForSmallPictures) {
  ModelSpec spec = spec_of(32);
  spec.stem = "cifar";
  const auto model = make_model(spec);
  EXPECT_EQ(step_of(*model, "conv1").output, (Shape{1, 32, 32, 64}));
  EXPECT_EQ(step_of(*model, "layer4.2.conv3").output, (Shape{1, 4, 4, 2048}));
}

// What a bottleneck's units emit under each policy, and where its sums get a quantizer.
TEST(ResNet50, QuantizersOfABottleneckFollowTheResidualPolicy) {
  const auto identity = quantizers_of(classifier_of_1000());
  EXPECT_FALSE(identity.at("layer1.0.conv2.act_quant").is_signed);
  EXPECT_FALSE(identity.at("layer1.0.conv3.act_quant").is_signed) << "it adds, then its ReLU";
  EXPECT_TRUE(identity.at("layer1.0.downsample.0.act_quant").is_signed);
  EXPECT_FALSE(identity.count("layer1.0.conv3.add.act_quant"));

  const auto both = quantizers_of(*make_model(spec_of(64, ResidualPolicy::both)));
  EXPECT_FALSE(both.at("layer1.0.conv2.act_quant").is_signed) << "nothing is added to it";
  EXPECT_TRUE(both.at("layer1.0.conv3.act_quant").is_signed) << "one side of a sum";
  EXPECT_FALSE(both.at("layer1.0.conv3.add.act_quant").is_signed);

  const auto none = quantizers_of(*make_model(spec_of(64, ResidualPolicy::none)));
  for (const char* real :
       {"conv1.act_quant", "layer1.0.downsample.0.act_quant", "layer1.0.conv3.act_quant"})
    EXPECT_EQ(none.at(real).kind, "none") << real;
  for (const char* codes :
       {"layer1.0.input.act_quant", "layer1.0.conv1.act_quant", "layer1.0.conv2.act_quant"})
    EXPECT_EQ(none.at(codes).kind, "lsq") << codes;
}

TEST(ResNet50, IntegerAndExactFloatGiveTheSameLogitsAndGradients) {
  const auto a = logits_and_gradients(spec_of(32), ForwardMode::int8);
  const auto b = logits_and_gradients(spec_of(32), ForwardMode::exact_float);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i], b[i])) << i;
}

}  // namespace
}  // namespace qt
