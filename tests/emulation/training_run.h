// tests/emulation/training_run.h -- the fixture of tests that train on an emulated GPU and compare
// what a run leaves behind.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/emulation/emulated_gpu.h"
#include "tests/emulation/plain_library.h"
#include "train/trainer.h"

namespace qt {

inline std::shared_ptr<const Device> emulated_device() {
  return std::make_shared<const Device>("emulated", make_emulated_library());
}

// What a run leaves behind.
struct Left {
  std::string model, optimizer, program;  // the last checkpoint's files, and export/model.qat
  std::vector<std::string> losses;        // train/loss and train/top1 of every line
  int64_t skipped = 0, steps = 0, projections = 0;
  std::optional<Evaluation> evaluation;
  std::map<std::string, std::string> engines;
  bool replayed = false;
};

class TrainingRuns : public EmulatedGpu {
 protected:
  void SetUp() override {
    EmulatedGpu::SetUp();
    folder_ = std::filesystem::temp_directory_path() /
              ("emulated_train_test_" + std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override {
    std::filesystem::remove_all(folder_);
    EmulatedGpu::TearDown();
  }

  // resnet20 on pictures as small as the generated ones get.
  static std::string config(const std::string& train, const std::string& quant = "",
                            const std::string& more = "") {
    return "model: {name: resnet20}\n"
           "data: {image_size: 16, train_images: 12, test_images: 5, workers: 0, augmentation: "
           "{crop: padded, crop_padding: 2}}\n"
           "quant: {calibration: {batches: 1}" +
           quant +
           "}\neval: {batch: 3}\n"
           "log: {every: 2, histograms_every: 0}\n"
           "train: {batch: 2, threads: 1, float_forward: f32, backward: f32, " +
           train + "}\n" + more;
  }

  // With several ranks only the first leaves files, and the others no more than an evaluation.
  Left run(const std::string& text, const std::shared_ptr<const Device>& device,
           const std::string& name, const std::string& from = "", int64_t limit = 1 << 20,
           Communicator* ranks = nullptr) {
    const UseLibrary plain(library_by_name("reference"));
    Experiment experiment;
    load_config_text(experiment, text, "test.yaml");
    const bool writes = !ranks || ranks->writes();
    std::optional<RunFolder> folder;
    if (writes) {
      std::filesystem::remove_all(folder_ / name);
      folder = RunFolder::create({.dir = folder_.string(), .name = name});
    }
    Trainer trainer(
        experiment,
        {.limit_train_batches = limit, .show_progress = false, .ranks = ranks, .device = device});
    std::optional<LoadedCheckpoint> checkpoint;
    if (writes && !from.empty()) checkpoint = load_checkpoint(from);
    if (ranks) share_checkpoint(*ranks, checkpoint);
    trainer.open(folder ? &*folder : nullptr, checkpoint);
    const StopRequests requests;
    EXPECT_EQ(trainer.run(requests), Trainer::Outcome::done);
    return left(folder ? &*folder : nullptr, trainer);
  }

  static Left left(const RunFolder* folder, const Trainer& trainer) {
    Left result;
    result.evaluation = trainer.last_evaluation();
    result.replayed = trainer.replays();
    result.steps = trainer.steps_done();
    if (!folder) return result;
    const CheckpointStore store(folder->checkpoints(), 1, 0);
    const std::string last = store.folder_of(store.steps().back());
    result.model = files::read_all(last + "/model.safetensors");
    result.optimizer = files::read_all(last + "/optim.safetensors");
    const TrainState state = state_from_json(files::read_all(last + "/state.json"), last);
    result.skipped = state.skipped, result.projections = state.projections;
    result.steps = state.at.steps_done;
    result.engines = state.engines;
    if (files::exists(folder->file("export/model.qat")))
      result.program = files::read_all(folder->file("export/model.qat"));
    const std::string lines = files::read_all(folder->file("metrics.jsonl"));
    for (const std::string key : {"\"train/loss\":", "\"train/top1\":"})
      for (size_t at = lines.find(key); at != std::string::npos; at = lines.find(key, at + 1))
        result.losses.push_back(lines.substr(at, lines.find_first_of(",}", at) - at));
    return result;
  }

  static void expect_same(const Left& got, const Left& wanted) {
    EXPECT_EQ(got.losses, wanted.losses);
    EXPECT_TRUE(got.model == wanted.model) << "model.safetensors differs";
    EXPECT_TRUE(got.optimizer == wanted.optimizer) << "optim.safetensors differs";
    EXPECT_TRUE(got.program == wanted.program) << "model.qat differs";
    EXPECT_EQ(got.skipped, wanted.skipped);
    EXPECT_EQ(got.projections, wanted.projections);
    EXPECT_EQ(got.steps, wanted.steps);
    EXPECT_EQ(got.evaluation->loss, wanted.evaluation->loss);
    EXPECT_EQ(got.evaluation->top1, wanted.evaluation->top1);
  }

  // Rates that make numbers infinite in half of the steps, launched kernel by kernel and replayed.
  static std::string bad_half(const std::string& on_nan) {
    return "on_nan: " + on_nan +
           ", float: {epochs: 0}, qat: {epochs: 1, lr: 1e39, schedule: {kind: step, milestones: "
           "[0.6], gamma: 0, min_lr: 0.01}}";
  }

  std::filesystem::path folder_;
};

}  // namespace qt
