// tests/train/training_cuda_test.cpp -- training on a real GPU against the CPU. Skipped where there
// is no GPU.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "core/tensor/transfer.h"
#include "deploy/build_program.h"
#include "deploy/engine.h"
#include "train/network.h"
#include "train/trainer.h"

namespace qt {
namespace {

namespace fs = std::filesystem;

class TrainingGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (gpu_count() == 0) GTEST_SKIP() << "there is no CUDA device";
    folder_ = fs::temp_directory_path() / ("training_cuda_test_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    load_config_text(experiment_,
                     "model: {name: resnet20}\n"
                     "data: {image_size: 32, train_images: 1600, test_images: 200, workers: 2}\n"
                     "train: {batch: 32, backward: f32, float: {epochs: 0}, qat: {epochs: 1, lr: "
                     "0.02}}\nquant: {calibration: {batches: 2}}\n"
                     "log: {every: 1, histograms_every: 0}\neval: {batch: 100}\n",
                     "test.yaml");
  }
  void TearDown() override { fs::remove_all(folder_); }

  struct Run {
    std::vector<double> losses;
    Evaluation evaluation;
    bool replayed;
  };
  Run run(const std::string& device) {
    const RunFolder folder = RunFolder::create({.dir = folder_.string(), .name = device});
    Trainer trainer(experiment_, {.show_progress = false, .device = open_device(device)});
    trainer.open(&folder, {});
    const StopRequests requests;
    EXPECT_EQ(trainer.run(requests), Trainer::Outcome::done);
    Run result{{}, *trainer.last_evaluation(), trainer.replays()};
    const std::string lines = files::read_all(folder.file("metrics.jsonl")),
                      key = "\"train/loss\":";
    for (size_t at = lines.find(key); at != std::string::npos; at = lines.find(key, at + 1))
      result.losses.push_back(std::stod(lines.substr(at + key.size())));
    return result;
  }

  Experiment experiment_;
  fs::path folder_;
};

// Codes that layers emit, by name.
class Codes : public Observer {
 public:
  void quantized(const std::string& name, const Tensor&, const Tensor& codes) override {
    list.emplace_back(name, on_host(codes));
  }
  NamedTensors list;
};

TEST_F(TrainingGpu, TheFirstForwardHasTheCpusCodesAndSoHasTheProgram) {
  const auto device = open_device("cuda");  // outlives what lies there
  const auto set = make_dataset(dataset_spec(experiment_), Split::train);
  const auto model = build_model(experiment_, *set);
  Loader loader(set, train_loader_spec(experiment_));
  calibrate(*model, loader, 2, ForwardMode::int8);
  Batch batch;
  loader.start_epoch(1);
  ASSERT_TRUE(loader.next(batch));
  const Program program = build_program(*model, {.class_names = set->classes(), .notes = {}});
  const EngineResult wanted_program =
      make_engine("onednn")->run(program, batch.images, {.keep_codes = true});
  const Tape::Pause pause;
  Codes wanted, got;
  const Tensor logits =
      model->forward(batch.images, {.mode = ForwardMode::int8, .observer = &wanted}).value();
  {
    const auto section = device->enter();
    place_here(*model);
    const Tensor on_gpu = on_host(
        model->forward(here(batch.images), {.mode = ForwardMode::int8, .observer = &got}).value());
    EXPECT_EQ(on_gpu.to_vector<float>(), logits.to_vector<float>());
  }
  ASSERT_EQ(got.list.size(), wanted.list.size());
  for (size_t i = 0; i < got.list.size(); ++i)
    EXPECT_EQ(got.list[i].second.to_vector<int8_t>(), wanted.list[i].second.to_vector<int8_t>())
        << got.list[i].first;
  const EngineResult got_program =
      make_engine("cuda")->run(program, batch.images, {.keep_codes = true});
  EXPECT_EQ(got_program.logits.to_vector<float>(), wanted_program.logits.to_vector<float>());
  for (size_t i = 0; i < wanted_program.codes.size(); ++i)
    EXPECT_EQ(got_program.codes.at(i).second.to_vector<int8_t>(),
              wanted_program.codes[i].second.to_vector<int8_t>())
        << wanted_program.codes[i].first;
}

// Gradients are added up in another order, and a code near a half may flip: losses stay close, not
// equal. The first step's differs by exp and log alone.
TEST_F(TrainingGpu, FiftyStepsOfResNet20StayCloseToTheCpus) {
  const Run cpu = run("cpu"), gpu = run("cuda");
  ASSERT_EQ(cpu.losses.size(), 50u);
  ASSERT_EQ(gpu.losses.size(), 50u);
  EXPECT_TRUE(gpu.replayed) << "the step was not recorded as a CUDA graph";
  EXPECT_NEAR(gpu.losses[0], cpu.losses[0], 1e-5);
  double sum = 0;
  for (size_t i = 0; i < 50; ++i) {
    EXPECT_NEAR(gpu.losses[i], cpu.losses[i], 0.25) << "step " << i + 1;
    sum += gpu.losses[i] - cpu.losses[i];
  }
  EXPECT_NEAR(sum / 50, 0, 0.05);
}

TEST_F(TrainingGpu, TheSameRunGivesTheSameBits) {
  const Run one = run("cuda");
  fs::remove_all(folder_);
  EXPECT_EQ(run("cuda").losses, one.losses);
}

}  // namespace
}  // namespace qt
