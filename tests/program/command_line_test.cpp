// tests/program/command_line_test.cpp -- verbs, questions and what a run folder holds.
#include <nlohmann/json.hpp>

#include "core/base/config.h"
#include "core/tensor/safetensors.h"
#include "deploy/engine.h"
#include "deploy/model_file.h"
#include "tests/program/program.h"
#include "train/cli.h"
#include "train/experiment.h"

namespace qt::program {
namespace {

class CommandLineTest : public ProgramTest {};

TEST_F(CommandLineTest, QuestionsAreAnsweredWithoutARun) {
  EXPECT_TRUE(has(run({"--help"}).output, "Exit codes"));
  EXPECT_EQ(run({"--help"}).code, 0);
  EXPECT_TRUE(run({"--version"}).output.starts_with("qattrain "));
  EXPECT_TRUE(has(run({"--version=full"}).output, "compiler"));
  EXPECT_TRUE(has(run({"--explain", "quant.weights.bits"}).output, "width of a code"));
  EXPECT_EQ(run({"--explain", "quant.bits"}).code, 2);
  EXPECT_TRUE(has(run({"--list", "models"}).output, "resnet56"));
  EXPECT_TRUE(has(run({"--list", "quantizers"}).output, "lsq\n"));
  for (const char* engine : {"onednn\n", "reference\n"})
    EXPECT_TRUE(has(run({"--list", "engines"}).output, engine)) << "as eval --engine takes them";
  EXPECT_EQ(run({"--list", "colours"}).code, 2);
  EXPECT_EQ(nlohmann::json::parse(run({"--schema"}).output)["$schema"],
            "http://json-schema.org/draft-07/schema#");
  const Result doctor = run({"doctor"});
  EXPECT_EQ(doctor.code, 0);
  EXPECT_TRUE(has(doctor.output, "integer convolution: onednn ") ||
              has(doctor.output, "integer convolution: winograd F("))
      << doctor.output;
}

TEST_F(CommandLineTest, TheInstructionSetCanBeLimited) {
  const Result limited = run({"doctor"}, "export QATTRAIN_MAX_ISA=sse41");
  EXPECT_EQ(limited.code, 0) << limited.output;
  EXPECT_TRUE(has(limited.output, "instruction set: sse41 (QATTRAIN_MAX_ISA; this CPU has "))
      << limited.output;
  EXPECT_FALSE(has(limited.output, ":avx")) << limited.output;  // of the kernel's name
  const Result wrong = run({"doctor"}, "export QATTRAIN_MAX_ISA=avx3");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_TRUE(has(wrong.output, "allowed: sse41, avx2")) << wrong.output;
}

TEST_F(CommandLineTest, TheConfigurationPageHoldsWhatTheProgramExplains) {
  const std::string table = run({"--explain=all"}).output;
  EXPECT_TRUE(has(table, "| `quant.weights.bits` |"));
  EXPECT_TRUE(has(read(source("docs/configuration.md")), table)) << "scripts/describe_config.sh";
}

TEST_F(CommandLineTest, DumpConfigComesBackAsTheSameConfig) {
  for (const char* style : {"--dump-config", "--dump-config=full", "--dump-config=minimal"}) {
    const Result first = run(tiny({style, "quant.weights.bits=4", "--seed", "9"}));
    ASSERT_EQ(first.code, 0) << first.output;
    const Result second = run({style, write("dumped.yaml", first.output)});
    EXPECT_EQ(first.output, second.output);
    EXPECT_TRUE(has(first.output, "seed: 9"));
  }
  EXPECT_FALSE(fs::exists(path("runs")));
}

TEST_F(CommandLineTest, DryRunWritesNothing) {
  const Result result = run(tiny({"--dry-run"}));
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_TRUE(has(result.output, "resnet20")) << result.output;
  EXPECT_FALSE(fs::exists(path("runs")));
}

TEST_F(CommandLineTest, ARunLeavesItsFolderComplete) {
  const Result result = run(tiny());
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_TRUE(has(result.output, "integer-program top-1 ")) << result.output;
  for (const char* name :
       {"config.yaml", "config.orig.yaml", "overrides.txt", "env.json", "log.txt", "metrics.jsonl",
        "STATUS.json", "export/model.qat", "export/best.qat"})
    EXPECT_TRUE(fs::exists(path(std::string("runs/run/") + name))) << name;
  const auto status = nlohmann::json::parse(read(path("runs/run/STATUS.json")));
  EXPECT_EQ(status["state"], "done");
  EXPECT_EQ(status["step"], 16);
  EXPECT_EQ(status["exit_code"], 0);
  Experiment resolved;
  EXPECT_NO_THROW(load_config(resolved, path("runs/run/config.yaml")));
  std::vector<int64_t> steps;
  bool evaluated = false;
  std::istringstream in(read(path("runs/run/metrics.jsonl")));
  for (std::string line; std::getline(in, line);) {
    const auto j = nlohmann::json::parse(line);
    if (j.contains("train/loss")) steps.push_back(j["step"]);
    evaluated |= j.contains("eval/top1") && j.contains("eval/loss");
  }
  EXPECT_EQ(steps, (std::vector<int64_t>{2, 4, 6, 8, 10, 12, 14, 16}));
  EXPECT_TRUE(evaluated);
}

TEST_F(CommandLineTest, EvalWritesLogitsAndLabelsInFileOrderAlikeByAllWays) {
  ASSERT_EQ(run(tiny()).code, 0);
  const std::vector<std::vector<std::string>> ways = {
      {path("runs/run")},
      {last_checkpoint().string()},
      {path("runs/run/export/model.qat"), "eval.batch=7"},
      {path("runs/run"), "--forward", "exact_float"},
      {path("runs/run"), "--engine", "reference"},
  };
  std::string first;
  for (size_t i = 0; i < ways.size(); ++i) {
    std::vector<std::string> arguments = {"eval"};
    arguments.insert(arguments.end(), ways[i].begin(), ways[i].end());
    const std::string file = path("predictions" + std::to_string(i) + ".safetensors");
    arguments.insert(arguments.end(), {"--predictions", file});
    const Result result = run(arguments);
    ASSERT_EQ(result.code, 0) << result.output;
    EXPECT_TRUE(has(result.output, "integer-program top-1")) << result.output;
    if (i == 0) first = read(file);
    EXPECT_TRUE(read(file) == first) << i;
  }
  const SafetensorsFile predictions = read_safetensors(path("predictions0.safetensors"));
  ASSERT_TRUE(predictions.find("logits") && predictions.find("labels"));
  EXPECT_EQ(predictions.find("logits")->shape(), (Shape{40, 10}));
  Experiment experiment;
  load_config(experiment, path("runs/run/config.yaml"));
  const auto set = make_dataset(dataset_spec(experiment), Split::test);
  for (int64_t i = 0; i < 40; ++i)
    EXPECT_EQ(predictions.find("labels")->data<int64_t>()[i], set->label(i));
  EXPECT_TRUE(has(run({"eval", path("runs/run"), "--limit", "7"}).output, "7 pictures"));
}

TEST_F(CommandLineTest, EvalWritesVectorsThatAllEnginesAgreeOn) {
  ASSERT_EQ(run(tiny()).code, 0);
  const std::string a = path("a.safetensors"), b = path("b.safetensors");
  ASSERT_EQ(run({"eval", path("runs/run"), "--vectors", a}).code, 0);
  ASSERT_EQ(run({"eval", path("runs/run/export/model.qat"), "--engine", "reference", "--limit", "1",
                 "--vectors", b})
                .code,
            0);
  EXPECT_TRUE(read(a) == read(b));
  const SafetensorsFile vectors = read_safetensors(a);
  const Program program = load_program(path("runs/run/export/model.qat"));
  EXPECT_EQ(vectors.tensors.size(), program.instructions.size() + 1);
  const EngineResult wanted =
      make_engine("reference")->run(program, *vectors.find("images"), {.keep_codes = true});
  EXPECT_EQ(vectors.find("logits")->to_vector<float>(), wanted.logits.to_vector<float>());
  for (const auto& [name, codes] : wanted.codes) {
    ASSERT_TRUE(vectors.find("codes/" + name)) << name;
    EXPECT_EQ(vectors.find("codes/" + name)->to_vector<int8_t>(), codes.to_vector<int8_t>());
  }
  ASSERT_EQ(run(tiny({"train.qat.epochs=0"}, "float")).code, 0);
  EXPECT_FAILS(run({"eval", path("runs/float"), "--vectors", a}), 2, "--vectors",
               "no integer program");
}

TEST_F(CommandLineTest, InspectShowsLayersAndDataCounts) {
  ASSERT_EQ(run(tiny({"quant.weights.bits=4"})).code, 0);
  for (const std::string& what : {path("runs/run"), path("runs/run/export/model.qat")}) {
    const Result result = run({"inspect", what});
    EXPECT_EQ(result.code, 0) << result.output;
    EXPECT_TRUE(has(result.output, "layer3.2.conv2")) << result.output;
  }
  const Result data = run({"data", tiny_config()});
  EXPECT_EQ(data.code, 0) << data.output;
  EXPECT_TRUE(has(data.output, "128 pictures of 16x16, 10 classes")) << data.output;
}

TEST_F(CommandLineTest, AFloatRunIsEvaluatedInFloatAndStartsAQatRun) {
  ASSERT_EQ(run(tiny({"train.qat.epochs=0"}, "float")).code, 0);
  EXPECT_TRUE(has(run({"eval", path("runs/float")}).output, "float top-1"));
  const Result qat =
      run(tiny({"train.float.epochs=0", "train.init_from=" + path("runs/float")}, "qat"));
  EXPECT_EQ(qat.code, 0) << qat.output;
  EXPECT_TRUE(has(qat.output, "integer-program top-1")) << qat.output;
  // The same as both phases in one run, but for the draws of the second epoch.
  EXPECT_EQ(run(tiny({"train.float.epochs=0", "quant.calibration.batches=0"}, "none")).code, 2);
}

TEST_F(CommandLineTest, LimitsAndOverfittingShortenAnEpoch) {
  ASSERT_EQ(run(tiny({"--limit-train-batches", "3"}, "limited")).code, 0);
  EXPECT_EQ(nlohmann::json::parse(read(path("runs/limited/STATUS.json")))["step"], 6);
  ASSERT_EQ(run(tiny({"--overfit-batches", "2", "train.float.epochs=4"}, "overfit")).code, 0);
  EXPECT_EQ(nlohmann::json::parse(read(path("runs/overfit/STATUS.json")))["step"], 10);
}

TEST_F(CommandLineTest, EveryLineOfAJsonLogIsOneObject) {
  const auto errors_of = [&](const std::string& arguments) {
    shell("\"$QATTRAIN\" tiny.yaml --log-format json --run-dir runs --limit-train-batches 2 " +
          arguments + " 2>errors.txt");
    std::vector<nlohmann::json> objects;
    std::istringstream in(read(path("errors.txt")));
    for (std::string line; std::getline(in, line);) {
      objects.push_back(nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false));
      EXPECT_TRUE(objects.back().is_object()) << line;
    }
    return objects;
  };
  tiny_config();
  // Each step is due: a progress line would be among them.
  const auto lines = errors_of("log.progress_seconds=0.001");
  EXPECT_GT(lines.size(), 3u);
  const auto wrong = errors_of("train.batch=0 data.workers=-1");
  ASSERT_EQ(wrong.size(), 1u) << "a list of errors is one message";
  EXPECT_EQ(wrong[0]["level"], "error");
  for (const char* key : {"train.batch", "data.workers"})
    EXPECT_TRUE(has(wrong[0]["message"].get<std::string>(), key)) << wrong[0];
  const auto taken = errors_of("--name tiny");
  ASSERT_EQ(taken.size(), 1u);
  EXPECT_TRUE(has(taken[0]["message"].get<std::string>(), "--resume=auto")) << taken[0];
}

TEST_F(CommandLineTest, AnOptionThatMayBeAloneTakesWhatIsAValueOfIt) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"--dump-config", "minimal", "c.yaml"},
        {"--dump-config=minimal", "c.yaml"},
        {"c.yaml", "--dump-config", "minimal"}}) {
    std::vector<std::string> all = {"qattrain"};
    all.insert(all.end(), words.begin(), words.end());
    const CommandLine command = parse_command_line(all);
    EXPECT_EQ(command.dump_config, "minimal") << words[0];
    EXPECT_EQ(command.config, "c.yaml") << words[0];
  }
  const CommandLine full = parse_command_line({"qattrain", "--dump-config", "c.yaml"});
  EXPECT_EQ(full.dump_config, "full");
  EXPECT_EQ(full.config, "c.yaml");
  EXPECT_EQ(parse_command_line({"qattrain", "--version", "full"}).version, "full");
  EXPECT_EQ(parse_command_line({"qattrain", "--version"}).version, "short");
}

