// tests/train/trainer_test.cpp -- the parts of a run: durations, requests to stop, training itself.
#include "train/trainer.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "core/device/cpu.h"
#include "core/device/memory.h"
#include "core/ops/ops.h"
#include "core/tensor/safetensors.h"
#include "deploy/compare.h"
#include "deploy/engine.h"
#include "deploy/model_file.h"
#include "train/network.h"
#include "train/step_state.h"

namespace qt {
namespace {

namespace fs = std::filesystem;

TEST(Durations, AreReadAsPeopleWriteThem) {
  EXPECT_EQ(seconds_of("3h50m"), 13800);
  EXPECT_EQ(seconds_of("1d"), 86400);
  EXPECT_EQ(seconds_of("600"), 600);
  EXPECT_EQ(seconds_of("1.5m"), 90);
  for (const char* bad : {"", "h", "3x", "-1s", "soon", "1e99d"})
    EXPECT_THROW(seconds_of(bad), ConfigError) << bad;
}

TEST(StopRequests, NoticeTheFirstSignalOnly) {
  const StopRequests requests;
  EXPECT_FALSE(requests.stop());
  raise(SIGUSR2);
  EXPECT_EQ(requests.reason(), "SIGUSR2");
}

TEST(StopRequests, ASecondInterruptEndsTheProcess) {
  EXPECT_EXIT(
      {
        const StopRequests requests;
        raise(SIGINT);
        raise(SIGINT);
        _exit(0);
      },
      ::testing::ExitedWithCode(130), "");
}

// ---- a whole run in this process ----

class TrainerRun : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("trainer_test_" + std::to_string(getpid()));
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  void read(const std::string& more) {
    load_config_text(experiment_,
                     "model: {name: resnet20}\n"
                     "data: {image_size: 16, train_images: 64, test_images: 20, workers: 0}\n" +
                         more,
                     "test.yaml");
  }
  RunFolder folder() const { return RunFolder::create({.dir = folder_.string(), .name = "run"}); }
  static void train_to_the_end(Trainer& trainer, const RunFolder& run) {
    trainer.open(&run, {});
    const StopRequests requests;
    EXPECT_EQ(trainer.run(requests), Trainer::Outcome::done);
  }
  Experiment experiment_;
  fs::path folder_;
};

TEST_F(TrainerRun, TheCpuRefusesAGpusPrecisionsInOneLine) {
  const bool has_bf16 = cpu_has(Isa::avx512_bf16);
  for (const auto& [key, allowed] :
       {std::pair{"backward", has_bf16 ? "auto, f32 or bf16" : "auto or f32"},
        std::pair{"float_forward", has_bf16 ? "auto, f32 or bf16" : "auto or f32"}}) {
    Experiment experiment;
    load_config_text(experiment, std::string("train: {") + key + ": tf32}", "test.yaml");
    try {
      const Trainer trainer(experiment, {.show_progress = false});
      ADD_FAILURE() << key << " tf32 was taken";
    } catch (const ConfigError& e) {
      EXPECT_EQ(
          std::string(e.what()),
          std::string("train.") + key + " tf32 is a GPU's arithmetic; device cpu takes " + allowed);
    }
  }
}

TEST_F(TrainerRun, FloatForwardInBf16IsThatOfTrainingAlone) {
  if (!cpu_has(Isa::avx512_bf16)) GTEST_SKIP() << "this CPU does not multiply bf16";
  read(
      "train: {batch: 32, float_forward: bf16, backward: f32, float: {epochs: 1, lr: 0.01}, "
      "qat: {epochs: 0}}\n");
  const RunFolder run = folder();
  Trainer trainer(experiment_, {.show_progress = false});
  const LibraryTrace trace;
  train_to_the_end(trainer, run);
  std::vector<std::string> forward;  // since the last gradient
  int in_bf16 = 0;
  for (const LibraryCall& call : trace.calls()) {
    if (call.operation == "conv2d") {
      forward.push_back(call.arithmetic);
      in_bf16 += call.arithmetic == "bf16";
    } else if (call.operation.starts_with("conv2d_backward")) {
      EXPECT_EQ(call.arithmetic, "f32");
      forward.clear();
    }
  }
  EXPECT_GT(in_bf16, 0);
  EXPECT_GE(forward.size(), 20u) << "the evaluation";
  EXPECT_EQ(std::set(forward.begin(), forward.end()), std::set<std::string>{"f32"});
  ASSERT_TRUE(trainer.last_evaluation());
  EXPECT_EQ(trainer.last_evaluation()->images, 20);
}

// The losses of a run, from its log.
std::vector<double> losses_in(const RunFolder& run) {
  std::vector<double> losses;
  const std::string lines = files::read_all(run.file("metrics.jsonl"));
  for (size_t at = 0; (at = lines.find("\"train/loss\":", at)) != std::string::npos; ++at)
    losses.push_back(std::stod(lines.substr(lines.find(':', at) + 1)));
  return losses;
}

// 16 bits of what was normalized: the first loss has the same bits, the others stay close, and less
// memory is taken.
TEST_F(TrainerRun, SavingSixteenBitsFollowsTheLossesOfF32) {
  std::map<std::string, std::vector<double>> losses;
  std::map<std::string, size_t> peak;
  for (const std::string saved : {"f32", "f16"}) {
    read("train: {batch: 32, saved: " + saved +
         ", float: {epochs: 1, lr: 0.01}, qat: {epochs: 2, lr: 0.01}}\n"
         "quant: {calibration: {batches: 1}}\nlog: {every: 1, histograms_every: 0}\n");
    fs::remove_all(folder_);
    const RunFolder run = folder();
    Trainer trainer(experiment_, {.show_progress = false});
    reset_memory_peak();
    train_to_the_end(trainer, run);
    peak[saved] = memory_stats().peak;
    losses[saved] = losses_in(run);
    const LoadedCheckpoint last = load_checkpoint(run.checkpoints() + "/step-00000006");
    EXPECT_EQ(state_from_json(last.content.state_json, "").run.saved, saved);
  }
  ASSERT_EQ(losses["f16"].size(), 6u);
  EXPECT_EQ(losses["f16"][0], losses["f32"][0]);
  EXPECT_NE(losses["f16"][5], losses["f32"][5]) << "nothing was rounded";
  for (size_t i = 1; i < 6; ++i) EXPECT_NEAR(losses["f16"][i], losses["f32"][i], 0.05) << i;
  EXPECT_LT(double(peak["f16"]), 0.85 * double(peak["f32"]));
}

TEST_F(TrainerRun, EndsWithAnIntegerProgramAndCheckpoints) {
  read(
      "train: {batch: 16, float: {epochs: 1, lr: 0.01}, qat: {epochs: 1, lr: 0.001}}\nquant: "
      "{calibration: {batches: 1}}\n");
  const RunFolder run = folder();
  Trainer trainer(experiment_, {.show_progress = false});
  train_to_the_end(trainer, run);
  EXPECT_EQ(trainer.steps_done(), 8);
  EXPECT_EQ(trainer.what_was_evaluated(), "integer-program");
  ASSERT_TRUE(trainer.last_evaluation());
  EXPECT_EQ(trainer.last_evaluation()->images, 20);
  EXPECT_TRUE(fs::exists(run.file("export/model.qat")));
  const LoadedCheckpoint last = load_checkpoint(run.checkpoints() + "/step-00000008");
  const TrainState state = state_from_json(last.content.state_json, last.folder);
  EXPECT_EQ(state.at.phase, 2);
  // Accuracies of the float phase are no rivals of those of the integer program.
  EXPECT_EQ(last.score, trainer.last_evaluation()->top1);
  EXPECT_FALSE(load_checkpoint(run.checkpoints() + "/step-00000004").score);
}

// One tensor of the network after each step of a run that keeps all checkpoints.
std::vector<std::vector<float>> values_by_step(const RunFolder& run, const std::string& name,
                                               int64_t steps) {
  std::vector<std::vector<float>> all;
  for (int64_t step = 1; step <= steps; ++step) {
    const LoadedCheckpoint at =
        load_checkpoint(run.checkpoints() + "/step-0000000" + std::to_string(step));
    for (const auto& [key, tensor] : at.content.tensors("model.safetensors"))
      if (key == name) all.push_back(tensor.to_vector<float>());
  }
  return all;
}

TEST_F(TrainerRun, StatisticsAreFrozenFromTheShareOfThePhaseOn) {
  read(
      "train: {batch: 16, float: {epochs: 0}, qat: {epochs: 1, lr: 0.01}}\n"
      "quant: {calibration: {batches: 1}, bn: {freeze_at: 0.5}}\n"
      "checkpoint: {every_steps: 1, keep_last: 9}\nlog: {histograms_every: 0}\n");
  const RunFolder run = folder();
  Trainer trainer(experiment_, {.show_progress = false});
  train_to_the_end(trainer, run);
  const auto means = values_by_step(run, "bn1.running_mean", 4);
  ASSERT_EQ(means.size(), 4u);
  EXPECT_NE(means[0], means[1]);
  EXPECT_EQ(means[1], means[2]) << "two of four steps are half of the phase";
  EXPECT_EQ(means[1], means[3]);
}

// At so small a rate the weights stay, and two batches give the sum of their gradients in two steps
// or their mean in one.
TEST_F(TrainerRun, AccumulatedBatchesMakeOneStepOfTheirMeanGradient) {
  std::vector<std::vector<float>> biases;
  for (const int accumulate : {1, 2}) {
    read("train: {batch: 16, accumulate: " + std::to_string(accumulate) +
         ", optimizer: {momentum: 0}, float: {epochs: 1, lr: 1e-6, schedule: {kind: constant}}, "
         "qat: {epochs: 0}}\ncheckpoint: {every_steps: 1, keep_last: 9}\n");
    {
      const RunFolder run = folder();
      Trainer trainer(experiment_, {.limit_train_batches = 2, .show_progress = false});
      train_to_the_end(trainer, run);
      EXPECT_EQ(trainer.steps_done(), 2 / accumulate);
      biases.push_back(values_by_step(run, "fc.bias", trainer.steps_done()).back());
    }
    fs::remove_all(folder_);
  }
  ASSERT_EQ(biases[0].size(), 10u);
  for (size_t k = 0; k < 10; ++k)
    EXPECT_NEAR(biases[0][k], 2 * biases[1][k], 1e-3f * std::abs(biases[0][k]) + 1e-12f) << k;
  EXPECT_GT(std::abs(biases[0][0]), 1e-9f);
}

TEST_F(TrainerRun, EvaluatesAtTheEpochsAskedForAndAtThePhasesEnd) {
  read(
      "train: {batch: 16, float: {epochs: 5, lr: 0.01}, qat: {epochs: 0}}\n"
      "eval: {batch: 20, every_epochs: 2}\n");
  const RunFolder run = folder();
  Trainer trainer(experiment_, {.limit_train_batches = 1, .show_progress = false});
  train_to_the_end(trainer, run);
  std::istringstream in(files::read_all(run.file("metrics.jsonl")));
  std::vector<int> epochs;
  for (std::string line; std::getline(in, line);)
    if (const auto j = nlohmann::json::parse(line); j.contains("eval/top1"))
      epochs.push_back(j["epoch"]);
  EXPECT_EQ(epochs, (std::vector<int>{2, 4, 5}));
}

// The program of the first steps, before any QAT step; asked for or not, training is the same.
TEST_F(TrainerRun, EvaluatesWhatCalibrationAloneGives) {
  std::map<bool, std::string> weights;
  for (const bool asked : {true, false}) {
    fs::remove_all(folder_);
    read(
        "train: {batch: 16, float: {epochs: 1, lr: 0.02}, qat: {epochs: 1, lr: 0.01}}\n"
        "eval: {batch: 20, after_calibration: " +
        std::string(asked ? "true" : "false") + "}\n");
    const RunFolder run = folder();
    Trainer trainer(experiment_, {.limit_train_batches = 2, .show_progress = false});
    train_to_the_end(trainer, run);
    std::istringstream in(files::read_all(run.file("metrics.jsonl")));
    std::vector<std::pair<int, int>> seen;
    for (std::string line; std::getline(in, line);)
      if (const auto j = nlohmann::json::parse(line); j.contains("eval/ptq_top1")) {
        seen.emplace_back(j["step"], j["epoch"]);
        EXPECT_GT(j["eval/ptq_loss"].get<double>(), 0);
      }
    EXPECT_EQ(seen, asked ? (std::vector<std::pair<int, int>>{{2, 2}})
                          : (std::vector<std::pair<int, int>>{}));
    weights[asked] = files::read_all(run.checkpoints() + "/step-00000004/model.safetensors");
  }
  EXPECT_TRUE(weights[true] == weights[false]);
}

TEST_F(TrainerRun, ReestimationAveragesTheStatisticsOfItsBatches) {
  read("train: {batch: 16}\n");
  const auto set = make_dataset(dataset_spec(experiment_), Split::train);
  const auto model = build_model(experiment_, *set);
  BatchNormState& norm = *norms_of(*model).at(0);
  // What each of three batches says of the first layer, whose input no statistics change.
  std::vector<double> wanted(16, 0.0);
  {
    const Tape::Pause pause;
    Loader loader(set, train_loader_spec(experiment_));
    loader.start_epoch(7);
    Batch batch;
    for (int i = 0; i < 3 && loader.next(batch); ++i) {
      norm.momentum = 1;
      model->forward(batch.images, {.mode = ForwardMode::float32, .training = true});
      for (size_t c = 0; c < 16; ++c) wanted[c] += double(norm.running_mean.data<float>()[c]) / 3;
    }
  }
  norm.momentum = 0.25f;
  norm.running_mean = Tensor::full({16}, 1000);
  Loader loader(set, train_loader_spec(experiment_));
  int asked = 0;
  const ReestimateOptions options{.mode = ForwardMode::float32, .epoch = 7, .batches = 3};
  ReestimateOptions stopped = options;
  stopped.stop = [&] { return ++asked == 2 ? "enough" : ""; };
  EXPECT_EQ(reestimate_statistics(*model, loader, stopped), "enough");
  EXPECT_EQ(norm.momentum, 0.25f);
  EXPECT_EQ(reestimate_statistics(*model, loader, options), "");
  for (size_t c = 0; c < 16; ++c) EXPECT_NEAR(norm.running_mean.data<float>()[c], wanted[c], 1e-4);
  EXPECT_EQ(norm.momentum, 0.25f);
}

TEST_F(TrainerRun, ReestimationLeavesFrozenStatisticsAndStepsThatFollowTheLargestValue) {
  read("train: {batch: 16}\nquant: {weights: {kind: minmax}, activations: {kind: minmax}}\n");
  const auto set = make_dataset(dataset_spec(experiment_), Split::train);
  const auto model = build_model(experiment_, *set);
  Loader loader(set, train_loader_spec(experiment_));
  calibrate(*model, loader, 1, ForwardMode::int8);
  const auto norms = norms_of(*model);
  norms.at(1)->frozen = true;
  const auto values = [&] {
    std::map<std::string, std::vector<float>> all;
    for (const auto& [name, tensor] : saved_state(*model)) all[name] = tensor.to_vector<float>();
    return all;
  };
  const auto before = values();
  reestimate_statistics(*model, loader, {.mode = ForwardMode::int8, .epoch = 1, .batches = 2});
  const std::string frozen = "layer1.0.bn1.running_";
  int moved = 0;
  for (const auto& [name, value] : values()) {
    const bool moves = name.find(".running_") != std::string::npos && !name.starts_with(frozen);
    EXPECT_EQ(value != before.at(name), moves) << name;
    moved += moves;
  }
  EXPECT_EQ(moved, 2 * int(norms.size() - 1));
  EXPECT_TRUE(before.contains(frozen + "mean"));
  EXPECT_TRUE(norms.at(1)->frozen);
}

// Two epochs of two steps; statistics are frozen after the first, with what re-estimation measures
// there, whether the run was evaluated before or not.
TEST_F(TrainerRun, StatisticsAreReestimatedWhereTheyAreFrozenAndStay) {
  const auto means_with = [&](const std::string& batches, const std::string& every = "1") {
    fs::remove_all(folder_);
    read(
        "train: {batch: 16, float: {epochs: 0}, qat: {epochs: 2, lr: 0.01}}\n"
        "quant: {calibration: {batches: 1}, bn: {freeze_at: 0.5, reestimate_batches: " +
        batches + "}}\ncheckpoint: {every_steps: 1, keep_last: 9}\nlog: {histograms_every: 0}\n" +
        "eval: {every_epochs: " + every + "}\n");
    const RunFolder run = folder();
    Trainer trainer(experiment_, {.limit_train_batches = 2, .show_progress = false});
    train_to_the_end(trainer, run);
    return values_by_step(run, "bn1.running_mean", 4);
  };
  const auto means = means_with("2"), without = means_with("0"), rare = means_with("2", "0");
  ASSERT_EQ(means.size(), 4u);
  EXPECT_NE(means[2], without[2]) << "frozen as they were";
  EXPECT_EQ(means[2], means[3]) << "the evaluation after the last step measured them anew";
  EXPECT_EQ(means[2], rare[2]) << "an evaluation changed what is frozen";
  EXPECT_EQ(without[1], without[2]);
  EXPECT_EQ(without[1], without[3]);
}

// On pictures of 32 pixels, the last stage being one pixel. What was trained is the program: its
// engines agree in every layer.
TEST_F(TrainerRun, TrainsAResNet50AndExportsItsProgram) {
  read(
      "train: {batch: 8, float: {epochs: 0}, qat: {epochs: 1, lr: 0.001}}\n"
      "quant: {calibration: {batches: 1}}\nlog: {histograms_every: 0}\n");
  experiment_.model.name.set("resnet50");
  experiment_.model.stem.set("imagenet");
  experiment_.data.image_size.set(32);
  experiment_.data.train_images.set(32);
  const RunFolder run = folder();
  Trainer trainer(experiment_, {.show_progress = false});
  train_to_the_end(trainer, run);
  EXPECT_EQ(trainer.steps_done(), 4);
  const Program program = load_program(run.file("export/model.qat"));
  const auto set = make_dataset(dataset_spec(experiment_), Split::test);
  Tensor images = Tensor::empty({3, 32, 32, 3}, DType::u8);
  for (int64_t i = 0; i < 3; ++i) set->read(i, images.data<uint8_t>() + i * 32 * 32 * 3);
  const EngineResult wanted = make_engine("reference")->run(program, images, {.keep_codes = true});
  EXPECT_EQ(wanted.codes.size(), program.instructions.size() - 1);
  for (const CodePath path : {CodePath::integer, CodePath::exact_float}) {
    const CodeDifference difference = compare_codes(
        wanted, make_engine("onednn")->run(program, images, {.path = path, .keep_codes = true}));
    EXPECT_TRUE(difference.equal) << difference.text();
  }
}

TEST_F(TrainerRun, LowersTheLossOfAFewPicturesItSeesAgain) {
  read(
      "train: {batch: 16, float: {epochs: 30, lr: 0.05}, qat: {epochs: 8, lr: 0.01}}\nlog: "
      "{every: 1, histograms_every: 0}\n"
      "eval: {batch: 20, every_epochs: 0}\n");
  const RunFolder run = folder();
  Trainer trainer(experiment_, {.overfit_batches = 1, .show_progress = false});
  train_to_the_end(trainer, run);
  const std::string lines = files::read_all(run.file("metrics.jsonl"));
  const auto loss_at = [&](size_t at) {
    return std::stod(lines.substr(lines.find(':', lines.find("train/loss", at)) + 1));
  };
  const double first = loss_at(0), last = loss_at(lines.rfind("train/loss"));
  EXPECT_GT(first, 1.5);
  EXPECT_LT(last, 0.5 * first);
}

// system_allocations after each step, from metrics.jsonl.
std::vector<double> allocations_by_step(const std::string& lines) {
  const std::string key = "\"memory/system_allocations\":";
  std::vector<double> all;
  for (size_t at = lines.find(key); at != std::string::npos; at = lines.find(key, at + 1))
    all.push_back(std::stod(lines.substr(at + key.size())));
  return all;
}

TEST_F(TrainerRun, AsksTheSystemForNoMemoryAfterTheFirstStepsOfAPhase) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "nothing is cached under AddressSanitizer";
#endif
  read(
      "train: {batch: 8, float: {epochs: 1, lr: 0.01}, qat: {epochs: 1, lr: 0.001}}\n"
      "log: {every: 1, histograms_every: 0}\neval: {batch: 20}\n");
  const RunFolder run = folder();
  Trainer trainer(experiment_, {.show_progress = false});
  release_cached_memory();  // of earlier tests
  const uint64_t before = memory_stats().system_allocations;
  train_to_the_end(trainer, run);
  const auto after = allocations_by_step(files::read_all(run.file("metrics.jsonl")));
  ASSERT_EQ(after.size(), 16u);  // 8 steps of float, 8 of QAT
  EXPECT_GT(after[0], double(before));
  for (const size_t phase : {size_t(0), size_t(8)})
    for (size_t step = phase + 4; step < phase + 8; ++step)
      EXPECT_EQ(after[step], after[phase + 3]) << "step " << step + 1;
}

