// tests/train/experiment_test.cpp -- the shipped configs, the rules between keys, and what is made
// from them.
#include "train/experiment.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/support/places.h"
#include "train/trainer.h"

namespace qt {
namespace {

namespace fs = std::filesystem;

std::string refusal(const std::string& yaml) {
  Experiment experiment;
  try {
    load_config_text(experiment, yaml, "test.yaml");
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

class MemorySet : public MemoryDataset {
 public:
  MemorySet(int height, int width) {
    set_extents(height, width);
    classes_ = {"a", "b", "c"};
  }
  std::string name(int64_t index) const override { return std::to_string(index); }
};

std::vector<fs::path> shipped() {
  std::vector<fs::path> list;
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(source_folder()) / "configs"))
    if (entry.path().extension() == ".yaml") list.push_back(entry.path());
  return list;
}

class Configs : public ::testing::Test {
 protected:
  void SetUp() override { setenv("QATTRAIN_DATA", "/data", 0); }
};

TEST_F(Configs, EveryShippedFileLoadsAndComesBackFromItsDump) {
  const auto files = shipped();
  ASSERT_GE(files.size(), 8u);
  for (const fs::path& file : files) {
    Experiment experiment, again;
    ASSERT_NO_THROW(load_config(experiment, file.string())) << file;
    for (DumpStyle style : {DumpStyle::full, DumpStyle::minimal}) {
      load_config_text(again, dump(experiment, style), "dump");
      EXPECT_EQ(dump(again), dump(experiment)) << file;
    }
    EXPECT_EQ(config_hash(again), config_hash(experiment));
  }
}

TEST_F(Configs, EveryShippedFileOpensWithItsSchemaAndSaysWhatItIs) {
  for (const fs::path& file : shipped()) {
    std::ifstream in(file);
    std::string first, second;
    std::getline(in, first), std::getline(in, second);
    EXPECT_TRUE(first.starts_with("# yaml-language-server: $schema=")) << file;
    EXPECT_TRUE(fs::exists(file.parent_path() / first.substr(first.find('=') + 1))) << file;
    EXPECT_TRUE(second.starts_with("# ")) << file;
  }
}

TEST_F(Configs, TheShippedSchemaIsThatOfTheKeys) {
  std::ifstream in(fs::path(source_folder()) / "configs" / "schema.json");
  std::stringstream text;
  text << in.rdbuf();
  std::string made = json_schema(Experiment(), "qattrain experiment");
  if (!made.ends_with('\n')) made += '\n';
  EXPECT_EQ(text.str(), made) << "qattrain --schema > configs/schema.json";
}

TEST_F(Configs, TheQuantizedNetsHaveTheBudgetOfTheFloatNet) {
  const std::string folder = source_folder() + "/configs/";
  Experiment reference;
  load_config(reference, folder + "cifar10_resnet20_float.yaml");
  for (const char* name : {"w8a8", "w4a4", "w3a3", "w2a2"}) {
    Experiment e;
    load_config(e, folder + "cifar10_resnet20_" + name + ".yaml");
    EXPECT_EQ(e.train.float_phase.epochs + e.train.qat_phase.epochs,
              reference.train.float_phase.epochs.get())
        << name;
    EXPECT_EQ(e.quant.weights.bits, name[1] - '0');
    EXPECT_EQ(e.quant.activations.bits, name[3] - '0');
    EXPECT_EQ(e.quant.first_layer.bits, 8);
  }
}

TEST(Experiment, RefusesNineBitsAndNegativeRatesWithPlaceAndRange) {
  EXPECT_NE(refusal("quant:\n  weights: {bits: 9}\n").find("test.yaml:2:"), std::string::npos);
  EXPECT_NE(refusal("quant:\n  weights: {bits: 9}\n").find("[2, 8]"), std::string::npos);
  EXPECT_NE(refusal("train:\n  float: {lr: -0.1}\n").find("greater than 0"), std::string::npos);
}

TEST(Experiment, SuggestsTheKeyThatWasMeant) {
  EXPECT_NE(refusal("quant: {weigths: {bits: 8}}\n").find("did you mean 'weights'"),
            std::string::npos);
}

TEST(Experiment, RefusesAFileDataSetWithoutFolder) {
  EXPECT_NE(refusal("data: {kind: imagefolder}\n").find("data.path"), std::string::npos);
  EXPECT_EQ(refusal("data: {kind: generated}\n"), "");
}

TEST(Experiment, RefusesTrainingOfNothing) {
  EXPECT_NE(refusal("train: {float: {epochs: 0}, qat: {epochs: 0}}\n"), "");
  EXPECT_NE(refusal("train: {forward: float}\n"), "");
  EXPECT_EQ(refusal("train: {forward: float, qat: {epochs: 0}}\n"), "");
}

TEST(Experiment, PlansTheFloatPhaseBeforeQat) {
  Experiment e;
  load_config_text(e, "train: {float: {epochs: 3}, qat: {epochs: 2}, forward: exact_float}\n",
                   "test.yaml");
  const auto phases = plan(e);
  ASSERT_EQ(phases.size(), 2u);
  EXPECT_EQ(phases[0].mode, ForwardMode::float32);
  EXPECT_EQ(phases[1].mode, ForwardMode::exact_float);
  load_config_text(e, "train: {float: {epochs: 0}}\n", "test.yaml");
  ASSERT_EQ(plan(e).size(), 1u);
  EXPECT_EQ(plan(e)[0].name, "qat");
}

TEST(Experiment, OverridesReachTheLayersTheyName) {
  Experiment e;
  load_config_text(e,
                   "model: {name: resnet20}\n"
                   "quant:\n"
                   "  weights: {bits: 4}\n"
                   "  overrides:\n"
                   "    'layer2.*': {weights: {bits: 3}}\n"
                   "    'layer2.0.conv1': {activations: {bits: 5}, weights: {range: full}}\n",
                   "test.yaml");
  const auto model = build_model(e, MemorySet(16, 16));
  for (const Model::Step& step : model->steps()) {
    const auto* unit = dynamic_cast<ConvUnit*>(step.layer.get());
    if (!unit) continue;
    const ConvUnitSpec& spec = unit->spec();
    const bool second = spec.conv_name.starts_with("layer2."),
               one = spec.conv_name == "layer2.0.conv1";
    EXPECT_EQ(spec.weights.bits, spec.conv_name == "conv1" ? 8 : second ? 3 : 4) << spec.conv_name;
    EXPECT_EQ(spec.activations.bits, one ? 5 : 8) << spec.conv_name;
    EXPECT_EQ(spec.weights.narrow, !one) << spec.conv_name;
  }
}

TEST(Experiment, AnOverrideThatMatchesNoLayerIsRefusedWithTheNames) {
  Experiment e;
  load_config_text(
      e, "model: {name: resnet20}\nquant: {overrides: {'layer9.*': {weights: {bits: 3}}}}\n",
      "test.yaml");
  try {
    build_model(e, MemorySet(16, 16));
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("layer9.*"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("layer1.0.conv1"), std::string::npos) << error.what();
  }
}

// What building the network of this config says.
std::string refusal_of_network(const std::string& yaml, int side = 16) {
  Experiment e;
  load_config_text(e, yaml, "test.yaml");
  try {
    build_model(e, MemorySet(side, side));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Experiment, OverridesReachResidualAdditionsByPattern) {
  Experiment e;
  load_config_text(e,
                   "model: {name: resnet20}\n"
                   "quant: {residual: both, overrides: {'*.add': {activations: {bits: 5}}}}\n",
                   "test.yaml");
  int sums = 0;
  const auto model = build_model(e, MemorySet(16, 16));
  for (const Model::Step& step : model->steps()) {
    if (auto* sum = dynamic_cast<AddUnit*>(step.layer.get())) {
      EXPECT_EQ(sum->activation_quantizer().spec().bits, 5) << step.name;
      ++sums;
    }
    if (auto* unit = dynamic_cast<ConvUnit*>(step.layer.get())) {
      EXPECT_EQ(unit->activation_quantizer().spec().bits, 8) << step.name;
    }
  }
  EXPECT_EQ(sums, 9);
}

TEST(Experiment, APatternThatMatchesNothingSuggestsOneThatDoes) {
  const auto suggestion = [](const std::string& pattern, const std::string& residual = "identity") {
    return refusal_of_network("model: {name: resnet20}\nquant: {residual: " + residual +
                              ", overrides: {'" + pattern + "': {activations: {bits: 3}}}}\n");
  };
  EXPECT_NE(suggestion("layer1.0.cov1").find("did you mean 'layer1.0.conv1'?"), std::string::npos);
  EXPECT_NE(suggestion("*.conv3").find("did you mean '*.conv"), std::string::npos);
  EXPECT_NE(suggestion("*.ad", "both").find("did you mean '*.add'?"), std::string::npos);
  EXPECT_EQ(suggestion("*.add", "both"), "accepted");
  // Layers that have nothing to override are not offered.
  const std::string pool = suggestion("flatten");
  EXPECT_NE(pool.find("no layer matches 'flatten'"), std::string::npos);
  EXPECT_EQ(pool.find("image"), std::string::npos) << pool;
}

TEST(Experiment, AnOverrideOfWhatALayerDoesNotQuantizeIsRefused) {
  const auto refusal_of = [](const std::string& overrides, const std::string& residual) {
    return refusal_of_network("model: {name: resnet20}\nquant: {residual: " + residual +
                              ", overrides: {" + overrides + "}}\n");
  };
  const std::string fc = refusal_of("fc: {activations: {bits: 3}}", "identity");
  EXPECT_NE(fc.find("'fc' sets activations, but no layer that it matches quantizes activations"),
            std::string::npos)
      << fc;
  EXPECT_NE(fc.find("layers that do: conv1, layer1.0.conv1"), std::string::npos) << fc;
  EXPECT_NE(refusal_of("avgpool: {weights: {bits: 2}}", "identity").find("sets weights"),
            std::string::npos);
  EXPECT_NE(refusal_of("'*.add': {weights: {bits: 2}}", "both").find("sets weights"),
            std::string::npos);
  // Real where the residual stream is.
  const std::string real = "layer1.0.conv2: {activations: {bits: 4}}";
  EXPECT_NE(refusal_of(real, "none").find("sets activations"), std::string::npos);
  EXPECT_EQ(refusal_of(real, "identity"), "accepted");
  EXPECT_EQ(refusal_of("'*': {weights: {bits: 4}, activations: {bits: 4}}", "both"), "accepted");
}

// Each would overflow where it is used, steps or minutes later.
TEST(Experiment, RefusesValuesThatCannotBeMeant) {
  for (const char* yaml :
       {"data: {std: [1e-300, 1, 1]}\n", "data: {std: [58, 57, 57]}\n",
        "data: {cache_megabytes: 9223372036854775807}\n", "distributed: {timeout: 1e300}\n",
        "distributed: {bucket_megabytes: 1e300}\n",
        "train: {qat: {schedule: {warmup_epochs: 1e300}}}\n"})
    EXPECT_NE(refusal(yaml).find(", want "), std::string::npos) << yaml;
  EXPECT_NE(refusal("quant: {overrides: {conv1: {activations: {unsigned_full: true}}}}\n")
                .find("quant.overrides.conv1.activations.unsigned_full"),
            std::string::npos);
}

TEST(Experiment, OverridesWithoutCodesNeedFakeQuantization) {
  const std::string none = "quant: {overrides: {fc: {weights: {kind: none}}}}\n";
  EXPECT_NE(refusal(none).find("quant.overrides.fc.weights.kind"), std::string::npos);
  EXPECT_NE(refusal("train: {forward: exact_float}\n" + none).find("fake_quant"),
            std::string::npos);
  EXPECT_NE(refusal("quant: {overrides: {conv1: {activations: {kind: none}}}}\n")
                .find("quant.overrides.conv1.activations.kind"),
            std::string::npos);
  EXPECT_EQ(refusal("train: {forward: fake_quant}\n" + none), "");
  EXPECT_EQ(refusal("train: {qat: {epochs: 0}}\n" + none), "") << "nothing is quantized";
}

TEST(Experiment, SumsBeyondInt32AreRefusedBeforeTrainingUnlessItIsInFloat) {
  const std::string mlp = "model: {name: mlp, hidden: [2]}\n";
  EXPECT_NE(refusal_of_network(mlp, 212).find("layer 'linear0'"), std::string::npos);
  EXPECT_EQ(refusal_of_network(mlp + "train: {qat: {epochs: 0}}\n", 212), "accepted");
}

TEST(Experiment, PicturesMustBeSquare) {
  Experiment e;
  EXPECT_THROW(build_model(e, MemorySet(16, 20)), ConfigError);
}

}  // namespace
}  // namespace qt
