// tests/layers/model_test.cpp -- forward modes give the same bits; state travels by name.
#include "layers/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "tests/layers/training_pass.h"
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
    model->forward(pictures(8), {.mode = mode});
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
  EXPECT_EQ(model->forward(pictures(8), {}).value().to_vector<float>(),
            other->forward(pictures(8), {}).value().to_vector<float>());
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
    for (const char* name : {"mlp", "resnet18", "resnet34", "resnet20", "resnet56"})
      EXPECT_THAT(error.what(), testing::HasSubstr(name));
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
    logits = model.forward(pictures(8), {.mode = mode, .observer = this}).value();
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
  EXPECT_EQ(a.codes.size(), 44u)
      << "19 convolutions of 3x3 and two downsamplings, each with weights; pool and classifier";
}

TEST_P(ModelBits, LibrariesGiveTheSameCodesAndLogits) {
  const auto model = calibrated(spec_of(GetParam()));
  const Evaluation onednn(*model, ForwardMode::int8);
  const UseLibrary use(library_by_name("reference"));
  expect_same(onednn, Evaluation(*model, ForwardMode::int8));
}

const ConvUnit& last_unit(const Model& model) {
  const ConvUnit* last = nullptr;
  for (const Model::Step& step : model.steps())
    if (auto* unit = dynamic_cast<ConvUnit*>(step.layer.get())) last = unit;
  return *last;
}

int64_t count_units(const Model& model) {
  return std::count_if(model.steps().begin(), model.steps().end(), [](const Model::Step& step) {
    return dynamic_cast<ConvUnit*>(step.layer.get()) != nullptr;
  });
}

// What the layer before the average pool emits.
Shape last_picture(const Model& model) { return model.steps().at(model.steps().size() - 3).output; }

TEST(Model, ResNet18HasTorchvisionsNamesAndNumberOfParameters) {
  ModelSpec spec = spec_of(8);
  spec.name = "resnet18";
  spec.stem = "imagenet";
  spec.image_size = 64;
  spec.classes = 10;
  const auto model = make_model(spec);
  std::map<std::string, std::string> shapes;
  for (const auto& [name, tensor] : state_of(*model)) shapes[name] = tensor.shape().text();
  int64_t parameters = 0;
  Visitor visitor;
  visitor.parameter = [&](const std::string&, Parameter& p) {
    if (p.kind != Parameter::Kind::step) parameters += p.var.value().elements();
  };
  model->visit(visitor);
  EXPECT_EQ(parameters, 11689512 - 990 * (512 + 1)) << "torchvision's has 1000 classes";
  EXPECT_EQ(count_units(*model), 17 + 3) << "three are projections";
  EXPECT_EQ(last_picture(*model), (Shape{1, 2, 2, 512}));
  EXPECT_EQ(shapes["conv1.weight"], "[64, 7, 7, 3]");
  EXPECT_EQ(shapes["layer1.1.bn2.bias"], "[64]");
  EXPECT_EQ(shapes["layer2.0.downsample.0.weight"], "[128, 1, 1, 64]");
  EXPECT_EQ(shapes["layer2.0.downsample.1.running_mean"], "[128]");
  EXPECT_EQ(shapes["layer4.1.conv2.weight"], "[512, 3, 3, 512]");
  EXPECT_EQ(shapes["fc.weight"], "[10, 512]");
}

TEST(Model, OverridesReachTheLayersTheyNameAndNoOthers) {
  ModelSpec spec = spec_of(4);
  spec.quant.overrides = [](const std::string& name, QuantSpec* weights, QuantSpec* activations) {
    if (name == "layer2.1.conv2") weights->bits = 3, activations->bits = 5;
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

TEST(Model, CifarResNetsHaveTheirDepthAndHalveThePictureTwice) {
  ModelSpec spec = spec_of(8);
  spec.image_size = 32;
  for (const int depth : {20, 32, 44, 56}) {
    spec.name = "resnet" + std::to_string(depth);
    const auto model = make_model(spec);
    EXPECT_EQ(count_units(*model), depth - 1 + 2) << "two are projections";
    EXPECT_EQ(last_picture(*model), (Shape{1, 8, 8, 64}));
  }
}

TEST(Model, ResNet34HasItsDepthAndKnowsTwoStems) {
  ModelSpec spec = spec_of(8);
  spec.name = "resnet34";
  spec.image_size = 32;
  const auto model = make_model(spec);
  EXPECT_EQ(count_units(*model), 33 + 3) << "three are projections";
  EXPECT_EQ(last_picture(*model), (Shape{1, 4, 4, 512})) << "stem: cifar";
  spec.stem = "tiny";
  try {
    make_model(spec);
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("got 'tiny', want one of: imagenet, cifar"));
  }
}

TEST(Model, MlpHasTheHiddenLayersAskedFor) {
  ModelSpec spec = spec_of(4);
  spec.name = "mlp";
  spec.hidden = {33, 20};
  const auto model = make_model(spec);
  std::map<std::string, std::string> shapes;
  for (const auto& [name, tensor] : state_of(*model)) shapes[name] = tensor.shape().text();
  EXPECT_EQ(shapes["linear0.weight"], "[33, 1, 1, 192]");
  EXPECT_EQ(shapes["linear1.weight"], "[20, 1, 1, 33]");
  EXPECT_EQ(shapes["fc.weight"], "[10, 20]");
  EXPECT_EQ(last_unit(*model).spec().weights.bits, 4);
  auto* first = dynamic_cast<ConvUnit*>(model->steps().at(2).layer.get());
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->spec().weights.bits, 8) << "the first layer's own width";
}

