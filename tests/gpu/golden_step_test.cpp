// tests/gpu/golden_step_test.cpp -- the resnet20 model on a GPU, in float and with codes: PyTorch's
// training steps.
#include <gtest/gtest.h>

#include "core/ops/ops.h"
#include "layers/model.h"
#include "tests/gpu/libraries.h"
#include "tests/gpu/on_gpu.h"
#include "tests/support/golden_qat.h"
#include "tests/support/golden_resnet20.h"
#include "train/network.h"
#include "train/optimizer.h"

namespace qt {
namespace {

namespace golden = golden_resnet20;

using NamedTensorMap = std::map<std::string, Tensor>;

class GoldenStepOnGpu : public OnGpu {
 protected:
  // Sums in f32 may turn the sign of an activation next to zero, whose gradients then come or go:
  // on a real GPU as for the CPU's libraries.
  static double tolerance() { return gpu_under_test::is_emulated() ? 2e-5 : 5e-3; }

  static std::unique_ptr<Model> resnet20() {
    ModelSpec spec;
    spec.name = "resnet20";
    spec.mean = {golden::pixel_mean, golden::pixel_mean, golden::pixel_mean};
    spec.std = {golden::pixel_std, golden::pixel_std, golden::pixel_std};
    auto model = make_model(spec);
    NamedTensorMap first = golden::initial_values();
    for (const auto& [name, parameter] : parameters_of(*model))
      if (parameter->kind != Parameter::Kind::step) parameter->set(first.at(name));
    return model;
  }

  // Of the trained parameters, in the host's memory.
  static NamedTensorMap values(Model& model, bool gradients) {
    NamedTensorMap all;
    for (const auto& [name, parameter] : parameters_of(model))
      if (parameter->kind != Parameter::Kind::step)
        all[name] = on_host(gradients ? parameter->var.grad() : parameter->var.value());
    return all;
  }

  static void expect_near(const Tensor& got, const Tensor& wanted, const std::string& what) {
    EXPECT_EQ(difference_of(doubles(got), doubles(wanted), tolerance()), "") << what;
  }
};

TEST_F(GoldenStepOnGpu, EqualsPyTorchs) {
  const Golden file("resnet20.safetensors");
  const GpuStream gpu;  // outlives what is computed on it
  const auto model = resnet20();
  const UseLibrary library(libraries_under_test().front().library);
  const UseStream use(gpu.stream());
  place_here(*model);
  const auto optimizer = make_optimizer(
      {.momentum = golden::momentum, .weight_decay = golden::weight_decay}, parameters_of(*model));
  Tensor pixels;
  {
    const UseStream host(Stream{});
    pixels = golden::pixels();
  }
  const Var logits = model->forward(here(pixels), {.mode = ForwardMode::float32, .training = true});
  const Var loss = softmax_cross_entropy(logits, here(file["labels"]), 0);
  Tape::current().backward(loss, Tensor::full({1}, 1));
  const Tensor got_logits = on_host(logits.value()), got_loss = on_host(loss.value());
  const NamedTensorMap gradients = values(*model, true);
  optimizer->step(golden::learning_rate);
  const NamedTensorMap weights = values(*model, false);
  NamedTensorMap statistics;
  Visitor visitor;
  visitor.buffer = [&](const std::string& name, Tensor& t) { statistics[name] = on_host(t); };
  model->visit(visitor);

  const UseStream host(Stream{});
  const UseLibrary plain(library_by_name("reference"));
  expect_near(got_logits, file["step0.logits"], "logits");
  expect_near(got_loss, file["step0.loss"], "loss");
  golden::expect_equal(file, "step0.gradient", gradients, tolerance());
  golden::expect_equal(file, "step0.weight", weights, tolerance());
  EXPECT_GT(statistics.size(), 30u);
  for (const auto& [name, value] : statistics)
    expect_near(value, file["step0.buffer." + name], name);
}

// Backward in f32; the sums of codes are exact on every device.
TEST_F(GoldenStepOnGpu, WithCodesEqualsPyTorchs) {
  const Golden file("qat.safetensors");
  for (const std::string name : {"w4a4", "w3a8_both"}) {
    const GpuStream gpu;
    const auto model = golden_qat::model(file, name);
    const Tensor pixels = golden_qat::pixels(file, name);
    const UseLibrary library(libraries_under_test().front().library);
    NamedTensorMap results, gradients, after;
    {
      const UseStream use(gpu.stream());
      place_here(*model);
      const auto parameters = parameters_of(*model);
      const auto optimizer =
          make_optimizer({.momentum = 0.9, .weight_decay = golden_qat::weight_decay}, parameters);
      const Var logits =
          model->forward(here(pixels), {.mode = ForwardMode::int8, .training = true});
      const Var loss =
          softmax_cross_entropy(logits, here(file["labels"]), golden_qat::label_smoothing);
      Tape::current().backward(loss, Tensor::full({1}, 1));
      results = {{"logits", on_host(logits.value())}, {"loss", on_host(loss.value())}};
      for (const auto& [of, p] : parameters) gradients[of] = on_host(p->var.grad());
      optimizer->step(golden_qat::learning_rate);
      for (const auto& [of, p] : parameters) after[of] = on_host(p->var.value());
      Visitor visitor;
      visitor.buffer = [&](const std::string& of, Tensor& t) {
        results["buffer." + of] = on_host(t);
      };
      model->visit(visitor);
    }
    const UseLibrary plain(library_by_name("reference"));
    for (const auto& [what, t] : results)
      EXPECT_EQ(difference_of(doubles(t), doubles(file[name + "." + what]), golden_qat::tolerance),
                "")
          << name << " " << what;
    golden_qat::expect_equal(file, name + ".gradient", gradients);
    golden_qat::expect_equal(file, name + ".new", after);
  }
}

}  // namespace
}  // namespace qt
