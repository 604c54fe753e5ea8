// tests/core/ops/golden_test.cpp -- the operations against what PyTorch computes in double.
#include "tests/support/golden.h"

#include <gtest/gtest.h>

#include "core/ops/ops.h"
#include "tests/support/tensors.h"

namespace qt {
namespace {

constexpr double tolerance = 3e-6;  // of the largest magnitude in a tensor

const Golden& golden() {
  static const Golden file("ops.safetensors");
  return file;
}

void expect_equal(const Tensor& got, const std::string& name) {
  ASSERT_TRUE(got.defined()) << name;
  EXPECT_EQ(got.shape().text(), golden()[name].shape().text()) << name;
  EXPECT_EQ(difference_of(doubles(got), doubles(golden()[name]), tolerance), "") << name;
}

Var wanting(const std::string& name) { return Var(golden()[name], true); }

TEST(GoldenOps, Conv2dEqualsPyTorch) {
  int cases = 0;
  for (; golden().has("conv" + std::to_string(cases) + ".x"); ++cases) {
    const std::string name = "conv" + std::to_string(cases) + ".";
    const int64_t* o = golden()[name + "options"].data<int64_t>();
    const Var x = wanting(name + "x"), w = wanting(name + "w");
    const Var y = conv2d(x, w, {.stride = o[0], .padding = o[1], .dilation = o[2], .groups = o[3]});
    expect_equal(y.value(), name + "y");
    Tape::current().backward(y, golden()[name + "dy"]);
    expect_equal(x.grad(), name + "dx");
    expect_equal(w.grad(), name + "dw");
  }
  EXPECT_EQ(cases, 6);
}

void check_batch_norm(bool training) {
  const std::string name = training ? "batch_norm_training." : "batch_norm_evaluation.";
  const Var x = wanting(name + "x"), gamma = wanting(name + "gamma"), beta = wanting(name + "beta");
  Tensor mean = golden()[name + "running_mean"], var = golden()[name + "running_var"];
  const Var y = batch_norm(x, gamma, beta, mean, var, {.training = training});
  expect_equal(y.value(), name + "y");
  expect_equal(mean, name + "new_running_mean");
  expect_equal(var, name + "new_running_var");
  Tape::current().backward(y, golden()[name + "dy"]);
  expect_equal(x.grad(), name + "dx");
  expect_equal(gamma.grad(), name + "dgamma");
  expect_equal(beta.grad(), name + "dbeta");
}

TEST(GoldenOps, BatchNormInTrainingEqualsPyTorch) { check_batch_norm(true); }
TEST(GoldenOps, BatchNormInEvaluationEqualsPyTorch) { check_batch_norm(false); }

TEST(GoldenOps, CrossEntropyEqualsPyTorch) {
  for (const std::string name : {"cross_entropy0.", "cross_entropy1."}) {
    const Var x = wanting(name + "x");
    const float smoothing = golden()[name + "smoothing"].data<float>()[0];
    const Var loss = softmax_cross_entropy(x, golden()[name + "labels"], smoothing);
    expect_equal(loss.value(), name + "loss");
    Tape::current().backward(loss, Tensor::full({1}, 1));
    expect_equal(x.grad(), name + "dx");
  }
}

void check_pool(const std::string& name, Var (*pool)(const Var&)) {
  const Var x = wanting(name + ".x"), y = pool(x);
  expect_equal(y.value(), name + ".y");
  Tape::current().backward(y, golden()[name + ".dy"]);
  expect_equal(x.grad(), name + ".dx");
}

TEST(GoldenOps, PoolsEqualPyTorch) {
  check_pool("max_pool", [](const Var& x) { return max_pool2d(x, {3, 2, 1}); });
  check_pool("average_pool", [](const Var& x) { return average_pool2d(x, {3, 2, 1}); });
  check_pool("global_average_pool", [](const Var& x) { return global_average_pool(x); });
}

}  // namespace
}  // namespace qt
