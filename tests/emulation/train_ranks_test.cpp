// tests/emulation/train_ranks_test.cpp -- whole training runs of several processes, each on an
// emulated GPU of its own: they have the bits of as many processes on the CPU, whether gradients
// are summed by NCCL or through host memory. Started by mpirun with two processes: sums of two
// numbers have the same bits in whichever way they are taken.
#include <gmock/gmock.h>
#include <signal.h>

#include "tests/emulation/host_ranks.h"
#include "tests/emulation/training_run.h"

namespace qt {
namespace {

using ::testing::HasSubstr;

const auto* const environment =
    ::testing::AddGlobalTestEnvironment(std::make_unique<RanksEnvironment>().release());

// A perceptron, whose emulated steps take little time. The ranks' parts of a batch differ in size.
std::string perceptron(const std::string& train, const std::string& quant = "",
                       const std::string& distributed = "bucket_megabytes: 0.0003") {
  return "model: {name: mlp, hidden: [8, 8]}\n"
         "data: {image_size: 16, train_images: 20, test_images: 5, workers: 0, augmentation: "
         "{crop: "
         "padded, crop_padding: 2}}\n"
         "quant: {calibration: {batches: 1}" +
         quant +
         "}\neval: {batch: 3}\nlog: {every: 2, histograms_every: 0}\ncheckpoint: {keep_last: 5}\n"
         "train: {batch: 5, threads: 1, float_forward: f32, backward: f32, " +
         train + "}\ndistributed: {" + distributed + "}\n";
}

class TrainingOfRanks : public TrainingRuns, public ::testing::WithParamInterface<Way> {
 protected:
  void SetUp() override {
    TrainingRuns::SetUp();
    if (!host_ranks()) GTEST_SKIP() << "to be started by mpirun";
    ASSERT_EQ(host_ranks()->world(), 2);
  }
  // steps: of an epoch, at most.
  Left run_on_cpu(const std::string& text, int64_t steps = 1 << 20) {
    return run(text, nullptr, "cpu", "", steps, host_ranks().get());
  }
  Left run_on_gpus(const std::string& text, unsigned seed, const std::string& from = "",
                   int64_t steps = 1 << 20) {
    start(seed);
    emulator::set_order(all_orders[seed % 3], seed);
    const auto ranks = gpu_ranks(GetParam());
    return run(text, emulated_device(), "gpu", from, steps, ranks.get());
  }
  void expect_bits_of_the_cpu(const std::string& text, unsigned seeds, int64_t steps = 1 << 20) {
    const Left wanted = run_on_cpu(text, steps);
    for (unsigned seed = 0; seed < seeds; ++seed) {
      SCOPED_TRACE("work in the order of seed " + std::to_string(seed));
      const Left got = run_on_gpus(text, seed, "", steps);
      EXPECT_FALSE(got.replayed);
      expect_same(got, wanted);
    }
  }
};
INSTANTIATE_TEST_SUITE_P(, TrainingOfRanks, ::testing::Values(Way::nccl, Way::host_memory),
                         name_of_way);

TEST_P(TrainingOfRanks, WithCodesHasTheBitsOfRanksOnTheCpu) {
  expect_bits_of_the_cpu(perceptron("float: {epochs: 0}, qat: {epochs: 1, lr: 0.01}"), 3);
}

TEST_P(TrainingOfRanks, InFloatAndThenWithCodesHasTheBitsOfRanksOnTheCpu) {
  expect_bits_of_the_cpu(
      perceptron("float: {epochs: 1, lr: 0.05}, qat: {epochs: 3, lr: 0.01}, accumulate: 2, "
                 "label_smoothing: 0.1, optimizer: {nesterov: true}",
                 ", bn: {freeze_at: 0.4, reestimate_batches: 2}"),
      1);
}

TEST_P(TrainingOfRanks, WithStatisticsOfTheWholeBatchHasTheBitsOfRanksOnTheCpu) {
  expect_bits_of_the_cpu(perceptron("float: {epochs: 1, lr: 0.05}, qat: {epochs: 1, lr: 0.01}", "",
                                    "sync_batchnorm: true, bucket_megabytes: 0.0003"),
                         1);
}

TEST_P(TrainingOfRanks, WithStepsThatFollowTheLargestValueHasTheBitsOfRanksOnTheCpu) {
  expect_bits_of_the_cpu(
      perceptron("float: {epochs: 0}, qat: {epochs: 1, lr: 0.01}",
                 ", weights: {kind: minmax, granularity: tensor}, activations: {kind: minmax}, "
                 "residual: both"),
      1);
}

TEST_P(TrainingOfRanks, OfResNet20HasTheBitsOfRanksOnTheCpu) {
  expect_bits_of_the_cpu(config("float: {epochs: 0}, qat: {epochs: 1, lr: 0.01}", "",
                                "distributed: {bucket_megabytes: 0.2, sync_batchnorm: true}\n"),
                         1, 2);
}

TEST_P(TrainingOfRanks, GoesOnFromACheckpointOfRanksOnTheCpu) {
  const std::string text = perceptron("float: {epochs: 0}, qat: {epochs: 2, lr: 0.01}");
  const Left wanted = run_on_cpu(text);
  const Left got = run_on_gpus(text, 1, (folder_ / "cpu/checkpoints/step-00000004").string());
  EXPECT_TRUE(got.model == wanted.model);
  EXPECT_TRUE(got.optimizer == wanted.optimizer);
  EXPECT_TRUE(got.program == wanted.program);
}

TEST_P(TrainingOfRanks, StepsThatAreNotFiniteAreLeftOutByAll) {
  const std::string text = perceptron(bad_half("skip"));
  const Left wanted = run_on_cpu(text);
  EXPECT_EQ(wanted.skipped, host_ranks()->writes() ? 3 : 0);
  expect_same(run_on_gpus(text, 1), wanted);
}

TEST_P(TrainingOfRanks, ARunThatDivergesEndsEverywhereWithTheCpusMessage) {
  const std::string text = perceptron(bad_half("stop"));
  const auto message = [](const auto& some_run) -> std::string {
    try {
      some_run();
    } catch (const DivergenceError& e) {
      return e.what();
    }
    return "it did not diverge";
  };
  const std::string wanted = message([&] { run_on_cpu(text); });
  EXPECT_THAT(wanted, HasSubstr("step 1 (qat, epoch 1): "));
  EXPECT_EQ(message([&] { run_on_gpus(text, 1); }), wanted);
}

// The other rank hears of it, and both end after one step, or in the evaluation before it.
TEST_P(TrainingOfRanks, AStopThatOneRankIsAskedForIsOfAll) {
  const UseLibrary plain(library_by_name("reference"));
  const auto ranks = gpu_ranks(GetParam());
  for (const bool evaluates_first : {false, true}) {
    Experiment experiment;
    load_config_text(experiment, perceptron("float: {epochs: 0}, qat: {epochs: 1, lr: 0.01}"),
                     "test");
    experiment.eval.after_calibration.set(evaluates_first, "test");
    std::optional<RunFolder> folder;
    if (ranks->writes())
      folder = RunFolder::create({.dir = folder_.string(), .name = evaluates_first ? "a" : "b"});
    Trainer trainer(experiment,
                    {.show_progress = false, .ranks = ranks.get(), .device = emulated_device()});
    trainer.open(folder ? &*folder : nullptr, {});
    const StopRequests requests;
    if (ranks->rank() == 1) raise(SIGUSR2);
    EXPECT_EQ(trainer.run(requests), Trainer::Outcome::stopped);
    EXPECT_EQ(trainer.stop_reason(), "SIGUSR2");
    EXPECT_EQ(trainer.steps_done(), evaluates_first ? 0 : 1);
  }
}

TEST(GpuOfRank, GoesAroundAmongTheGpusOfAMachine) {
  emulator::reset();
  ASSERT_EQ(gpu_count(), 1);
  EXPECT_EQ(gpu_of_rank("cuda", 0), "cuda:0");
  EXPECT_EQ(gpu_of_rank("cuda", 3), "cuda:0");
  EXPECT_EQ(gpu_of_rank("cuda:2", 3), "cuda:2");
  EXPECT_EQ(gpu_of_rank("cpu", 3), "cpu");
}

}  // namespace
}  // namespace qt
