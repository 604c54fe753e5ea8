// tests/gpu/training_test.cpp -- training on a GPU against the CPU: codes, losses, bits that come
// again, memory that is given back.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "deploy/build_program.h"
#include "deploy/engine.h"
#include "tests/gpu/libraries.h"
#include "tests/gpu/on_gpu.h"
#include "train/network.h"
#include "train/trainer.h"

namespace qt {
namespace {

namespace fs = std::filesystem;

std::shared_ptr<const Device> device_under_test() {
  return std::make_shared<const Device>("cuda:0", libraries_under_test().front().library);
}

// resnet20: 50 steps of 32 pictures on a real GPU, 7 of 2 small ones on the emulated one.
class TrainingOnGpu : public OnGpu {
 protected:
  void SetUp() override {
    OnGpu::SetUp();
    if (IsSkipped()) return;
    folder_ = fs::temp_directory_path() / ("gpu_training_test_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    const bool small = gpu_under_test::is_emulated();
    steps_ = small ? 7 : 50;
    load_config_text(
        experiment_,
        std::string("model: {name: resnet20}\n") +
            (small ? "data: {image_size: 16, train_images: 14, test_images: 5, workers: 0}\n"
                   : "data: {image_size: 32, train_images: 1600, test_images: 200, workers: 2}\n") +
            "train: {batch: " + (small ? "2, threads: 1" : "32") +
            ", backward: f32, float: {epochs: 0}, qat: {epochs: 1, lr: 0.02}}\n"
            "quant: {calibration: {batches: 2}}\n"
            "log: {every: 1, histograms_every: 0}\neval: {batch: 100}\n",
        "test.yaml");
  }
  void TearDown() override {
    fs::remove_all(folder_);
    OnGpu::TearDown();
  }

  struct Run {
    std::vector<double> losses;
    Evaluation evaluation;
    bool replayed;
  };
  Run run(const std::shared_ptr<const Device>& device) {
    fs::remove_all(folder_);
    const RunFolder folder = RunFolder::create({.dir = folder_.string(), .name = "run"});
    Trainer trainer(experiment_, {.show_progress = false, .device = device});
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
  size_t steps_ = 0;
};

// Codes that layers emit, by name.
class Codes : public Observer {
 public:
  void quantized(const std::string& name, const Tensor&, const Tensor& codes) override {
    list.emplace_back(name, on_host(codes));
  }
  NamedTensors list;
};

void expect_same_codes(const NamedTensors& got, const NamedTensors& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  ASSERT_GT(wanted.size(), 15u) << "of resnet20's layers";
  for (size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_EQ(got[i].first, wanted[i].first);
    EXPECT_EQ(difference_in_bits(got[i].second, wanted[i].second), "") << wanted[i].first;
  }
}

TEST_F(TrainingOnGpu, TheFirstForwardHasTheCpusCodesAndSoHasTheProgram) {
  const auto device = device_under_test();  // outlives what lies there
  const auto set = make_dataset(dataset_spec(experiment_), Split::train);
  const auto model = build_model(experiment_, *set);
  Loader loader(set, train_loader_spec(experiment_));
  calibrate(*model, loader, 2, ForwardMode::int8);
  Batch batch;
  loader.start_epoch(1);
  ASSERT_TRUE(loader.next(batch));
  const Program program = build_program(*model, {.class_names = set->classes(), .notes = {}});
  const RunOptions options{.keep_codes = true};
  const EngineResult wanted_program = make_engine("onednn")->run(program, batch.images, options);
  const Tape::Pause pause;
  Codes wanted, got;
  const Tensor logits =
      model->forward(batch.images, {.mode = ForwardMode::int8, .observer = &wanted}).value();
  Tensor on_gpu;
  {
    const auto section = device->enter();
    place_here(*model);
    on_gpu = on_host(
        model->forward(here(batch.images), {.mode = ForwardMode::int8, .observer = &got}).value());
  }
  EXPECT_EQ(difference_in_bits(on_gpu, logits), "");
  expect_same_codes(got.list, wanted.list);
  const auto engine = make_gpu_engine(GpuStream(), libraries_under_test().front().library);
  const EngineResult got_program = engine->run(program, batch.images, options);
  EXPECT_EQ(difference_in_bits(got_program.logits, wanted_program.logits), "");
  expect_same_codes(got_program.codes, wanted_program.codes);
}

// Gradients are added up in another order, and a code near a half may flip: losses stay close, not
// equal. The first step's differs by exp and log alone.
TEST_F(TrainingOnGpu, StepsOfResNet20StayCloseToTheCpus) {
  const Run cpu = run(nullptr), gpu = run(device_under_test());
  ASSERT_EQ(cpu.losses.size(), steps_);
  ASSERT_EQ(gpu.losses.size(), steps_);
  EXPECT_TRUE(gpu.replayed) << "the step was not recorded as a CUDA graph";
  EXPECT_NEAR(gpu.losses[0], cpu.losses[0], 1e-5);
  double sum = 0;
  for (size_t i = 0; i < steps_; ++i) {
    EXPECT_NEAR(gpu.losses[i], cpu.losses[i], 0.25) << "step " << i + 1;
    sum += gpu.losses[i] - cpu.losses[i];
  }
  EXPECT_NEAR(sum / double(steps_), 0, 0.05);
}

TEST_F(TrainingOnGpu, TheSameRunGivesTheSameBits) {
  const Run one = run(device_under_test());
  EXPECT_EQ(run(device_under_test()).losses, one.losses);
}

// Libraries keep what they set up in the first runs; afterwards a run leaves nothing behind, but
// for what the driver and other programs on the GPU do in between.
TEST_F(TrainingOnGpu, ARunGivesAllItsMemoryBack) {
  const size_t slack = gpu_under_test::is_emulated() ? 0 : size_t{4} << 20;
  size_t before = 0;
  for (int turn = 0; turn < 4; ++turn) {
    run(device_under_test());
    EXPECT_EQ(gpu_memory_stats().in_use, 0u);
    release_cached_gpu_memory();
    const size_t now = gpu_under_test::bytes_in_use();
    if (turn == 0) before = now;
    EXPECT_LE(now, before + slack) << "bytes that the driver has given out, after run " << turn + 1;
    EXPECT_EQ(gpu_under_test::leaks(), "");
  }
}

}  // namespace
}  // namespace qt
