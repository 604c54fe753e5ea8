// tests/distributed/buckets_test.cpp -- gradients over ranks: the right sums, whatever the buckets.
#include "distributed/buckets.h"

#include <gtest/gtest.h>

#include "core/ops/ops.h"
#include "tests/support/memory_transport.h"

namespace qt {
namespace {

Tensor numbers(int64_t count, float first) {
  Tensor t = Tensor::empty({count}, DType::f32);
  for (int64_t i = 0; i < count; ++i) t.data<float>()[i] = first + float(i) / 8;
  return t;
}

// loss = sum over parameters of number * parameter: the gradient of parameter k is (k + 1) *
// factor.
void backward(const std::vector<NamedVar>& parameters, float factor) {
  Var total;
  for (size_t k = 0; k < parameters.size(); ++k) {
    const Var p = parameters[k].var;
    Tensor y = Tensor::zeros({1}, DType::f32);
    const float slope = float(k + 1) * factor;
    const int64_t n = p.value().elements();
    std::vector<Var> inputs{p};
    if (total.defined()) inputs.push_back(total);
    total = record(y, inputs, [p, slope, n, before = total](const Tensor& dy) {
      p.add_grad(Tensor::full({n}, slope * dy.data<float>()[0]));
      if (before.defined()) before.add_grad(dy);
    });
  }
  Tape::current().backward(total, Tensor::full({1}, 1));
}

std::vector<NamedVar> parameters_of_sizes(const std::vector<int64_t>& sizes) {
  std::vector<NamedVar> list;
  for (int64_t size : sizes)
    list.push_back({"p" + std::to_string(list.size()), Var(numbers(size, 1), true)});
  return list;
}

void expect_gradients(const std::vector<NamedVar>& parameters, float factor) {
  for (size_t k = 0; k < parameters.size(); ++k)
    for (float g : parameters[k].var.grad().to_vector<float>())
      ASSERT_EQ(g, float(k + 1) * factor) << parameters[k].name;
}

TEST(GradientBuckets, SumOverRanksWhateverTheirSize) {
  for (int64_t bytes : {4, 64, 1 << 20}) {
    on_ranks(3, [&](Communicator& ranks) {
      const auto parameters = parameters_of_sizes({5, 1, 30, 7, 100});
      GradientBuckets buckets(parameters, ranks, {.bytes = bytes, .first_bytes = 8});
      EXPECT_EQ(buckets.buckets(), bytes == 4 ? 5u : bytes == 64 ? 3u : 2u);
      for (int step = 0; step < 3; ++step) {
        for (const NamedVar& p : parameters) p.var.clear_grad();
        buckets.arm();
        backward(parameters, float(ranks.rank() + 1));
        buckets.finish();
        expect_gradients(parameters, 6);
      }
      EXPECT_GE(buckets.seconds_on_the_way(), 0);
    });
  }
}

TEST(GradientBuckets, TakeTheSumOfSeveralMicroBatches) {
  on_ranks(2, [](Communicator& ranks) {
    const auto parameters = parameters_of_sizes({5, 9});
    GradientBuckets buckets(parameters, ranks, {.bytes = 16});
    backward(parameters, 1);
    backward(parameters, 2);
    buckets.arm();
    backward(parameters, 4);
    buckets.finish();
    expect_gradients(parameters, 14);
  });
}

TEST(GradientBuckets, AParameterWithoutGradientHoldsNobodyUp) {
  on_ranks(2, [](Communicator& ranks) {
    auto parameters = parameters_of_sizes({5, 9});
    auto with_unused = parameters;
    with_unused.push_back({"unused", Var(numbers(4, 0), true)});
    GradientBuckets buckets(with_unused, ranks, {.bytes = 4});
    buckets.arm();
    backward(parameters, 1);
    buckets.finish();
    expect_gradients(parameters, 2);
    EXPECT_FALSE(with_unused.back().var.grad().defined());
  });
}

TEST(GradientBuckets, GoOutBeforeBackwardEnds) {
  // The last parameter's gradient is final first; when the first one's turn comes, its sum is
  // there.
  on_ranks(2, [](Communicator& ranks) {
    const auto parameters = parameters_of_sizes({4, 4});
    GradientBuckets buckets(parameters, ranks, {.bytes = 4});
    buckets.arm();
    const Var last = parameters[1].var, first = parameters[0].var;
    const Var y0 = record(Tensor::zeros({1}, DType::f32), {first}, [first](const Tensor&) {
      first.add_grad(Tensor::full({4}, 1));
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    });
    const Var y1 = record(Tensor::zeros({1}, DType::f32), {last, y0}, [last, y0](const Tensor& dy) {
      last.add_grad(Tensor::full({4}, 1));
      y0.add_grad(dy);
    });
    Tape::current().backward(y1, Tensor::full({1}, 1));
    buckets.finish();
    EXPECT_LT(buckets.seconds_waited(), 0.15);
    EXPECT_EQ(last.grad().data<float>()[0], 2);
  });
}

TEST(GradientBuckets, TheirHooksEndWithThem) {
  on_ranks(2, [](Communicator& ranks) {
    const auto parameters = parameters_of_sizes({3});
    { const GradientBuckets buckets(parameters, ranks, {}); }
    backward(parameters, 1);
    expect_gradients(parameters, 1);
  });
}

}  // namespace
}  // namespace qt
