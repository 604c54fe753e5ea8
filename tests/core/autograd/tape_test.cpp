// tests/core/autograd/tape_test.cpp -- what the tape promises to operations, layers and gradient
// exchange.
#include "core/autograd/tape.h"

#include <gtest/gtest.h>

#include "core/device/memory.h"
#include "core/library/convert.h"

namespace qt {
namespace {

float value(const Tensor& t) { return t.data<float>()[0]; }
Tensor one_number(float v) { return Tensor::full({1}, v); }

// y = factor * x, noting in `order` that its backward ran.
Var scaled(const Var& x, float factor, std::vector<float>* order = nullptr) {
  return record(one_number(factor * value(x.value())), {x}, [x, factor, order](const Tensor& dy) {
    if (order) order->push_back(factor);
    x.add_grad(one_number(factor * value(dy)));
  });
}

Var sum(const Var& a, const Var& b) {
  return record(add(a.value(), b.value()), {a, b}, [a, b](const Tensor& dy) {
    a.add_grad(dy);
    b.add_grad(dy);
  });
}

void backward(const Var& loss) { Tape::current().backward(loss, one_number(1)); }

TEST(Tape, AddsTheGradientsOfASharedInput) {
  const Var x(one_number(3), true);
  backward(sum(scaled(x, 2), scaled(x, 5)));
  EXPECT_EQ(value(x.grad()), 7);
  EXPECT_EQ(Tape::current().size(), 0u);
}

TEST(Tape, TakesTheSameInputTwice) {
  const Var x(one_number(3), true);
  backward(sum(x, x));
  EXPECT_EQ(value(x.grad()), 2);
}

// Shorter types only where the slot allows them; sums of them are rounded once.
TEST(Tape, GivesGradientsInTheTypeOfTheirSlot) {
  const auto half = [](float v) { return to_bf16(one_number(v)); };
  const Var plain(one_number(1), true), rounded(one_number(1), true);
  rounded.set_gradient_type(DType::bf16);
  plain.add_grad(half(3));
  EXPECT_EQ(plain.grad().dtype(), DType::f32);
  EXPECT_EQ(value(plain.grad()), 3);
  rounded.add_grad(half(1));
  EXPECT_EQ(rounded.grad().dtype(), DType::bf16);
  rounded.add_grad(half(0.00390625f * 1.5f));  // bf16 has 1 and 1 + 2^-7
  EXPECT_EQ(rounded.grad().dtype(), DType::bf16);
  EXPECT_EQ(value(to_float(rounded.grad())), 1.0078125f);
  rounded.add_grad(one_number(0.001f));
  EXPECT_EQ(rounded.grad().dtype(), DType::f32) << "a float among them: nothing more is rounded";
  EXPECT_EQ(value(rounded.grad()), 1.0078125f + 0.001f);
}

TEST(Tape, AccumulatesOverBackwardPassesUntilCleared) {
  const Var x(one_number(3), true);
  backward(scaled(x, 2));
  backward(scaled(x, 5));
  EXPECT_EQ(value(x.grad()), 7);
  x.clear_grad();
  EXPECT_FALSE(x.grad().defined());
  backward(scaled(x, 4));
  EXPECT_EQ(value(x.grad()), 4);
}

TEST(Tape, RunsBackwardInReverseOrder) {
  const Var x(one_number(1), true);
  std::vector<float> order;
  backward(scaled(scaled(scaled(x, 2, &order), 3, &order), 4, &order));
  EXPECT_EQ(order, (std::vector<float>{4, 3, 2}));
  EXPECT_EQ(value(x.grad()), 24);
}

TEST(Tape, LeavesTheAccumulatedGradientOfOthersAlone) {
  const Var x(one_number(1), true), y(one_number(1), true);
  backward(sum(x, y));
  const Tensor before = x.grad();
  backward(scaled(x, 9));
  EXPECT_EQ(value(before), 1) << "a gradient that someone holds was written to";
  EXPECT_EQ(value(y.grad()), 1);
  EXPECT_EQ(value(x.grad()), 10);
}

TEST(Tape, RecordsNothingForInputsWithoutGradient) {
  const Var x(one_number(3));
  const Var y = scaled(x, 2);
  EXPECT_FALSE(y.wants_grad());
  EXPECT_EQ(Tape::current().size(), 0u);
}

TEST(Tape, IgnoresUndefinedInputs) {
  const Var x(one_number(3), true);
  backward(record(one_number(1), {Var(), x}, [x](const Tensor& dy) { x.add_grad(dy); }));
  EXPECT_EQ(value(x.grad()), 1);
}

TEST(Tape, CallsAHookOnceWithTheFinalGradient) {
  const Var x(one_number(3), true);
  std::vector<float> seen;
  x.when_ready([&](const Var& v) { seen.push_back(value(v.grad())); });
  backward(sum(scaled(x, 2), scaled(scaled(x, 5), 3)));
  EXPECT_EQ(seen, std::vector<float>{17});
  x.clear_grad();
  backward(scaled(x, 4));
  EXPECT_EQ(seen, (std::vector<float>{17, 4}));
}

TEST(Tape, CallsHooksAsSoonAsTheirGradientIsFinal) {
  const Var early(one_number(1), true), late(one_number(1), true);
  std::vector<std::string> order;
  early.when_ready([&](const Var&) { order.push_back("first used"); });
  late.when_ready([&](const Var&) { order.push_back("last used"); });
  std::vector<float> steps;
  const Var hidden = scaled(early, 2, &steps);
  backward(sum(hidden, scaled(late, 3, &steps)));
  EXPECT_EQ(order, (std::vector<std::string>{"last used", "first used"}));
}

TEST(Tape, CallsHooksOfBranchesThatReachNoLoss) {
  const Var x(one_number(1), true), unused(one_number(1), true);
  int calls = 0;
  unused.when_ready([&](const Var& v) {
    ++calls;
    EXPECT_FALSE(v.grad().defined());
  });
  const Var dangling = scaled(unused, 2);
  backward(scaled(x, 3));
  EXPECT_EQ(calls, 1) << "whoever waits for all gradients would wait forever";
  EXPECT_EQ(value(x.grad()), 3);
}

TEST(Tape, PauseRecordsNothing) {
  const Var x(one_number(3), true);
  {
    const Tape::Pause pause;
    EXPECT_FALSE(scaled(x, 2).wants_grad());
    { const Tape::Pause inner; }
    EXPECT_FALSE(scaled(x, 2).wants_grad()) << "the inner pause ended the outer";
  }
  EXPECT_EQ(Tape::current().size(), 0u);
  EXPECT_TRUE(scaled(x, 2).wants_grad());
  Tape::current().forget();
}

TEST(Tape, ForgetLeavesNoTrace) {
  const Var x(one_number(3), true);
  int calls = 0;
  x.when_ready([&](const Var&) { ++calls; });
  const Var lost = scaled(x, 2);
  Tape::current().forget();
  EXPECT_EQ(Tape::current().size(), 0u);
  EXPECT_EQ(calls, 0);
  backward(scaled(x, 5));
  EXPECT_EQ(value(x.grad()), 5);
  EXPECT_EQ(calls, 1) << "a forgotten use still counts";
}

TEST(Tape, FreesWhatStepsSavedWhileItGoes) {
  const size_t before = memory_stats().in_use;
  const Shape large{1 << 16};
  std::vector<size_t> in_use;
  {
    const Var x(Tensor::zeros(large, DType::f32), true);
    Var y = x;
    for (int i = 0; i < 8; ++i)
      y = record(Tensor::zeros(large, DType::f32), {y}, [y, &in_use](const Tensor& dy) {
        in_use.push_back(memory_stats().in_use);
        y.add_grad(dy);
      });
    const Tensor seed = Tensor::zeros(large, DType::f32);
    Tape::current().backward(y, seed);
    y = Var();
  }
  ASSERT_EQ(in_use.size(), 8u);
  for (size_t i = 1; i + 1 < in_use.size(); ++i)
    EXPECT_LT(in_use[i], in_use[i - 1]) << "step " << i;
  EXPECT_EQ(memory_stats().in_use, before);
}

TEST(Var, CopiesShareTheGradientNotTheValue) {
  Var x(one_number(3), true);
  const Var copy = x;
  x.set_value(one_number(4));
  EXPECT_EQ(value(copy.value()), 3);
  copy.set_grad(one_number(9));
  EXPECT_EQ(value(x.grad()), 9);
}

TEST(Var, WithoutWantingKeepsNoGradient) {
  const Var x(one_number(3));
  x.add_grad(one_number(1));
  EXPECT_FALSE(x.grad().defined());
}

}  // namespace
}  // namespace qt
