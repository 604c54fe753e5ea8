// tests/deploy/build_program_test.cpp -- the program of a model computes what the model's frozen
// forward pass computes.
#include "deploy/build_program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <ostream>
#include <random>
#include <set>

#include "deploy/compare.h"
#include "deploy/model_file.h"
#include "deploy/report.h"
#include "tests/deploy/programs.h"

namespace qt::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

ModelSpec spec_of(const std::string& name, int weight_bits, int activation_bits,
                  ResidualPolicy residual) {
  ModelSpec spec;
  spec.name = name;
  spec.image_size = 16;
  spec.classes = 7;
  spec.hidden = {33, 20};
  spec.mean = {0.49, 0.48, 0.45};
  spec.std = {0.25, 0.24, 0.26};
  spec.quant.weights.bits = weight_bits;
  spec.quant.weights.per_channel = true;
  spec.quant.weights.narrow = weight_bits == 8;
  spec.quant.activations.bits = activation_bits;
  spec.quant.residual = residual;
  return spec;
}

Tensor images_for(const ModelSpec& spec, int64_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  Tensor images = Tensor::empty({n, spec.image_size, spec.image_size, 3}, DType::u8);
  for (int64_t i = 0; i < images.elements(); ++i) images.data<uint8_t>()[i] = uint8_t(random());
  return images;
}

// Steps chosen from data, running statistics collected, then gammas, betas and statistics moved
// away from where initialization put them: some gammas negative, one zero in each layer.
std::unique_ptr<Model> calibrated(const ModelSpec& spec) {
  std::unique_ptr<Model> model = make_model(spec);
  const Tape::Pause pause;
  std::map<std::string, Tensor> weights;
  Visitor visitor;
  visitor.parameter = [&](const std::string& name, Parameter& p) { weights[name] = p.var.value(); };
  model->visit(visitor);
  Visitor choose_steps;
  choose_steps.quantizer = [&](const std::string& name, Quantizer& quantizer) {
    const size_t at = name.find(".weight_quant");
    if (at != std::string::npos && !quantizer.ready())
      quantizer.observe(weights.at(name.substr(0, at) + ".weight"));
  };
  model->visit(choose_steps);
  for (uint64_t batch = 0; batch < 2; ++batch)
    model->forward(images_for(spec, 4, batch), {.mode = ForwardMode::int8, .calibrate = true});

  std::mt19937_64 random(17);
  const auto moved = [&](const Tensor& t, float spread, bool gamma) {
    Tensor result = t.clone();
    std::uniform_real_distribution<float> noise(-spread, spread);
    for (int64_t i = 0; i < t.elements(); ++i) {
      float& v = result.data<float>()[i];
      v += noise(random);
      if (gamma && i % 4 == 1) v = -v;
      if (gamma && i == 2) v = 0;
    }
    return result;
  };
  Visitor move;
  move.parameter = [&](const std::string&, Parameter& p) {
    if (p.kind != Parameter::Kind::norm) return;
    p.set(moved(p.var.value(), 0.3f, p.var.value().data<float>()[0] == 1.0f));
  };
  model->visit(move);
  return model;
}

class CodesSeen : public Observer {
 public:
  void quantized(const std::string& name, const Tensor&, const Tensor& codes) override {
    seen[name] = codes;
  }
  std::map<std::string, Tensor> seen;
};

// An observer names a quantizer, the program a layer: "layer1.0.conv1.act_quant" and
// "layer1.0.conv1".
const Tensor* seen_for(const CodesSeen& observer, const std::string& layer) {
  for (const char* suffix : {"", ".act_quant", ".act_quant.scale"}) {
    const auto found = observer.seen.find(layer + suffix);
    if (found != observer.seen.end()) return &found->second;
  }
  return nullptr;
}

struct Frozen {
  const char* model;
  int weight_bits, activation_bits;
  ResidualPolicy residual;
  ForwardMode mode;
  bool training = false;  // a training pass whose batch normalizations are frozen; else evaluation
  const char* kind = "lsq";
};