TEST(Model, OneClassIsRefused) {
  ModelSpec spec = spec_of(8);
  spec.classes = 1;
  EXPECT_THROW(make_model(spec), ConfigError);
}

std::map<std::string, QuantSpec> quantizers_of(const ModelSpec& spec) {
  const auto model = make_model(spec);
  std::map<std::string, QuantSpec> specs;
  Visitor visitor;
  visitor.quantizer = [&](const std::string& name, Quantizer& q) { specs[name] = q.spec(); };
  model->visit(visitor);
  return specs;
}

TEST(Model, WeightsAreSignedAndActivationsFollowTheirRelu) {
  for (const ResidualPolicy policy :
       {ResidualPolicy::identity, ResidualPolicy::both, ResidualPolicy::none}) {
    ModelSpec spec = spec_of(4, policy);
    spec.quant.weights.is_signed = false;  // must not reach a layer
    spec.quant.activations.per_channel = true;
    for (const auto& [name, q] : quantizers_of(spec)) {
      SCOPED_TRACE(name);
      const bool weights = name.ends_with("weight_quant");
      const bool no_relu = name.find("downsample") != std::string::npos ||
                           (policy == ResidualPolicy::both && name.ends_with("conv2.act_quant"));
      EXPECT_EQ(q.is_signed, weights || no_relu);
      EXPECT_EQ(q.per_channel, weights);
      if (!weights) continue;
      EXPECT_EQ(q.momentum, 1) << "a weight's range is known, not estimated";
      EXPECT_TRUE(q.count_elements);
    }
  }
}

TEST(Model, AFloatResidualStreamQuantizesBlockInputsAndNothingInIt) {
  const auto specs = quantizers_of(spec_of(4, ResidualPolicy::none));
  for (const char* real : {"conv1.act_quant", "layer1.0.conv2.act_quant",
                           "layer2.0.downsample.0.act_quant", "layer3.2.conv2.act_quant"})
    EXPECT_EQ(specs.at(real).kind, "none") << real;
  for (const char* codes : {"layer1.0.input.act_quant", "layer1.0.conv1.act_quant",
                            "layer3.2.input.act_quant", "avgpool.act_quant"})
    EXPECT_EQ(specs.at(codes).kind, "lsq") << codes;
}

TEST(Model, OverridesReachPoolsBlockInputsSumsAndTheClassifier) {
  for (const auto& [policy, name] : {std::pair{ResidualPolicy::none, "layer1.0.input.act_quant"},
                                     {ResidualPolicy::both, "layer1.0.conv2.add.act_quant"},
                                     {ResidualPolicy::identity, "avgpool.act_quant"},
                                     {ResidualPolicy::identity, "fc.weight_quant"}}) {
    ModelSpec spec = spec_of(4, policy);
    spec.quant.overrides = [](const std::string& layer, QuantSpec* weights, QuantSpec* a) {
      if (layer != "layer1.0.input" && layer != "layer1.0.conv2" && layer != "avgpool" &&
          layer != "fc")
        return;
      if (weights) weights->bits = 3;
      if (a) a->bits = 3;
    };
    EXPECT_EQ(quantizers_of(spec).at(name).bits, 3) << name;
  }
}

TEST(Model, AnOverrideOfASumStandsAboveThatOfItsConvolution) {
  ModelSpec spec = spec_of(4, ResidualPolicy::both);
  spec.quant.overrides = [](const std::string& layer, QuantSpec*, QuantSpec* a) {
    if (layer == "layer1.0.conv2") a->bits = 3;
    if (layer == "layer1.0.conv2.add") a->bits = 6;
  };
  const auto specs = quantizers_of(spec);
  EXPECT_EQ(specs.at("layer1.0.conv2.act_quant").bits, 3);
  EXPECT_EQ(specs.at("layer1.0.conv2.add.act_quant").bits, 6);
  EXPECT_FALSE(specs.at("layer1.0.conv2.add.act_quant").is_signed);
  EXPECT_EQ(specs.at("layer1.1.conv2.add.act_quant").bits, 4);
}