// Rates that make numbers infinite for half of the steps, then good ones.
constexpr const char* bad_start =
    "data: {train_images: 64}\n"
    "train: {batch: 8, on_nan: skip, float: {epochs: 1, lr: 1e39, schedule: {kind: step, "
    "milestones: [0.5], gamma: 0, min_lr: 0.01}}, qat: {epochs: 0}}\n";

TEST_F(TrainerRun, LeavesOutStepsThatAreNotFiniteWhereAsked) {
  load_config_text(experiment_,
                   std::string("model: {name: resnet20}\n") + bad_start +
                       "log: {every: 1, histograms_every: 0}\n",
                   "test.yaml", {{"data.image_size=16", 1}, {"data.test_images=20", 2}});
  const RunFolder run = folder();
  Trainer trainer(experiment_, {.show_progress = false});
  train_to_the_end(trainer, run);
  const LoadedCheckpoint last = load_checkpoint(run.checkpoints() + "/step-00000008");
  const TrainState state = state_from_json(last.content.state_json, last.folder);
  EXPECT_EQ(state.skipped, 4);
  EXPECT_EQ(state.at.steps_done, 8);
  for (const auto& [name, tensor] : last.content.tensors("model.safetensors"))
    for (float value : tensor.to_vector<float>()) EXPECT_TRUE(std::isfinite(value)) << name;
  const std::string lines = files::read_all(run.file("metrics.jsonl"));
  EXPECT_NE(lines.find("\"train/skipped_steps\":4"), std::string::npos) << lines;
}

