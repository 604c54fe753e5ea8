// tests/core/base/config_test.cpp -- what configs accept, what they refuse, and the exact words of
// the refusal.
#include "core/base/config.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace qt {
namespace {

std::vector<std::string> quantizer_names() { return {"lsq", "minmax", "none"}; }

struct CodeConfig : Section {
  using Section::Section;
  Key<int> bits{this, "bits", 8, range(2, 8), "width of a code"};
  Key<std::string> kind{this, "kind", "lsq", one_of_names(quantizer_names), "quantizer"};
  Key<bool> narrow{this, "narrow", true, any<bool>(), "leave out the lowest code"};
};
struct LayerConfig : Section {
  using Section::Section;
  CodeConfig activations{this, "activations", "of activations"};
  CodeConfig weights{this, "weights", "of weights"};
};
struct QuantConfig : LayerConfig {
  using LayerConfig::LayerConfig;
  Key<std::string> forward{this, "forward", "int8", one_of("int8", "exact_float"), "arithmetic"};
  SectionMap<LayerConfig> overrides{this, "overrides", "by layer name pattern"};
};
struct TrainConfig : Section {
  using Section::Section;
  Key<double> lr{this, "lr", 0.1, greater_than(0), "learning rate"};
  Key<double> momentum{this, "momentum", 0.9, half_open(0, 1), "of SGD"};
  Key<float> smoothing{this, "smoothing", 0.1f, half_open(0, 1), "of labels"};
  Key<std::optional<double>> clip{this, "clip", std::nullopt, greater_than(0), "norm of gradients"};
  Key<std::vector<int>> milestones{this, "milestones", {30, 60}, at_least(1), "epochs"};
  Key<std::vector<double>> mean{this, "mean", {0.5, 0.5, 0.5}, any().count(3, 3), "of channels"};
  Key<std::vector<std::string>> tags{this, "tags", {}, any(), "free words"};
  Key<int64_t> images{this, "images", 50'000'000'000, at_least(1), "images to see"};
  void check(ConfigProblems& problems) const override {
    if (lr > 10 * (1 - momentum)) problems.add(lr, "too large for this momentum");
  }
};
struct Config : Section {
  Key<int64_t> seed{this, "seed", 1, at_least(0), "of every draw"};
  Key<std::string> data{this, "data", "generated", any(), "folder"};
  TrainConfig train{this, "train", "how to train"};
  QuantConfig quant{this, "quant", "quantization"};
};

std::string refusal(const std::string& text, const std::vector<ConfigOverride>& overrides = {}) {
  Config config;
  try {
    load_config_text(config, text, "a.yaml", overrides);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "accepted:\n" + dump(config, DumpStyle::minimal);
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}
#define EXPECT_REFUSED(yaml, part)                      \
  do {                                                  \
    const std::string said = refusal(yaml);             \
    EXPECT_FALSE(said.starts_with("accepted")) << said; \
    EXPECT_TRUE(contains(said, part)) << said;          \
  } while (0)

class ConfigFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto name = "config_test_" + std::to_string(getpid());
    folder_ = std::filesystem::temp_directory_path() / name;
    std::filesystem::create_directories(folder_ / "sub");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  std::string refusal_of(const std::string& path) const {
    Config config;
    try {
      load_config(config, path);
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "accepted";
  }
  std::filesystem::path folder_;
};

TEST(Config, ReadsEveryType) {
  Config config;
  load_config_text(config,
                   "seed: 9007199254740993\n"
                   "data: /a b/c#d  # comment\n"
                   "train:\n"
                   "  lr: 1e-1\n"
                   "  momentum: 0\n"
                   "  clip: 2.5\n"
                   "  milestones: [1, 2, 3]\n"
                   "  mean: [0, -0.5, .25]\n"
                   "  tags: [a, \"b c\", 010]\n"
                   "quant:\n"
                   "  weights: {bits: 4, narrow: false}\n",
                   "a.yaml");
  EXPECT_EQ(config.seed, 9007199254740993);
  EXPECT_EQ(config.data, "/a b/c#d");
  EXPECT_EQ(config.train.lr, 0.1);
  EXPECT_EQ(config.train.momentum, 0.0);
  EXPECT_EQ(config.train.clip.get(), std::optional<double>(2.5));
  EXPECT_EQ(config.train.milestones.get(), (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(config.train.mean.get(), (std::vector<double>{0, -0.5, 0.25}));
  EXPECT_EQ(config.train.tags.get(), (std::vector<std::string>{"a", "b c", "010"}));
  EXPECT_EQ(config.quant.weights.bits, 4);
  EXPECT_FALSE(config.quant.weights.narrow);
  EXPECT_EQ(config.quant.activations.bits, 8);
}

TEST(Config, KnowsWhatWasSetAndWhere) {
  Config config;
  load_config_text(config, "quant:\n  weights: {bits: 8}\n", "a.yaml", {{"seed=3", 5}});
  EXPECT_TRUE(config.quant.weights.bits.is_set());
  EXPECT_EQ(config.quant.weights.bits.origin(), "a.yaml:2:13");
  EXPECT_EQ(config.seed.origin(), "command line, argument 5");
  EXPECT_FALSE(config.quant.activations.bits.is_set());
  EXPECT_TRUE(config.quant.is_set());
  EXPECT_FALSE(config.train.is_set());
  load_config_text(config, "{}", "b.yaml");
  EXPECT_FALSE(config.quant.weights.bits.is_set());
  EXPECT_EQ(config.seed, 1);
}

TEST(Config, PointsAtAnUnknownKeyWithASuggestion) {
  EXPECT_EQ(refusal("seed: 1\nquant:\n    weigths: {bits: 8}\n"),
            "a.yaml:3:5: error: unknown key 'quant.weigths'\n"
            "    3 |     weigths: {bits: 8}\n"
            "      |     ^^^^^^^ did you mean 'weights'?\n"
            "   known keys here: activations, weights, forward, overrides");
}

TEST(Config, SuggestsAKeyOfAnotherLevel) {
  EXPECT_EQ(refusal("momentum: 0.5\n"),
            "a.yaml:1:1: error: unknown key 'momentum'\n"
            "    1 | momentum: 0.5\n"
            "      | ^^^^^^^^ did you mean 'train.momentum'?\n"
            "   known keys here: seed, data, train, quant, base");
}

TEST(Config, SaysWhatCameAndWhatIsAllowed) {
  EXPECT_EQ(refusal("quant:\n  weights: {bits: 9}\n"),
            "a.yaml:2:19: error: quant.weights.bits: got '9', want a value in [2, 8]\n"
            "    2 |   weights: {bits: 9}\n"
            "      |                   ^");
  EXPECT_EQ(refusal("quant:\n  weights: {bits: eight}\n"),
            "a.yaml:2:19: error: quant.weights.bits: got 'eight', want an integer in [2, 8]\n"
            "    2 |   weights: {bits: eight}\n"
            "      |                   ^^^^^");
  EXPECT_EQ(refusal("quant: {weights: {kind: minmix}}\n"),
            "a.yaml:1:25: error: quant.weights.kind: got 'minmix', want one of: lsq, minmax, none\n"
            "    1 | quant: {weights: {kind: minmix}}\n"
            "      |                         ^^^^^^ did you mean 'minmax'?");
  EXPECT_REFUSED("train: {lr: 0}", "train.lr: got '0', want a value greater than 0");
  EXPECT_REFUSED("train: {lr: -0.1}", "train.lr: got '-0.1', want a value greater than 0");
  EXPECT_REFUSED("train: {momentum: 1}", "train.momentum: got '1', want a value in [0, 1)");
  EXPECT_REFUSED("train: {clip: 0}", "train.clip: got '0', want a value greater than 0 or null");
  EXPECT_REFUSED("seed:\n", "seed: got nothing (null), want an integer of at least 0");
  EXPECT_REFUSED("seed: [1]", "seed: got a list, want an integer of at least 0");
  EXPECT_REFUSED("data: {a: 1}", "data: got a mapping, want text");
  EXPECT_REFUSED("quant: 3", "quant: got '3', want a mapping");
  EXPECT_REFUSED("quant: {overrides: [1]}",
                 "quant.overrides: want a mapping from patterns to sections");
  EXPECT_REFUSED("- 1", "got a list, want a mapping");
}

TEST(Config, PointsAtTheElementOfAList) {
  EXPECT_EQ(refusal("train:\n  milestones: [3, 0, x]\n"),
            "a.yaml:2:19: error: train.milestones[1]: got '0', want a value of at least 1\n"
            "    2 |   milestones: [3, 0, x]\n"
            "      |                   ^\n"
            "a.yaml:2:22: error: train.milestones[2]: got 'x', want an integer of at least 1\n"
            "    2 |   milestones: [3, 0, x]\n"
            "      |                      ^");
  EXPECT_REFUSED("train: {mean: [1, 2]}", "train.mean: got 2 elements, want a list of 3 numbers");
  EXPECT_REFUSED("train: {mean: 1}", "train.mean: got '1', want a list of 3 numbers");
}

TEST(Config, ListsAllMistakesAtOnceInTheOrderOfTheFile) {
  const std::string said =
      refusal("quant: {weights: {bits: 9, bist: 3}}\nseed: 1\nseed: x\ntrain: {lr: -1}\n",
              {{"trian.lr=1", 2}});
  const std::vector<std::string> want{
      "a.yaml:1:25: error: quant.weights.bits", "a.yaml:1:28: error: unknown key",
      "a.yaml:3:1: error: duplicate key 'seed'", "a.yaml:4:13: error: train.lr",
      "command line, argument 2: error: unknown key 'trian'"};
  size_t at = 0;
  for (const std::string& part : want) {
    const size_t found = said.find(part, at);
    ASSERT_NE(found, std::string::npos) << part << "\nnot in order in\n" << said;
    at = found;
  }
}

TEST(Config, CountsColumnsInCharactersNotBytes) {
  EXPECT_EQ(refusal("{data: é, sede: 1}\n"),
            "a.yaml:1:11: error: unknown key 'sede'\n"
            "    1 | {data: é, sede: 1}\n"
            "      |           ^^^^ did you mean 'seed'?\n"
            "   known keys here: seed, data, train, quant, base");
}

TEST(Config, ReadsNumbersStrictly) {
  for (const char* text : {"1e-1", "1.0", "0x8", "1_0", "true", "\"3\"", "+", "--1", "1 2", "''"})
    EXPECT_REFUSED(std::string("quant: {weights: {bits: ") + text + "}}",
                   "want an integer in [2, 8]");
  EXPECT_REFUSED(
      "quant: {weights: {bits: 010}}",
      "got '010', want an integer in [2, 8], without leading zeros (YAML 1.1 reads them as octal)");
  EXPECT_REFUSED("quant: {weights: {bits: 99999999999}}",
                 "want an integer in [2, 8], that fits 32 bits");
  EXPECT_REFUSED("seed: 99999999999999999999", "that fits 64 bits");
  for (const char* text : {"nan", ".nan", ".inf", "-inf", "1e999", "0x1p3", "\"1\"", "1e", "."})
    EXPECT_REFUSED(std::string("train: {lr: ") + text + "}", "want a number greater than 0");
  EXPECT_REFUSED("train: {smoothing: 1e39}", "that fits a float");
  for (const char* text : {"yes", "no", "on", "True", "1", "\"true\""})
    EXPECT_REFUSED(std::string("quant: {weights: {narrow: ") + text + "}}", "want true or false");
}

TEST(Config, AcceptsNullAndNoneForOptionalKeysOnly) {
  Config config;
  for (const char* text : {"null", "none", "~", ""}) {
    load_config_text(config, std::string("train:\n  clip: ") + text + "\n", "a.yaml");
    EXPECT_EQ(config.train.clip.get(), std::nullopt);
    EXPECT_TRUE(config.train.clip.is_set());
  }
  EXPECT_REFUSED("train: {clip: \"none\"}", "without quotes");
  EXPECT_REFUSED("train: {lr: none}", "want a number");
}

TEST(Config, RefusesWhatYamlCppLetsThrough) {
  EXPECT_EQ(refusal("seed: 1\ndata: x\nseed: 2\n"),
            "a.yaml:3:1: error: duplicate key 'seed'\n"
            "    3 | seed: 2\n"
            "      | ^^^^ first given at a.yaml:1:1");
  EXPECT_EQ(refusal("seed: 1\n---\nseed: 2\n"),
            "a.yaml:2:1: error: a second document; a config holds one\n"
            "    2 | ---\n"
            "      | ^");
  EXPECT_EQ(refusal("data: \"abc\nseed: 2\n"),
            "a.yaml:1:7: error: a quoted text that does not end\n"
            "    1 | data: \"abc\n"
            "      |       ^");
  EXPECT_REFUSED("data: 'abc", "a quoted text that does not end");
  EXPECT_REFUSED("data: \"ab\\\"", "a quoted text that does not end");
  EXPECT_REFUSED("data: x\xFFy", "a.yaml:1:8: error: invalid UTF-8");
  EXPECT_REFUSED("data: \xC0\x80", "invalid UTF-8");
  EXPECT_REFUSED("data: \xE0\x80\x80", "invalid UTF-8");
  EXPECT_REFUSED("data: \xED\xA0\x80", "invalid UTF-8");
  EXPECT_REFUSED(std::string("data: a\0b", 9), "a control character");
  EXPECT_REFUSED("quant: &q {weights: *q}", "an alias inside the very node it names");
  EXPECT_REFUSED("seed: *x", "anchor is not defined");
  EXPECT_REFUSED("x: &x {bits: 4}\nquant: {weights: {<<: *x}}", "inherit with `base: other.yaml`");
  EXPECT_REFUSED("seed:\t1", "a.yaml:1:6: error: a tab; use spaces");
  EXPECT_REFUSED("train:\n\tlr: 1", "a.yaml:2:1: error: a tab; use spaces");
  EXPECT_REFUSED("seed: !!int 1", "tags are not read");
  EXPECT_REFUSED("[a]: 1", "a key that is not text");
  EXPECT_REFUSED("~: 1", "a key that is not text");
  EXPECT_REFUSED("seed: 1\n...\ndata: x", "a second document");
}

TEST(Config, SaysWhatIsWrongWithMalformedYaml) {
  EXPECT_REFUSED("train:\n  lr: 1\n momentum: 0\n", "a.yaml:3:2: error: wrong indentation");
  EXPECT_REFUSED("train: {lr: 1\n", "a '{' without its '}'");
  EXPECT_REFUSED("train: {milestones: [1, 2\n", "a '[' without its ']'");
  EXPECT_REFUSED("train: {milestones: [1, 2}\n", "a closing bracket without its opening one");
  EXPECT_REFUSED("data: a: b\n", "a ':' where no key can stand");
  EXPECT_REFUSED("data: @x\n", "must be quoted");
  EXPECT_REFUSED("# nothing\n", "nothing but blanks and comments");
}

TEST(Config, AcceptsByteOrderMarkCarriageReturnsAnchorsAndEmptySections) {
  Config config;
  load_config_text(
      config,
      "\xEF\xBB\xBFseed: 2\r\nquant:\r\n  weights: &w {bits: 3}\r\n  activations: *w\r\ntrain:\r\n",
      "a.yaml");
  EXPECT_EQ(config.seed, 2);
  EXPECT_EQ(config.quant.activations.bits, 3);
  load_config_text(config, "# a\tcomment\n%YAML 1.2\n---\nseed: 4 #\tx\n", "a.yaml");
  EXPECT_EQ(config.seed, 4);
}

TEST(Config, BoundsDepthNodesAndBytes) {
  EXPECT_REFUSED("data: " + std::string(40, '[') + std::string(40, ']'),
                 "nested deeper than 32 levels");
  EXPECT_REFUSED("data: " + std::string(100'000, '['), "nested deeper than 32 levels");
  std::string many = "data: [";
  for (int i = 0; i < 10'000; ++i) many += "1,";
  EXPECT_REFUSED(many + "1]", "more than 10000 nodes");
  EXPECT_REFUSED(std::string((1 << 20) + 1, '#'), "want at most 1048576");
}

TEST(Config, RefusesAnAliasBombAtOnce) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 25; ++i) {
    const std::string name = std::to_string(i), below = "*a" + std::to_string(i - 1);
    bomb.append("a").append(name).append(": &a").append(name).append(" [").append(below);
    for (int k = 0; k < 9; ++k) bomb.append(", ").append(below);
    bomb += "]\n";
  }
  const auto start = std::chrono::steady_clock::now();
  EXPECT_REFUSED(bomb, "more than 10000 nodes, aliases counted in full");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

TEST(Config, ExpandsTheEnvironmentInText) {
  setenv("QT_CONFIG_TEST", "/data", 1);
  unsetenv("QT_CONFIG_TEST_UNSET");
  Config config;
  load_config_text(config, "data: ${QT_CONFIG_TEST}/x/$${y}/$z\n", "a.yaml");
  EXPECT_EQ(config.data, "/data/x/${y}/$z");
  EXPECT_EQ(refusal("data: ${QT_CONFIG_TEST_UNSET}/x\n"),
            "a.yaml:1:7: error: data: environment variable 'QT_CONFIG_TEST_UNSET' is not set\n"
            "    1 | data: ${QT_CONFIG_TEST_UNSET}/x\n"
            "      |       ^^^^^^^^^^^^^^^^^^^^^^^^^");
  EXPECT_REFUSED("data: ${}", "is not ${NAME}");
  EXPECT_REFUSED("data: ${a", "is not ${NAME}");
  setenv("QT_CONFIG_TEST", "3", 1);
  EXPECT_REFUSED("seed: ${QT_CONFIG_TEST}", "seed: got '${QT_CONFIG_TEST}', want an integer");
  unsetenv("QT_CONFIG_TEST");
}

TEST(Config, TakesOverridesOfAnyKind) {
  Config config;
  load_config(config, "",
              {"seed=3", "train.milestones=[5, 6]", "quant.weights={bits: 4}",
               "quant.weights.kind=none", "data=", "data=\"a=b\"", "train.clip=none", "seed=4"});
  EXPECT_EQ(config.seed, 4);
  EXPECT_EQ(config.train.milestones.get(), (std::vector<int>{5, 6}));
  EXPECT_EQ(config.quant.weights.bits, 4);
  EXPECT_EQ(config.quant.weights.kind, "none");
  EXPECT_EQ(config.data, "a=b");
}

TEST(Config, NamesTheArgumentOfABadOverride) {
  EXPECT_EQ(refusal("seed: 1\n", {{"quant.weights.bits=9", 3}}),
            "command line, argument 3: error: quant.weights.bits: got '9', want a value in [2, 8]\n"
            "      | quant.weights.bits=9\n"
            "      |                    ^");
  EXPECT_EQ(refusal("seed: 1\n", {{"quant.weigths.bits=9", 3}}),
            "command line, argument 3: error: unknown key 'quant.weigths'\n"
            "      | quant.weigths.bits=9\n"
            "      |       ^^^^^^^ did you mean 'weights'?\n"
            "   known keys here: activations, weights, forward, overrides");
  EXPECT_TRUE(
      contains(refusal("{}", {{"seed", 1}}), "argument 1: error: 'seed' is not key.path=value"));
  EXPECT_TRUE(contains(refusal("{}", {{"a..b=1", 1}}), "is not key.path=value"));
  EXPECT_TRUE(contains(refusal("{}", {{"=1", 1}}), "is not key.path=value"));
  EXPECT_TRUE(contains(refusal("{}", {{"\"a=1", 1}}), "is not key.path=value"));
  EXPECT_TRUE(contains(refusal("{}", {{"", 1}}), "is not key.path=value"));
  EXPECT_TRUE(contains(refusal("{}", {{"base=b.yaml", 1}}), "in a file only"));
  EXPECT_TRUE(contains(refusal("{}", {{"seed=", 1}}), "seed: got nothing"));
  EXPECT_TRUE(contains(refusal("{}", {{"seed=[", 7}}), "argument 7: error: a '['"));
  EXPECT_TRUE(contains(refusal("{}", {{"seed.x=1", 1}}), "seed: got a mapping"));
}

TEST(Config, KeepsPatternsInOrderAndKnowsWhatTheySet) {
  Config config;
  load_config_text(
      config,
      "quant:\n  overrides:\n    \"layer4.*\": {weights: {bits: 8}}\n    fc: {}\n    a: {weights: "
      "{bits: 2}}\n",
      "a.yaml",
      {{"quant.overrides.\"layer4.*\".activations.bits=4", 1}, {"quant.overrides.z={}", 2}});
  std::vector<std::string> patterns;
  for (const auto& [pattern, layer] : config.quant.overrides) patterns.push_back(pattern);
  EXPECT_EQ(patterns, (std::vector<std::string>{"layer4.*", "fc", "a", "z"}));
  const LayerConfig& first = config.quant.overrides.begin()->section;
  EXPECT_TRUE(first.weights.bits.is_set());
  EXPECT_FALSE(first.weights.kind.is_set());
  EXPECT_EQ(first.activations.bits, 4);
  EXPECT_EQ(first.weights.bits.path(), "quant.overrides.\"layer4.*\".weights.bits");
  EXPECT_REFUSED("quant: {overrides: {\"layer4.*\": {weights: {bits: 1}}}}",
                 "quant.overrides.\"layer4.*\".weights.bits: got '1', want a value in [2, 8]");
  EXPECT_REFUSED("quant: {overrides: {fc: {bits: 4}}}", "unknown key 'quant.overrides.fc.bits'");
}

TEST(Config, ReportsRulesThatSpanKeysWhereTheKeyWasSet) {
  EXPECT_EQ(refusal("train:\n  lr: 2\n"),
            "a.yaml:2:7: error: train.lr: too large for this momentum\n"
            "    2 |   lr: 2\n"
            "      |       ^");
  EXPECT_EQ(refusal("train: {momentum: 0.99}\n"), "accepted:\ntrain:\n  momentum: 0.99\n");
  EXPECT_EQ(refusal("train: {momentum: 0.999}\n"),
            "config: error: train.lr: too large for this momentum");
}

TEST(Config, SetFromCodeIsChecked) {
  Config config;
  config.seed.set(5);
  EXPECT_EQ(config.seed, 5);
  EXPECT_TRUE(config.seed.is_set());
  EXPECT_THROW(config.quant.weights.bits.set(9), ConfigError);
  EXPECT_THROW(config.train.lr.set(NAN), ConfigError);
  EXPECT_THROW(config.quant.weights.kind.set("x"), ConfigError);
  EXPECT_EQ(config.quant.weights.bits, 8);
}

TEST(Config, RefusesAKeyDeclaredTwice) {
  struct Twice : Section {
    Key<int> a{this, "a", 1, any(), ""};
    Key<int> b{this, "a", 1, any(), ""};
  };
  EXPECT_THROW(Twice{}, InternalError);
}

const char* const kVaried =
    "seed: 7\n"
    "data: \"x: ${y} # \\\"q\\\" \\\\ \\n \\x01 é none\"\n"
    "train:\n  lr: 0.30000000000000004\n  smoothing: 0.3\n  clip: 1e-300\n  milestones: []\n"
    "  mean: [1e22, -0.1, 123456789.5]\n  tags: [\"none\", \"true\", \"1\", \"\", \"~\", \"$\", "
    "\"-\", \"a b\", \"$${\"]\n"
    "quant:\n  forward: exact_float\n  weights: {kind: none}\n"
    "  overrides: {\"layer4.*\": {weights: {bits: 8}}, \"*\": {}, \"a: b\": {activations: {narrow: "
    "true}}}\n";

TEST(Config, DumpsWhatItReadsBack) {
  setenv("y", "v", 1);
  Config first;
  load_config_text(first, kVaried, "a.yaml");
  first.data.set("${HOME} $${a} \t 'x' \"y\" \\ \x01 é");
  for (const DumpStyle style : {DumpStyle::full, DumpStyle::minimal}) {
    const std::string text = dump(first, style);
    Config second;
    load_config_text(second, text, "dump.yaml");
    EXPECT_EQ(dump(second, style), text);
    EXPECT_EQ(dump(second), dump(first)) << text;
    EXPECT_EQ(second.data.get(), first.data.get());
    EXPECT_EQ(second.train.lr.get(), 0.30000000000000004);
    EXPECT_EQ(second.train.clip.get(), std::optional<double>(1e-300));
    EXPECT_EQ(second.train.tags.get(), first.train.tags.get());
    EXPECT_EQ(second.train.mean.get(), first.train.mean.get());
    EXPECT_TRUE(second.quant.overrides.begin()->section.weights.bits.is_set());
    EXPECT_FALSE(second.quant.overrides.begin()->section.weights.kind.is_set());
    EXPECT_EQ(second.quant.overrides.size(), 3u);
  }
}

TEST(Config, DumpsEverythingOrOnlyWhatDiffers) {
  Config config;
  EXPECT_EQ(dump(config, DumpStyle::minimal), "{}\n");
  load_config_text(
      config,
      "seed: 1\nquant: {weights: {bits: 4}, overrides: {\"layer4.*\": {weights: {bits: 8}}}}\n",
      "a");
  EXPECT_EQ(dump(config, DumpStyle::minimal),
            "quant:\n  weights:\n    bits: 4\n  overrides:\n    \"layer4.*\":\n      weights:\n    "
            "    bits: 8\n");
  EXPECT_EQ(dump(Config{}),
            "seed: 1\ndata: generated\ntrain:\n  lr: 0.1\n  momentum: 0.9\n  smoothing: 0.1\n  "
            "clip: null\n"
            "  milestones: [30, 60]\n  mean: [0.5, 0.5, 0.5]\n  tags: []\n  images: 50000000000\n"
            "quant:\n  activations:\n    bits: 8\n    kind: lsq\n    narrow: true\n"
            "  weights:\n    bits: 8\n    kind: lsq\n    narrow: true\n  forward: int8\n  "
            "overrides: {}\n");
}

TEST(Config, DescribesItselfAsJsonSchema) {
  const auto schema = nlohmann::json::parse(json_schema(Config{}, "qattrain"));
  EXPECT_EQ(schema["$schema"], "http://json-schema.org/draft-07/schema#");
  EXPECT_EQ(schema["additionalProperties"], false);
  const auto& bits = schema["properties"]["quant"]["properties"]["weights"]["properties"]["bits"];
  EXPECT_EQ(bits,
            nlohmann::json::parse(R"({"type": "integer", "minimum": 2, "maximum": 8, "default": 8,
                                           "description": "width of a code"})"));
  const auto& train = schema["properties"]["train"]["properties"];
  EXPECT_EQ(train["momentum"]["exclusiveMaximum"], 1.0);
  EXPECT_EQ(train["clip"]["anyOf"][0]["exclusiveMinimum"], 0.0);
  EXPECT_EQ(train["clip"]["default"], nullptr);
  EXPECT_EQ(train["milestones"]["items"]["minimum"], 1);
  EXPECT_EQ(train["mean"]["minItems"], 3);
  EXPECT_EQ(train["smoothing"]["default"], 0.1);
  const auto& quant = schema["properties"]["quant"]["properties"];
  EXPECT_EQ(quant["forward"]["enum"], nlohmann::json::parse(R"(["int8", "exact_float"])"));
  EXPECT_EQ(quant["overrides"]["additionalProperties"]["properties"]["weights"]["properties"]
                 ["bits"]["maximum"],
            8);
  EXPECT_EQ(schema["properties"]["base"]["type"], "string");
}

TEST(Config, ExplainsAKey) {
  Config config;
  EXPECT_EQ(explain(config, "quant.weights.bits"),
            "quant.weights.bits: width of a code\n"
            "  type:    integer\n  allowed: an integer in [2, 8]\n  default: 8\n");
  load_config_text(config, "train: {clip: 2}", "a.yaml");
  EXPECT_EQ(explain(config, "train.clip"),
            "train.clip: norm of gradients\n  type:    number or null\n"
            "  allowed: a number greater than 0 or null\n  default: null\n  now:     2, from "
            "a.yaml:1:9\n");
  // Of one layer alone: what is not set there is as for all.
  EXPECT_TRUE(contains(explain(config, "quant.overrides.\"layer4.*\".weights.bits"),
                       "width of a code\n  type:    integer\n  allowed: an integer in [2, 8]\n  "
                       "default: not set\n"));
  EXPECT_TRUE(contains(explain(config, "quant.overrides"), "by layer name pattern"));
  EXPECT_TRUE(contains(explain(config, "quant"), "weights: of weights"));
  EXPECT_TRUE(contains(explain(config, ""), "seed: of every draw"));
  try {
    explain(config, "quant.weigths.bits");
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_STREQ(e.what(),
                 "unknown key 'quant.weigths'; did you mean 'weights'?; known keys here: "
                 "activations, weights, "
                 "forward, overrides");
  }
  EXPECT_THROW(explain(config, "seed.x"), ConfigError);
}

TEST(Config, DescribesItselfAsATable) {
  const std::string table = describe_markdown(Config{});
  EXPECT_TRUE(
      contains(table, "| `quant.weights.bits` | an integer in [2, 8] | `8` | width of a code |\n"))
      << table;
  EXPECT_TRUE(contains(table, "| `quant.overrides` | a mapping | `{}` | by layer name pattern |\n"))
      << table;
  EXPECT_TRUE(contains(
      table, "| `quant.overrides.PATTERN.weights.bits` | an integer in [2, 8] | not set |"))
      << table;
}

TEST_F(ConfigFiles, InheritFromBaseRelativeToTheFile) {
  write("root.yaml",
        "seed: 5\ntrain: {lr: 0.2, momentum: 0.5}\nquant: {overrides: {a: {weights: {bits: 3}}, b: "
        "{}}}\n");
  write("sub/middle.yaml", "base: ../root.yaml\ntrain:\n  lr: 0.3\nquant:\n");
  const std::string path =
      write("top.yaml",
            "data: d\nbase: sub/middle.yaml\nquant: {overrides: {a: {weights: {kind: none}}}}\n");
  Config config;
  load_config(config, path, {"train.momentum=0.25"});
  EXPECT_EQ(config.seed, 5);
  EXPECT_EQ(config.data, "d");
  EXPECT_EQ(config.train.lr, 0.3);
  EXPECT_EQ(config.train.momentum, 0.25);
  const auto& a = config.quant.overrides.begin()->section;
  EXPECT_EQ(a.weights.bits, 3);
  EXPECT_EQ(a.weights.kind, "none");
  EXPECT_EQ(config.quant.overrides.size(), 2u);
}

TEST_F(ConfigFiles, RefuseABaseThatIsMissingOrCircular) {
  const std::string one = write("one.yaml", "base: two.yaml\n");
  write("two.yaml", "seed: 1\nbase: ./one.yaml\n");
  EXPECT_TRUE(contains(refusal_of(one), "two.yaml:2:7: error: base '")) << refusal_of(one);
  EXPECT_TRUE(contains(refusal_of(one), "inherits from itself")) << refusal_of(one);
  const std::string lost = write("lost.yaml", "base: gone.yaml\nsede: 1\n");
  EXPECT_TRUE(contains(refusal_of(lost), "lost.yaml:1:7: error: base '")) << refusal_of(lost);
  EXPECT_TRUE(contains(refusal_of(lost), "gone.yaml': no such file")) << refusal_of(lost);
  EXPECT_TRUE(contains(refusal_of(lost), "unknown key 'sede'")) << refusal_of(lost);
  EXPECT_TRUE(
      contains(refusal_of(write("list.yaml", "base: [a]\n")), "base: got a list, want text"));
}

TEST_F(ConfigFiles, AreNamedWhereTheyCannotBeRead) {
  const auto said = [&](const std::string& path) { return refusal_of(path); };
  EXPECT_EQ(said("/no/such.yaml"), "/no/such.yaml: error: no such file");
  EXPECT_EQ(said(folder_.string()), folder_.string() + ": error: a folder, want a YAML file");
  const std::string empty = write("empty.yaml", "");
  EXPECT_EQ(said(empty), empty + ": error: the file is empty; want `key: value` lines");
  const std::string huge = write("huge.yaml", std::string((1 << 20) + 1, '#'));
  EXPECT_EQ(said(huge), huge + ": error: larger than 1 MiB, which no config is");
  EXPECT_EQ(said("/dev/zero"), "/dev/zero: error: larger than 1 MiB, which no config is");
}

}  // namespace
}  // namespace qt