TEST_F(CommandLineTest, WhatStandsBehindAnOptionIsItsValue) {
  const CommandLine train =
      parse_command_line({"qattrain", "--name", "lr=0.1", "c.yaml", "train.batch=8"});
  EXPECT_EQ(train.name, "lr=0.1");
  EXPECT_EQ(train.config, "c.yaml");
  ASSERT_EQ(train.overrides.size(), 1u);
  EXPECT_EQ(train.overrides[0].text, "train.batch=8");
  const CommandLine eval =
      parse_command_line({"qattrain", "eval", "--predictions", "a=b.safetensors", "runs/x"});
  EXPECT_EQ(eval.predictions, "a=b.safetensors");
  EXPECT_EQ(eval.config, "runs/x");
  EXPECT_TRUE(eval.overrides.empty());
  // Behind a flag, a value joined by "=" and an option that does without one stands an override.
  for (const char* option : {"--quiet", "-v", "--name=x", "--dump-config"}) {
    const CommandLine command = parse_command_line({"qattrain", option, "train.batch=8", "c.yaml"});
    EXPECT_EQ(command.config, "c.yaml") << option;
    EXPECT_EQ(command.overrides.size(), 1u) << option;
  }
}

TEST_F(CommandLineTest, TheSmokeConfigRuns) {
  const Result result =
      run({source("configs/smoke.yaml"), "--run-dir", path("runs"), "--limit-train-batches", "2"});
  EXPECT_EQ(result.code, 0) << result.output;
}

}  // namespace
}  // namespace qt::program