TEST_F(TrainerRun, ASkippedStepLeavesEveryTensorAsItWas) {
  read("train: {batch: 16}\n");
  const auto set = make_dataset(dataset_spec(experiment_), Split::train);
  const auto model = build_model(experiment_, *set);
  const auto optimizer = make_optimizer({}, parameters_of(*model));
  StepState state(*model, *optimizer);
  const auto everything = [&] {
    NamedTensors all = saved_state(*model);
    for (const auto& [name, tensor] : optimizer->state()) all.emplace_back(name, tensor);
    return all;
  };
  const auto step = [&](double lr) {
    Loader loader(set, train_loader_spec(experiment_));
    Batch batch;
    loader.start_epoch(0);
    loader.next(batch);
    const Var logits =
        model->forward(batch.images, {.mode = ForwardMode::float32, .training = true});
    const Var loss = softmax_cross_entropy(logits, batch.labels, 0);
    Tape::current().backward(loss, Tensor::full({1}, 1));
    optimizer->step(lr);
  };
  step(0.1);
  const NamedTensors before = everything();
  state.begin();
  step(0.1);
  EXPECT_FALSE(everything()[0].second.raw() == before[0].second.raw()) << "the step did nothing";
  state.put_back();
  const NamedTensors after = everything();
  ASSERT_EQ(after.size(), before.size());
  for (size_t i = 0; i < after.size(); ++i)
    EXPECT_EQ(after[i].second.raw(), before[i].second.raw()) << after[i].first;
}

