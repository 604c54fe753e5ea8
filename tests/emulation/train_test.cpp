// tests/emulation/train_test.cpp -- whole training runs on the emulated GPU: recorded and replayed
// steps, checkpoints, evaluation and skipped steps have the CPU's bits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "deploy/engine.h"
#include "tests/deploy/programs.h"
#include "tests/emulation/training_run.h"
#include "train/gpu_training.h"
#include "train/network.h"

namespace qt {
namespace {

using ::testing::HasSubstr;

class EmulatedTraining : public TrainingRuns {
 protected:
  void expect_same_in_all_orders(const std::string& text, unsigned seeds = 3) {
    const Left wanted = run(text, nullptr, "cpu");
    EXPECT_FALSE(wanted.replayed);
    for (unsigned seed = 0; seed < seeds; ++seed) {
      SCOPED_TRACE("work in the order of seed " + std::to_string(seed));
      start(seed);
      emulator::set_order(all_orders[seed % 3], seed);
      const Left got = run(text, emulated_device(), "gpu");
      EXPECT_TRUE(got.replayed);
      expect_same(got, wanted);
      if (HasFailure()) return;
    }
  }
};

TEST_F(EmulatedTraining, OfResNet20WithCodesHasTheBitsOfTheCpu) {
  expect_same_in_all_orders(config("float: {epochs: 0}, qat: {epochs: 1, lr: 0.01}"));
}

// Three steps in float, kernel by kernel; then four of QAT with batch statistics, of which the last
// is replayed, and five with frozen ones, of which two are.
TEST_F(EmulatedTraining, InFloatAndThenWithCodesHasTheBitsOfTheCpu) {
  expect_same_in_all_orders(
      config("float: {epochs: 1, lr: 0.05}, qat: {epochs: 3, lr: 0.01}, accumulate: 2, "
             "label_smoothing: 0.1, optimizer: {nesterov: true}",
             ", bn: {freeze_at: 0.4}"),
      1);
}

TEST_F(EmulatedTraining, WithStepsThatFollowTheLargestValueHasTheBitsOfTheCpu) {
  expect_same_in_all_orders(
      config("float: {epochs: 0}, qat: {epochs: 1, lr: 0.01}",
             ", weights: {kind: minmax, granularity: tensor}, activations: {kind: minmax}, "
             "residual: both"),
      1);
}

TEST_F(EmulatedTraining, GoesOnFromACheckpointOfTheOtherDevice) {
  const std::string text =
      config("float: {epochs: 0}, qat: {epochs: 2, lr: 0.01}", "", "checkpoint: {keep_last: 5}\n");
  const Left wanted = run(text, nullptr, "cpu");
  const std::string cpu_half = (folder_ / "cpu/checkpoints/step-00000006").string();
  const Left on_gpu = run(text, emulated_device(), "gpu");
  const std::string gpu_half = (folder_ / "gpu/checkpoints/step-00000006").string();
  EXPECT_TRUE(files::read_all(gpu_half + "/model.safetensors") ==
              files::read_all(cpu_half + "/model.safetensors"));
  for (const bool from_gpu : {false, true}) {
    const Left rest = from_gpu ? run(text, nullptr, "rest", gpu_half)
                               : run(text, emulated_device(), "rest", cpu_half);
    EXPECT_TRUE(rest.model == wanted.model) << "from the GPU: " << from_gpu;
    EXPECT_TRUE(rest.optimizer == wanted.optimizer) << "from the GPU: " << from_gpu;
    EXPECT_TRUE(rest.program == wanted.program) << "from the GPU: " << from_gpu;
    EXPECT_EQ(rest.replayed, !from_gpu);
  }
}

TEST_F(EmulatedTraining, StepsThatAreNotFiniteAreLeftOutAsOnTheCpu) {
  const std::string text = config(bad_half("skip"));
  const Left wanted = run(text, nullptr, "cpu");
  EXPECT_EQ(wanted.skipped, 4) << "of which the last is replayed";
  start(1);
  const Left got = run(text, emulated_device(), "gpu");
  EXPECT_TRUE(got.replayed);
  expect_same(got, wanted);
}

TEST_F(EmulatedTraining, ARunThatDivergesEndsWithTheCpusMessage) {
  const std::string text = config(bad_half("stop"));
  const auto message = [&](const std::shared_ptr<const Device>& device) -> std::string {
    try {
      run(text, device, "run");
    } catch (const DivergenceError& e) {
      return e.what();
    }
    return "it did not diverge";
  };
  const std::string wanted = message(nullptr);
  EXPECT_THAT(wanted, HasSubstr("step 1 (qat, epoch 1): "));
  EXPECT_EQ(message(emulated_device()), wanted);
}

// ---- steps by hand ----

struct Stepped {
  NamedTensors state;
  std::vector<StepResult> results;
  bool replayed = false;
  size_t reserved = 0;  // bytes that were the GPU's and its graphs' in the end
  std::string cannot_record, said;
};

class EmulatedSteps : public EmulatedGpu {
 protected:
  // `steps` steps of a small perceptron; before_step is called with 0, 1, ...; read_each: the host
  // waits for each, so that streams are close to each other.
  static Stepped train(
      int steps, const std::function<void(int)>& before_step = [](int) {}, bool read_each = false,
      bool record = true) {
    Experiment experiment;
    load_config_text(experiment,
                     "model: {name: mlp, hidden: [12]}\n"
                     "data: {image_size: 16, train_images: 40, workers: 0, augmentation: {crop: "
                     "padded, crop_padding: 2}}\ntrain: {batch: 4}\n",
                     "test.yaml");
    const auto device = emulated_device();
    const auto set = make_dataset(dataset_spec(experiment), Split::train);
    const auto model = build_model(experiment, *set);
    LoaderSpec spec = train_loader_spec(experiment);
    Loader loader(set, spec);
    const auto section = device->enter();
    place_here(*model);
    calibrate(*model, loader, 1, ForwardMode::int8);
    set_missing_floors(*model);
    const auto optimizer = make_optimizer({}, parameters_of(*model));
    spec.windows_later = true;
    Loader training(set, spec);
    Stepped stepped;
    GpuTraining gpu(*model, *optimizer, training,
                    {.backward = Precision::f32,
                     .say = [&](const std::string& text) { stepped.said += text + "\n"; },
                     .record = record});
    gpu.start_epoch(0, 0);
    for (int i = 0; i < steps; ++i) {
      before_step(i);
      gpu.step(0.05, [] { return std::string(); });
      if (!read_each && i + 1 < steps) continue;
      for (StepResult& result : gpu.read()) stepped.results.push_back(std::move(result));
    }
    stepped.state = saved_state(*model);
    stepped.replayed = gpu.replays();
    stepped.cannot_record = gpu.cannot_record();
    stepped.reserved = gpu_reserved_bytes();
    return stepped;
  }

