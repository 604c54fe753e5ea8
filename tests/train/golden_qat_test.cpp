// tests/train/golden_qat_test.cpp -- a whole step of quantization-aware training is the one that
// PyTorch computes in double from the formulas alone.
#include "tests/support/golden_qat.h"

#include <gtest/gtest.h>

#include "core/ops/ops.h"
#include "train/optimizer.h"

namespace qt {
namespace {

namespace golden = golden_qat;

struct Way {
  std::string library;
  ForwardMode mode;
};

class GoldenQat : public testing::TestWithParam<std::tuple<std::string, Way>> {};

TEST_P(GoldenQat, OneStepEqualsPyTorchs) {
  const std::string name = std::get<0>(GetParam());
  const Way way = std::get<1>(GetParam());
  const UseLibrary use(library_by_name(way.library));
  const Golden file("qat.safetensors");
  const auto model = golden::model(file, name);
  const auto parameters = parameters_of(*model);
  const auto optimizer =
      make_optimizer({.momentum = 0.9, .weight_decay = golden::weight_decay}, parameters);
  const auto values = [&](bool gradients) {
    std::map<std::string, Tensor> all;
    for (const auto& [of, parameter] : parameters)
      all[of] = (gradients ? parameter->var.grad() : parameter->var.value()).clone();
    return all;
  };
  const Var logits =
      model->forward(golden::pixels(file, name), {.mode = way.mode, .training = true});
  const Var loss = softmax_cross_entropy(logits, file["labels"], golden::label_smoothing);
  const auto expect_near = [&](const Tensor& got, const std::string& what) {
    EXPECT_EQ(difference_of(doubles(got), doubles(file[name + "." + what]), golden::tolerance), "")
        << what;
  };
  expect_near(logits.value(), "logits");
  expect_near(loss.value(), "loss");
  Tape::current().backward(loss, Tensor::full({1}, 1));
  golden::expect_equal(file, name + ".gradient", values(true));
  optimizer->step(golden::learning_rate);
  golden::expect_equal(file, name + ".new", values(false));
  Visitor visitor;
  visitor.buffer = [&](const std::string& of, Tensor& t) { expect_near(t, "buffer." + of); };
  model->visit(visitor);
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenQat,
                         testing::Combine(testing::Values("w4a4", "w3a8_both"),
                                          testing::Values(Way{"onednn", ForwardMode::int8},
                                                          Way{"onednn", ForwardMode::exact_float},
                                                          Way{"reference", ForwardMode::int8})),
                         [](const auto& info) {
                           const Way way = std::get<1>(info.param);
                           return std::get<0>(info.param) + "_" + way.library + "_" +
                                  name_of(way.mode);
                         });

}  // namespace
}  // namespace qt