TEST_F(TrainerRun, RefusesAnEpochWithoutSteps) {
  read("train: {batch: 16, accumulate: 5}\n");
  EXPECT_THROW(Trainer(experiment_, {}), ConfigError);
}

TEST_F(TrainerRun, CalibrationGivesEveryQuantizerAStep) {
  read("train: {batch: 16}\n");
  const auto set = make_dataset(dataset_spec(experiment_), Split::train);
  const auto model = build_model(experiment_, *set);
  Loader loader(set, train_loader_spec(experiment_));
  EXPECT_THROW(calibrate(*model, loader, 0, ForwardMode::int8), ConfigError);
  calibrate(*model, loader, 2, ForwardMode::int8);
  Visitor visitor;
  visitor.quantizer = [](const std::string& name, Quantizer& quantizer) {
    EXPECT_TRUE(quantizer.ready()) << name;
  };
  model->visit(visitor);
  set_missing_floors(*model);
  for (const auto& [name, parameter] : parameters_of(*model))
    if (parameter->kind == Parameter::Kind::step) {
      EXPECT_GT(parameter->floor.data<float>()[0], 0) << name;
    }
  EXPECT_EQ(first_bad_parameter(parameters_of(*model), true), "");
}

// Calibration reads pictures and may fail; what was trained before must not be lost with it.
TEST_F(TrainerRun, AFinishedPhaseIsSavedBeforeTheNextOneIsCalibrated) {
  read(
      "train: {batch: 32, float: {epochs: 1, lr: 0.01}, qat: {epochs: 1, lr: 0.001}}\n"
      "checkpoint: {every_epochs: 0}\n");
  const RunFolder run = folder();
  Trainer trainer(experiment_, {.show_progress = false});
  train_to_the_end(trainer, run);
  EXPECT_EQ(losses_in(run).size(), 2u) << "of each phase's last step, long before log.every";
  const std::string half = run.checkpoints() + "/step-00000002";
  const LoadedCheckpoint saved = load_checkpoint(half);
  const TrainState state = state_from_json(saved.content.state_json, half);
  EXPECT_EQ(state.at.phase, 1);
  EXPECT_FALSE(state.at.calibrated);
  EXPECT_TRUE(state.codes.empty());

  Experiment again;
  load_config_text(again, dump(experiment_), "test.yaml");
  const RunFolder rest = RunFolder::create({.dir = folder_.string(), .name = "rest"});
  Trainer resumed(again, {.show_progress = false});
  resumed.open(&rest, saved);
  const StopRequests requests;
  EXPECT_EQ(resumed.run(requests), Trainer::Outcome::done);
  EXPECT_EQ(files::read_all(rest.file("export/model.qat")),
            files::read_all(run.file("export/model.qat")));
}