  // "" where both trained the same.
  static std::string difference(const Stepped& got, const Stepped& wanted) {
    for (size_t i = 0; i < wanted.results.size(); ++i)
      if (got.results.at(i).parts.at(0).loss != wanted.results[i].parts[0].loss)
        return "loss of step " + std::to_string(i + 1);
    for (size_t i = 0; i < wanted.state.size(); ++i) {
      const std::string difference =
          difference_in_bits(got.state.at(i).second, wanted.state[i].second);
      if (!difference.empty()) return wanted.state[i].first + ": " + difference;
    }
    return "";
  }
};

TEST_F(EmulatedSteps, GiveTheSameInEveryOrderOfWork) {
  const Stepped wanted = train(8);
  EXPECT_TRUE(wanted.replayed);
  ASSERT_EQ(wanted.results.size(), 8u);
  for (unsigned seed = 1; seed < 7; ++seed) {
    start(seed);
    emulator::set_order(all_orders[seed % 3], seed);
    EXPECT_EQ(difference(train(8), wanted), "") << "seed " << seed;
  }
}

// Whether some order of work shows what differs(seed) planted.
template <class Differs>
bool is_seen(Differs differs) {
  for (unsigned seed = 0; seed < 6; ++seed) {
    try {
      if (differs(seed)) return true;
    } catch (const emulator::Violation&) {
      return true;
    }
  }
  return false;
}

TEST_F(EmulatedSteps, AMissingEventBetweenCopyAndStepIsSeen) {
  const Stepped wanted = train(6);
  // Before step `at` a stream is told to forget the nth wait that follows.
  const auto with_forgotten = [&](int at, int nth, bool read_each) {
    return [&wanted, at, nth, read_each](unsigned seed) {
      start(seed);
      const auto plant = [&](int step) {
        if (step == at) emulator::forget_wait(nth);
      };
      return !difference(train(6, plant, read_each), wanted).empty();
    };
  };
  EXPECT_FALSE(is_seen(with_forgotten(-1, 0, true))) << "nothing was forgotten";
  EXPECT_TRUE(is_seen(with_forgotten(4, 1, true))) << "a step that does not wait for its pictures";
  EXPECT_TRUE(is_seen(with_forgotten(0, 3, false)))
      << "pictures that do not wait for the step that reads those before them";
}

TEST_F(EmulatedSteps, WhatCannotBeRecordedIsLaunchedKernelByKernel) {
  const Stepped wanted = train(7);
  EXPECT_TRUE(wanted.replayed);
  EXPECT_THAT(wanted.said, HasSubstr("recorded as a CUDA graph"));
  for (const int nth : {3, 40}) {  // the first is the crop; the others are recorded
    start(1);
    const Stepped refused = train(7, [&](int step) {
      if (step == 3) emulator::refuse_launch(nth);
    });
    EXPECT_FALSE(refused.replayed);
    EXPECT_THAT(refused.cannot_record, HasSubstr("LaunchOutOfResources"));
    EXPECT_THAT(refused.said, HasSubstr("kernel by kernel: " + refused.cannot_record));
    EXPECT_EQ(difference(refused, wanted), "");
  }
  start(2);
  const Stepped full = train(7, [](int step) {
    if (step == 3) emulator::fail_allocation(3, 2);  // while it is recorded
  });
  EXPECT_THAT(full.cannot_record, HasSubstr("out of GPU memory"));
  EXPECT_EQ(difference(full, wanted), "");
}

// Nothing has run where a first launch found no memory: the step is launched kernel by kernel.
TEST_F(EmulatedSteps, AGraphThatFindsNoMemoryIsGivenUp) {
  const Stepped wanted = train(7);
  start(1);
  const Stepped full = train(7, [](int step) {
    if (step == 3) emulator::fail_graph(1, 2);
  });
  EXPECT_FALSE(full.replayed);
  EXPECT_THAT(full.cannot_record, HasSubstr("out of GPU memory"));
  EXPECT_THAT(full.said, HasSubstr("kernel by kernel: " + full.cannot_record));
  EXPECT_EQ(difference(full, wanted), "");
}

// What an evaluation took in between comes back where it is kept only; where it is used, the run
// goes on without the graph.
TEST_F(EmulatedSteps, AGraphThatFindsNoMemoryLaterIsLaunchedAgainOrGivenUp) {
  const Stepped wanted = train(7);
  for (const int times : {1, 2}) {
    start(1);
    const Stepped full = train(7, [&](int step) {
      if (step == 5) emulator::fail_graph(1, times);
    });
    EXPECT_EQ(full.replayed, times == 1);
    EXPECT_EQ(full.cannot_record.empty(), times == 1);
    EXPECT_EQ(difference(full, wanted), "");
  }
}

// Steps that were launched kernel by kernel leave their memory to the pool, where a graph has no
// use for it.
TEST_F(EmulatedSteps, ARecordedStepDoesNotHoldItsMemoryTwice) {
  const size_t eager = train(
                           7, [](int) {}, false, false)
                           .reserved;
  start(0);
  const Stepped recorded = train(7);
  EXPECT_TRUE(recorded.replayed);
  EXPECT_LT(recorded.reserved, eager + eager / 4);
}

// ---- the integer program ----

class EmulatedEngine : public EmulatedGpu {};

TEST_F(EmulatedEngine, RunsACopyOfAProgramThatHasOtherNumbers) {
  const Program program = test::small_resnet(1, {});
  Program narrower = program, other_bias = program;
  narrower.instructions.at(1).hi = 3;
  for (Instruction& at : other_bias.instructions)
    if (auto* last = std::get_if<Classifier>(&at.operation))
      last->bias = Tensor::full({last->bias.dim(0)}, 0.5f);
  start(1);
  const auto gpu = make_gpu_engine(GpuStream(), make_emulated_library());
  const Tensor images = test::random_images(program, 2, 5);
  for (const Program& one : {program, narrower, other_bias, program})
    EXPECT_EQ(difference_in_bits(gpu->run(one, images).logits,
                                 make_engine("reference")->run(one, images).logits),
              "");
}

TEST_F(EmulatedEngine, AgreesWithThePlainLoopsInEveryRegister) {
  const auto reference = make_engine("reference");
  for (unsigned seed = 0; seed < 3; ++seed) {
    start(seed);
    emulator::set_order(all_orders[seed], seed);
    const auto gpu = make_gpu_engine(GpuStream(), make_emulated_library());
    for (const bool full_range : {false, true}) {
      const Program program = test::small_resnet(
          seed + 1, {.weight_bits = full_range ? 4 : 8, .full_range = full_range});
      for (const int64_t n : {1, 3}) {
        const Tensor images = test::random_images(program, n, seed);
        const EngineResult wanted = reference->run(program, images, {.keep_codes = true}),
                           got = gpu->run(program, images, {.keep_codes = true});
        EXPECT_EQ(difference_in_bits(got.logits, wanted.logits), "");
        ASSERT_EQ(got.codes.size(), wanted.codes.size());
        for (size_t i = 0; i < got.codes.size(); ++i) {
          EXPECT_EQ(got.codes[i].first, wanted.codes[i].first);
          EXPECT_EQ(difference_in_bits(got.codes[i].second, wanted.codes[i].second), "")
              << got.codes[i].first;
        }
      }
    }
  }
}

}  // namespace
}  // namespace qt