// Sums of codes up to 127 are exact in f32 over 132,104 pixels: 363 x 363 fit, 364 x 364 do not.
TEST(Model, AveragesBeyondTheMantissaOfAFloatAreRefused) {
  const auto refusal = [](int64_t image_size) -> std::string {
    ModelSpec spec = spec_of(8);
    spec.name = "resnet20";
    spec.image_size = image_size;
    try {
      check_accumulators(*make_model(spec));
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refusal(4 * 363), "accepted");
  EXPECT_THAT(refusal(4 * 364),
              testing::StartsWith("layer 'avgpool': sums of 364 x 364 codes up to 127"));
}

// 2^31 is first reached by 133,145 products of 127 * 127: 133,128 fit and 134,832 do not.
TEST(Model, SumsBeyondInt32AreRefusedByTheNameOfTheLayer) {
  const auto refusal = [](int64_t image_size, const std::vector<int64_t>& hidden,
                          const std::string& without = "") -> std::string {
    ModelSpec spec = spec_of(8);
    spec.name = "mlp";
    spec.image_size = image_size;
    spec.hidden = hidden;
    spec.quant.overrides = [&](const std::string& name, QuantSpec* weights, QuantSpec*) {
      if (name == without) weights->kind = "none";
    };
    try {
      check_accumulators(*make_model(spec));
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refusal(210, {1}), "accepted");
  EXPECT_THAT(refusal(212, {1}), testing::StartsWith("layer 'linear0': 134832 products"));
  EXPECT_EQ(refusal(212, {1}, "linear0"), "accepted") << "without codes there are no int32 sums";
  EXPECT_THAT(refusal(2, {133200}), testing::StartsWith("layer 'fc': 133200 products"));
  EXPECT_THAT(refusal(2, {133200, 1}), testing::StartsWith("layer 'linear1': 133200 products"));
}

// Without codes the policies are one network.
TEST(Model, ResidualPoliciesAgreeInFloat) {
  std::vector<std::vector<double>> logits;
  for (const ResidualPolicy policy :
       {ResidualPolicy::identity, ResidualPolicy::both, ResidualPolicy::none}) {
    const Tape::Pause pause;
    logits.push_back(doubles(make_model(spec_of(8, policy))
                                 ->forward(pictures(8), {.mode = ForwardMode::float32})
                                 .value()));
  }
  EXPECT_EQ(difference_of(logits[1], logits[0], 1e-5), "");
  EXPECT_EQ(difference_of(logits[2], logits[0], 1e-5), "");
}

TEST(Model, AFloatCheckpointHasNoStepsAndLoadsWhereTheyMayMiss) {
  const auto trained = calibrated(spec_of(8)), fresh = make_model(spec_of(8));
  auto state = state_of(*trained), floats_only = state;
  std::erase_if(floats_only, [](const auto& entry) {
    return entry.first.ends_with(".scale") || entry.first.ends_with(".scale_floor");
  });
  EXPECT_THROW(load_state(*fresh, floats_only, false), CheckpointError);
  load_state(*fresh, floats_only, true);
  for (const auto& [name, tensor] : state_of(*fresh))
    if (name.ends_with(".scale")) {
      EXPECT_EQ(tensor.data<float>()[0], 0) << name;
    }
  EXPECT_TRUE(same_bits(state_of(*fresh)[0].second, state[0].second));
  load_state(*fresh, state, false);
  Visitor visitor;
  visitor.parameter = [](const std::string& name, Parameter& p) {
    EXPECT_EQ(p.floor.defined(), p.kind == Parameter::Kind::step) << name;
    if (!p.floor.defined()) return;
    EXPECT_GT(p.floor.data<float>()[0], 0) << name;
  };
  fresh->visit(visitor);
  state[0].second = Tensor::zeros(state[0].second.shape(), DType::i32);
  EXPECT_THROW(load_state(*fresh, state, false), CheckpointError) << "of another type";
}

TEST(Model, TooSmallImagesAreRefused) {
  ModelSpec spec = spec_of(8);
  spec.image_size = 3;
  const auto refuses = [&](const std::string& layer, auto add) {
    Model model(spec);
    try {
      add(model, model.image());
      ADD_FAILURE() << layer << " was accepted";
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("images of 3 pixels are too small: " + layer));
    }
  };
  // One pixel is missing for a window of 4 (division would round -1 / 2 to 0, and find a window),
  // and more for the others. Where both sides lack several, the product of two negative extents
  // would be positive.
  for (const int64_t kernel : {4, 5, 8, 11}) {
    refuses("maxpool", [&](Model& model, int x) { model.max_pool(x, kernel, 2, 0); });
    refuses("conv1", [&](Model& model, int x) {
      model.conv("conv1", "bn1", x, {.out = 4, .kernel = kernel, .stride = 2, .padding = 0});
    });
  }
  Model fits(spec);
  EXPECT_EQ(fits.steps().at(size_t(fits.max_pool(fits.image(), 3, 2, 0))).output,
            (Shape{1, 1, 1, 3}));
}

}  // namespace
}  // namespace qt