TEST_F(TrainerRun, ANetworkOfOtherWidthsGivesItsWeightsButNotItsSteps) {
  const auto network = [&](const std::string& quant) {
    read("train: {batch: 16}\nquant: {weights: " + quant + "}\n");
    const auto set = make_dataset(dataset_spec(experiment_), Split::train);
    return std::pair(build_model(experiment_, *set),
                     std::make_unique<Loader>(set, train_loader_spec(experiment_)));
  };
  const auto [eight, pictures] = network("{bits: 8}");
  calibrate(*eight, *pictures, 1, ForwardMode::int8);
  fs::create_directories(folder_);
  const std::string file = (folder_ / "eight.safetensors").string();
  write_safetensors(file, saved_state(*eight));

  const auto [two, same] = network("{bits: 2, granularity: tensor}");
  EXPECT_THROW(init_from(*two, file, true), CheckpointError);
  init_from(*two, file, false);
  calibrate(*two, *same, 1, ForwardMode::int8);
  std::map<std::string, std::vector<float>> values;
  for (const auto& [name, parameter] : parameters_of(*two))
    values[name] = parameter->var.value().to_vector<float>();
  const std::vector<float>& weights = values.at("layer1.0.conv1.weight");
  double sum = 0;
  for (const float w : weights) sum += std::abs(w);
  const float wanted = float(2 * sum / double(weights.size()));  // / sqrt(hi = 1)
  EXPECT_NEAR(values.at("layer1.0.conv1.weight_quant.scale")[0], wanted, 1e-5f * wanted);
}

}  // namespace
}  // namespace qt
