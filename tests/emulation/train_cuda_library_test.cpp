// tests/emulation/train_cuda_library_test.cpp -- training through the CUDA library itself on the
// emulated GPU: matrix products by the emulated cuBLASLt, and plain loops in cuDNN's place. No GPU
// and nothing of NVIDIA's runs.
#include <gmock/gmock.h>

#include <map>
#include <set>

#include "core/library/cuda/engine_names.h"
#include "deploy/engine.h"
#include "deploy/model_file.h"
#include "tests/emulation/plain_convolutions.h"
#include "tests/emulation/training_run.h"
#include "train/network.h"

namespace qt {
namespace {

using ::testing::EndsWith;
using ::testing::StartsWith;

// No cuDNN: every convolution is matrix products.
std::shared_ptr<const Device> device_of_products() {
  return std::make_shared<const Device>("emulated",
                                        make_cuda_library(open_matrix_products(), nullptr));
}
std::shared_ptr<const Device> device_with(const std::shared_ptr<PlainConvolutions>& convolutions) {
  return std::make_shared<const Device>("emulated",
                                        make_cuda_library(open_matrix_products(), convolutions,
                                                          {.measure = claimed_by(convolutions)}));
}
std::shared_ptr<PlainConvolutions> two_engines(double first, double second) {
  return std::make_shared<PlainConvolutions>(std::vector<PlainEngine>{
      {.name = "first", .seconds = first}, {.name = "second", .seconds = second}});
}

double number_in(const std::string& field) { return std::stod(field.substr(field.find(':') + 1)); }

class EmulatedTrainingByTheCudaLibrary : public TrainingRuns {
 protected:
  // Six steps, one line each; the fourth is recorded, it and the last two are replayed.
  static std::string six_steps() {
    std::string text = config("float: {epochs: 0}, qat: {epochs: 1, lr: 0.01}");
    return text.replace(text.find("every: 2"), 8, "every: 1");
  }
};

// Codes are exact, so the first loss has the CPU's bits; gradients add up in another order.
TEST_F(EmulatedTrainingByTheCudaLibrary, AsProductsFollowsTheCpusLosses) {
  const Left wanted = run(six_steps(), nullptr, "cpu");
  for (unsigned seed = 0; seed < 2; ++seed) {
    start(seed);
    emulator::set_order(all_orders[seed], seed);
    const Left got = run(six_steps(), device_of_products(), "gpu");
    EXPECT_TRUE(got.replayed);
    ASSERT_EQ(got.losses.size(), 12u) << "loss and top-1 of six steps";
    ASSERT_EQ(wanted.losses.size(), 12u);
    EXPECT_EQ(got.losses[0], wanted.losses[0]);
    for (size_t i = 0; i < 6; ++i)
      EXPECT_NEAR(number_in(got.losses[i]), number_in(wanted.losses[i]), 1e-3) << "step " << i + 1;
    for (const auto& [what, engine] : got.engines) EXPECT_THAT(engine, StartsWith("cuBLASLt"));
    EXPECT_FALSE(got.engines.empty());
  }
}

TEST_F(EmulatedTrainingByTheCudaLibrary, ItsProgramHasTheCpusCodesInEveryRegister) {
  run(six_steps(), device_of_products(), "gpu");
  const Program program = load_program((folder_ / "gpu/export/model.qat").string());
  Tensor images = Tensor::empty({3, 16, 16, 3}, DType::u8);
  for (int64_t i = 0; i < images.elements(); ++i)
    images.data<uint8_t>()[i] = uint8_t(i * 131 % 251);
  const auto engine =
      make_gpu_engine(GpuStream(), make_cuda_library(open_matrix_products(), nullptr));
  const EngineResult got = engine->run(program, images, {.keep_codes = true}),
                     wanted = make_engine("reference")->run(program, images, {.keep_codes = true});
  EXPECT_EQ(difference_in_bits(got.logits, wanted.logits), "");
  ASSERT_EQ(got.codes.size(), wanted.codes.size());
  for (size_t i = 0; i < wanted.codes.size(); ++i)
    EXPECT_EQ(difference_in_bits(got.codes[i].second, wanted.codes[i].second), "")
        << wanted.codes[i].first;
}

// Through the choice of engines, with channels padded to 16: whoever computes plain loops' sums has
// the CPU's bits in the whole run.
TEST_F(EmulatedTrainingByTheCudaLibrary, ByEnginesHasTheBitsOfTheCpu) {
  const Left wanted = run(six_steps(), nullptr, "cpu");
  start(1);
  const Left got = run(six_steps(), device_with(two_engines(2, 1)), "gpu");
  EXPECT_TRUE(got.replayed);
  expect_same(got, wanted);
}

TEST_F(EmulatedTrainingByTheCudaLibrary, ConvolvesInThePrecisionsOfTheConfig) {
  std::string text = config("float: {epochs: 1, lr: 0.01}, qat: {epochs: 1, lr: 0.01}");
  const std::string f32 = "float_forward: f32, backward: f32";
  text.replace(text.find(f32), f32.size(), "backward: tf32");  // float_forward: auto
  const auto engines = two_engines(2, 1);
  const Left left = run(text, device_with(engines), "gpu");
  EXPECT_TRUE(left.replayed);
  std::map<std::string, std::set<std::string>> seen;
  for (const auto& [what, engine] : left.engines)
    if (!what.starts_with("convolution of codes"))
      seen[what.starts_with("gradient") ? "backward" : "forward"].insert(
          what.substr(what.rfind(' ') + 1));
  EXPECT_EQ(seen["backward"], std::set<std::string>{"tf32"});
  // Training in bf16; what looks at the network in between does so in f32.
  EXPECT_EQ(seen["forward"], (std::set<std::string>{"bf16", "f32"}));
}

// Gradients of bf16 between the layers as well: the first loss has the CPU's bits, the others leave
// it slowly (two pictures a step, losses around 3), and a replayed run gives the same bits again in
// another order.
TEST_F(EmulatedTrainingByTheCudaLibrary, InBf16FollowsTheCpusLosses) {
  const Left wanted = run(six_steps(), nullptr, "cpu");
  std::string text = six_steps();
  text.replace(text.find("backward: f32"), 13, "backward: bf16");
  std::optional<Left> first;
  for (unsigned seed = 0; seed < 2; ++seed) {
    start(seed);
    emulator::set_order(all_orders[seed], seed);
    const Left got = run(text, device_with(two_engines(2, 1)), "gpu");
    EXPECT_TRUE(got.replayed);
    ASSERT_EQ(got.losses.size(), wanted.losses.size());
    EXPECT_EQ(got.losses[0], wanted.losses[0]);
    for (size_t i = 0; i < 6; ++i)
      EXPECT_NEAR(number_in(got.losses[i]), number_in(wanted.losses[i]), 0.04 * double(i))
          << "step " << i + 1;
    EXPECT_FALSE(got.model == wanted.model) << "nothing was rounded";
    // 21 convolutions and a classifier. A kernel costs about 2 us however small it is.
    EXPECT_LE(emulator::last_recorded().kernels, 314u);
    EXPECT_LE(emulator::last_recorded().nodes, 422u);
    if (first) expect_same(got, *first);
    first = got;
  }
}

// The 16 bits are those of the CPU: with gradients of f32 nothing else is rounded.
TEST_F(EmulatedTrainingByTheCudaLibrary, SavesTheCpusSixteenBits) {
  std::string text = six_steps();
  text.replace(text.find("backward: f32"), 13, "backward: f32, saved: f16");
  const Left wanted = run(text, nullptr, "cpu"), of_f32 = run(six_steps(), nullptr, "cpu_f32");
  const Left got = run(text, device_with(two_engines(2, 1)), "gpu");
  EXPECT_TRUE(got.replayed);
  EXPECT_EQ(got.losses[0], wanted.losses[0]);
  for (size_t i = 0; i < 6; ++i)
    EXPECT_NEAR(number_in(got.losses[i]), number_in(wanted.losses[i]), 1e-3) << "step " << i + 1;
  EXPECT_GT(std::fabs(number_in(of_f32.losses[5]) - number_in(wanted.losses[5])), 2e-3)
      << "f32 sums would pass as well";
}

TEST_F(EmulatedTrainingByTheCudaLibrary, AResumedRunTakesTheEnginesOfTheCheckpoint) {
  const std::string text =
      config("float: {epochs: 0}, qat: {epochs: 2, lr: 0.01}", "", "checkpoint: {keep_last: 5}\n");
  const auto before = two_engines(2, 1);
  const Left whole = run(text, device_with(before), "whole");
  size_t codes = 0;
  for (const auto& [what, engine] : whole.engines) {
    const bool of_codes = what.starts_with("convolution of codes");
    codes += of_codes;
    EXPECT_THAT(engine, EndsWith(of_codes ? "loops second" : "loops first")) << what;
  }
  EXPECT_GT(codes, 5u);
  const std::string half = (folder_ / "whole/checkpoints/step-00000006").string();
  EXPECT_EQ(state_from_json(files::read_all(half + "/state.json"), half).engines, whole.engines);

  start(1);
  const auto now = two_engines(1, 9);  // a fresh choice would be the first
  const Left rest = run(text, device_with(now), "rest", half);
  EXPECT_EQ(rest.engines, whole.engines);
  EXPECT_TRUE(rest.model == whole.model);
  EXPECT_TRUE(rest.program == whole.program);
  for (size_t i = 0; i < now->ran.size(); ++i) {
    if (now->types[i] != ProductType::i8) continue;
    ASSERT_EQ(now->ran[i], "second");
  }
}

}  // namespace
}  // namespace qt