std::ostream& operator<<(std::ostream& out, const Frozen& p) {
  return out << p.model << " " << name_of(p.mode) << (p.training ? " training " : " ") << p.kind;
}

void freeze(Model& model) {
  for (const Model::Step& step : model.steps())
    if (auto* unit = dynamic_cast<ConvUnit*>(step.layer.get())) unit->norm().frozen = true;
}

class FrozenForward : public testing::TestWithParam<Frozen> {};

TEST_P(FrozenForward, GivesTheProgramsCodesInEveryLayerAndItsLogits) {
  const Frozen& p = GetParam();
  ModelSpec spec = spec_of(p.model, p.weight_bits, p.activation_bits, p.residual);
  spec.quant.weights.kind = spec.quant.activations.kind = p.kind;
  const auto model = calibrated(spec);
  if (p.training) freeze(*model);
  const Tensor images = images_for(spec, 3, 99);
  CodesSeen observer;
  const Tape::Pause pause;
  const Tensor logits =
      model->forward(images, {.mode = p.mode, .training = p.training, .observer = &observer})
          .value();
  const Program program = build_program(*model);
  for (const char* engine : {"reference", "onednn"}) {
    EngineResult wanted = make_engine(engine)->run(program, images, {.keep_codes = true});
    EngineResult got{.logits = logits.without_scale(), .codes = {}};
    // Max pools and flatten have no quantizer: nobody sees them.
    std::erase_if(wanted.codes,
                  [&](const auto& entry) { return !seen_for(observer, entry.first); });
    for (const auto& [name, codes] : wanted.codes)
      got.codes.emplace_back(name, *seen_for(observer, name));
    size_t convolutions = 0;
    for (const Instruction& at : program.instructions)
      convolutions +=
          std::holds_alternative<Conv>(at.operation) || std::holds_alternative<Add>(at.operation);
    EXPECT_GE(got.codes.size(), convolutions);
    const CodeDifference difference = compare_codes(wanted, got);
    EXPECT_TRUE(difference.equal) << engine << ": " << difference.text();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, FrozenForward,
    testing::Values(
        Frozen{"resnet20", 8, 8, ResidualPolicy::identity, ForwardMode::int8},
        Frozen{"resnet20", 4, 4, ResidualPolicy::identity, ForwardMode::int8},
        Frozen{"resnet20", 2, 2, ResidualPolicy::identity, ForwardMode::exact_float},
        Frozen{"resnet20", 8, 8, ResidualPolicy::both, ForwardMode::int8},
        Frozen{"resnet20", 3, 3, ResidualPolicy::both, ForwardMode::exact_float},
        Frozen{"resnet18", 8, 8, ResidualPolicy::identity, ForwardMode::int8},
        Frozen{"resnet50", 8, 8, ResidualPolicy::identity, ForwardMode::int8},
        Frozen{"resnet50", 4, 4, ResidualPolicy::both, ForwardMode::int8, true},
        Frozen{"mlp", 8, 8, ResidualPolicy::identity, ForwardMode::int8},
        Frozen{"resnet20", 8, 8, ResidualPolicy::identity, ForwardMode::int8, true},
        Frozen{"resnet20", 2, 2, ResidualPolicy::both, ForwardMode::int8, true},
        Frozen{"resnet20", 4, 4, ResidualPolicy::identity, ForwardMode::exact_float, true},
        Frozen{"mlp", 8, 8, ResidualPolicy::identity, ForwardMode::int8, true},
        Frozen{"resnet20", 8, 8, ResidualPolicy::identity, ForwardMode::int8, true, "minmax"},
        Frozen{"resnet20", 4, 4, ResidualPolicy::both, ForwardMode::int8, true, "minmax"}),
    [](const auto& info) {
      const Frozen& p = info.param;
      return std::string(p.kind == std::string("lsq") ? "" : "minmax_") +
             (p.training ? "training_" : "") + p.model + "_w" + std::to_string(p.weight_bits) +
             "a" + std::to_string(p.activation_bits) +
             (p.residual == ResidualPolicy::both ? "_both_" : "_identity_") + name_of(p.mode);
    });

TEST(BuildProgram, SavesAndLoadsAModel) {
  const ModelSpec spec = spec_of("resnet20", 8, 8, ResidualPolicy::identity);
  const auto model = calibrated(spec);
  const Program program = build_program(*model, {.class_names = {"a", "b", "c", "d", "e", "f", "g"},
                                                 .resize = 18,
                                                 .notes = {{"top1", "91.2"}}});
  EXPECT_EQ(program.preprocessing.mean, spec.mean);
  EXPECT_EQ(program.preprocessing.resize, 18);
  const TemporaryFolder folder;
  save_program(folder / "model.qat", program);
  const Tensor images = images_for(spec, 2, 3);
  EXPECT_EQ(run_logits(load_program(folder / "model.qat"), images).to_vector<float>(),
            run_logits(program, images).to_vector<float>());
  EXPECT_THAT(inspect(program), HasSubstr("layer1.0.conv1"));
}

TEST(BuildProgram, FoldsAZeroGammaToZeroCodesAndAConstant) {
  const auto model = calibrated(spec_of("resnet20", 8, 8, ResidualPolicy::identity));
  for (const Instruction& at : build_program(*model).instructions) {
    const Conv* conv = std::get_if<Conv>(&at.operation);
    if (!conv) continue;
    const int64_t weights = conv->codes.elements() / conv->shape.k;
    const std::vector<int8_t> codes = conv->codes.to_vector<int8_t>();
    EXPECT_EQ(std::count(codes.begin() + 2 * weights, codes.begin() + 3 * weights, 0), weights)
        << at.name;
    EXPECT_EQ(conv->m.data<float>()[2], 1.0f) << at.name;
    EXPECT_LT(conv->m.data<float>()[1], 0.0f) << at.name;
  }
}

TEST(BuildProgram, LeavesTheModelAsItIs) {
  const ModelSpec spec = spec_of("resnet20", 4, 4, ResidualPolicy::identity);
  const auto model = calibrated(spec);
  const auto before = state_of(*model);
  std::vector<std::vector<float>> values;
  for (const auto& [name, tensor] : before) values.push_back(tensor.to_vector<float>());
  const Program first = build_program(*model), second = build_program(*model);
  const auto after = state_of(*model);
  for (size_t i = 0; i < after.size(); ++i)
    EXPECT_EQ(after[i].second.to_vector<float>(), values[i]) << after[i].first;
  const TemporaryFolder folder;
  EXPECT_EQ(save_program(folder / "a", first), save_program(folder / "b", second));
}

// The message build_program refuses with, of the wanted type.
template <class E>
std::string refusal(Model& model) {
  try {
    build_program(model);
  } catch (const E& error) {
    return error.what();
  } catch (const Error& error) {
    return std::string("another error: ") + error.what();
  }
  return "accepted";
}

TEST(BuildProgram, RefusesAFloatResidualStream) {
  const auto model = make_model(spec_of("resnet20", 8, 8, ResidualPolicy::none));
  EXPECT_THAT(refusal<ConfigError>(*model),
              AllOf(HasSubstr("has no integer program"), HasSubstr("quant.residual: none")));
}

TEST(BuildProgram, RefusesLayersThatAreNotQuantized) {
  ModelSpec spec = spec_of("resnet20", 8, 8, ResidualPolicy::identity);
  spec.quant.activations.kind = "none";
  EXPECT_THAT(refusal<ConfigError>(*make_model(spec)), HasSubstr("not quantized (kind: none)"));
}

TEST(BuildProgram, RefusesAModelThatIsNotCalibrated) {
  EXPECT_THAT(
      refusal<InternalError>(*make_model(spec_of("resnet20", 8, 8, ResidualPolicy::identity))),
      HasSubstr("has no step yet"));
}

// What building the program of a calibrated network says after element 3 of one tensor was changed.
std::string refusal_with(const std::string& tensor, float value) {
  const auto model = calibrated(spec_of("resnet20", 8, 8, ResidualPolicy::identity));
  const auto changed = [&](const Tensor& t) {
    Tensor copy = t.clone();
    copy.data<float>()[3] = value;
    return copy;
  };
  Visitor visitor;
  visitor.parameter = [&](const std::string& name, Parameter& p) {
    if (name == tensor) p.set(changed(p.var.value()));
  };
  visitor.buffer = [&](const std::string& name, Tensor& t) {
    if (name == tensor) t = changed(t);
  };
  model->visit(visitor);
  return refusal<DivergenceError>(*model);
}

// A weight of NaN would be a code like any other, and nobody would see it.
TEST(BuildProgram, NamesTheTensorThatIsNotFinite) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN(),
                  infinity = std::numeric_limits<float>::infinity();
  for (const char* name : {"layer2.0.bn1.weight", "layer2.0.bn1.bias", "layer2.0.bn1.running_mean",
                           "layer2.0.bn1.running_var", "layer2.0.conv1.weight",
                           "layer2.0.conv1.weight_quant.scale", "fc.weight", "fc.bias"})
    for (const float value : {nan, infinity, -infinity})
      EXPECT_THAT(
          refusal_with(name, value),
          AllOf(HasSubstr("tensor '" + std::string(name) + "' has the value"), HasSubstr(" at 3")));
}

TEST(BuildProgram, RefusesConstantsThatOverflow) {
  EXPECT_THAT(refusal_with("layer2.0.bn1.running_var", -1),
              HasSubstr("layer 'layer2.0.conv1': constant m[3]"));
  EXPECT_THAT(refusal_with("layer2.0.bn1.weight", 1e34f),
              AllOf(HasSubstr("'layer2.0.conv1'"), HasSubstr("may overflow")));
  EXPECT_THAT(refusal_with("layer2.0.conv1.weight_quant.scale", -1),
              AllOf(HasSubstr("'layer2.0.conv1'"), HasSubstr("not positive, finite and normal")));
}

TEST(BuildProgram, RefusesSumsBeyondInt32AndNamesTheLayer) {
  ModelSpec spec = spec_of("mlp", 8, 8, ResidualPolicy::identity);
  spec.image_size = 212;  // 134,832 inputs
  spec.hidden = {2};
  EXPECT_THAT(refusal<ConfigError>(*make_model(spec)),
              AllOf(HasSubstr("layer 'linear0': 134832 products of codes up to 127 and 127"),
                    HasSubstr("int32")));
}

TEST(BuildProgram, KnowsWhichModelsHaveAProgram) {
  const auto has = [](const ModelSpec& spec) { return has_program(*make_model(spec)); };
  for (const ResidualPolicy policy : {ResidualPolicy::identity, ResidualPolicy::both})
    EXPECT_TRUE(has(spec_of("resnet20", 8, 8, policy)));
  EXPECT_FALSE(has(spec_of("resnet20", 8, 8, ResidualPolicy::none)));
  EXPECT_TRUE(has(spec_of("mlp", 8, 8, ResidualPolicy::none))) << "it has no residual stream";
  for (const char* layer : {"conv1", "layer1.0.conv2", "avgpool", "fc"})
    for (const bool weights : {true, false}) {
      ModelSpec spec = spec_of("resnet20", 8, 8, ResidualPolicy::identity);
      spec.quant.overrides = [&](const std::string& name, QuantSpec* w, QuantSpec* a) {
        QuantSpec* const spec_of_one = weights ? w : a;
        if (name == layer && spec_of_one) spec_of_one->kind = "none";
      };
      const bool unused = std::string(layer) == (weights ? "avgpool" : "fc");
      EXPECT_EQ(has(spec), unused) << layer << weights;
    }
}

}  // namespace
}  // namespace qt::test
