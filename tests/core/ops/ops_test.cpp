// tests/core/ops/ops_test.cpp -- every row of the op table, by one body.
#include <gtest/gtest.h>

#include "tests/core/ops/op_table.h"
#include "tests/support/threads.h"

namespace qt {
namespace {

class Ops : public ::testing::TestWithParam<OpCase> {};

TEST_P(Ops, GiveWhatPlainLoopsGive) {
  const OpCase& c = GetParam();
  const Inputs in = c.inputs(c.batch);
  Vars vars;
  for (const Tensor& t : in) vars.emplace_back(t);
  poison_free_memory();
  const Tensor y = c.op(vars).value();
  EXPECT_EQ(difference_of(doubles(y), c.wanted(in), c.tolerance), "");
}

TEST_P(Ops, HaveTheGradientOfTheirFunction) {
  const OpCase& c = GetParam();
  EXPECT_EQ(gradient_error(c.op, c.inputs(c.batch), c.gradient), "");
}

TEST_P(Ops, LeaveTheirInputsAlone) {
  const OpCase& c = GetParam();
  const Inputs in = c.inputs(c.batch);
  Inputs copies;
  for (const Tensor& t : in) copies.push_back(t.clone());
  const Tape::Pause pause;
  Vars vars;
  for (const Tensor& t : in) vars.emplace_back(t);
  const Var y = c.op(vars);
  for (size_t i = 0; i < in.size(); ++i) EXPECT_TRUE(same_bits(in[i], copies[i])) << "input " << i;
}

TEST_P(Ops, GiveTheSameBitsOnAnyNumberOfThreads) {
  const OpCase& c = GetParam();
  if (!c.launchers_only) return;  // the library promises it for a fixed number of threads
  const Inputs in = c.inputs(c.batch * 8);
  std::vector<Tensor> first;
  for (int threads : {1, 2, 3}) {
    const UseThreads use(threads);
    Vars vars;
    for (const Tensor& t : in) vars.emplace_back(t);
    std::vector<Tensor> results{c.op(vars).value()};
    for (const Tensor& g : gradients(c.op, in, weights_for(results[0].shape(), 9)))
      results.push_back(g);
    if (first.empty()) first = results;
    for (size_t i = 0; i < results.size(); ++i)
      EXPECT_TRUE(same_bits(results[i], first[i])) << threads << " threads, result " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Table, Ops, ::testing::ValuesIn(op_table()),
                         [](const auto& info) { return info.param.name; });

TEST(OpTable, CatchesAWrongGradient) {
  const Function wrong = [](const Vars& v) {
    return record(add(v[0].value(), v[0].value()), {v[0]},
                  [x = v[0]](const Tensor& dy) { x.add_grad(dy); });
  };
  EXPECT_NE(gradient_error(wrong, {floats({4, 3}, 1)}), "");
}

// The last element's gradient is zero, as fresh memory often is: only poison shows that nobody
// wrote it.
TEST(OpTable, CatchesAGradientThatIsNotWhollyWritten) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "under AddressSanitizer no free memory is kept that could be poisoned";
#endif
  const Function partly = [](const Vars& v) {
    Tensor y = v[0].value().clone();
    y.data<float>()[y.elements() - 1] = 0;
    return record(y, {v[0]}, [x = v[0]](const Tensor& dy) {
      Tensor dx = Tensor::empty(dy.shape(), DType::f32);
      for (int64_t i = 0; i + 1 < dx.elements(); ++i) dx.data<float>()[i] = dy.data<float>()[i];
      x.add_grad(dx);
    });
  };
  EXPECT_NE(gradient_error(partly, {floats({64, 3}, 1)}), "");
}

TEST(OpTable, PoisonsFreeMemoryOfEverySize) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "under AddressSanitizer no free memory is kept that could be poisoned";
#endif
  for (int64_t elements : {1, 16, 100, 128, 129, 200, 1000, 3333, 16384}) {
    poison_free_memory();
    const Tensor fresh = Tensor::empty({elements}, DType::f32);
    for (int64_t i = 0; i < elements; ++i)
      ASSERT_TRUE(std::isnan(fresh.data<float>()[i])) << elements;
  }
}

TEST(Conv2d, OfCodesCarriesTheProductOfTheSteps) {
  const Tensor x = codes({1, 3, 3, 2}, 1, 0, 127), w = codes({3, 1, 1, 2}, 2, -127, 127, true);
  const Tensor y = conv2d(Var(x), Var(w), {}).value();
  ASSERT_TRUE(y.has_scale());
  EXPECT_FALSE(y.is_codes());
  EXPECT_EQ(y.step().to_vector<float>(),
            (std::vector<float>{0.0625f, 0.125f * 0.25f, 0.25f / 3 * 0.25f}));
}

TEST(Conv2d, OfCodesWithOneStepCarriesAScalePerChannel) {
  const Tensor x = codes({1, 3, 3, 2}, 1, 0, 127), w = codes({3, 1, 1, 2}, 2, -127, 127);
  EXPECT_EQ(conv2d(Var(x), Var(w), {}).value().step().to_vector<float>(),
            std::vector<float>(3, 0.0625f));
}

TEST(Conv2d, RefusesToLoseAScale) {
  const Tensor x = codes({1, 3, 3, 2}, 1, 0, 127), w = floats({3, 1, 1, 2}, 2);
  EXPECT_THROW(conv2d(Var(x), Var(w), {}), InternalError);
  EXPECT_THROW(linear(Var(x.reshaped({9, 2})), Var(w.reshaped({3, 2})), {}), InternalError);
}

TEST(Conv2d, SkipsTheGradientNobodyWants) {
  const Var x(floats({1, 4, 4, 3}, 1)), w(floats({5, 3, 3, 3}, 2), true);
  LibraryTrace trace;
  const Var y = conv2d(x, w, {.padding = 1});
  Tape::current().backward(y, floats(y.value().shape(), 3));
  EXPECT_TRUE(w.grad().defined());
  for (const LibraryCall& call : trace.calls())
    EXPECT_FALSE(call.operation.ends_with("conv2d_backward_data")) << call.operation;
}

TEST(Reshape, RefusesToLoseAScale) {
  const Tensor x = floats({2, 6}, 1).with_scale(floats({6}, 2));
  EXPECT_THROW(reshape(Var(x), {4, 3}), InternalError);
  EXPECT_TRUE(reshape(Var(x), {1, 2, 6}).value().has_scale());
}

TEST(GlobalAveragePool, OfCodesCarriesTheStepOfTheMean) {
  const Tensor x = codes({2, 7, 7, 3}, 1, 0, 127);
  const Tensor y = global_average_pool(Var(x)).value();
  EXPECT_EQ(y.shape(), (Shape{2, 1, 1, 3}));
  EXPECT_EQ(y.step().to_vector<float>(), std::vector<float>{float(0.25 / 49)});
}

TEST(MaxPool2d, KeepsCodesWithTheirScale) {
  const Tensor x = codes({1, 4, 4, 3}, 1, 0, 15);
  const Tensor y = max_pool2d(Var(x), {}).value();
  EXPECT_EQ(y.dtype(), DType::i8);
  EXPECT_EQ(y.step().to_vector<float>(), x.step().to_vector<float>());
  EXPECT_EQ(y.lo(), 0);
  EXPECT_EQ(y.hi(), 15);
}

TEST(MaxPool2d, GivesTheGradientToTheFirstOfEquals) {
  const Var x(Tensor::zeros({1, 2, 2, 1}, DType::f32), true);
  const Var y = max_pool2d(x, {});
  Tape::current().backward(y, Tensor::full({1, 1, 1, 1}, 1));
  EXPECT_EQ(x.grad().to_vector<float>(), (std::vector<float>{1, 0, 0, 0}));
}

TEST(MaxPool2d, PaddingNeverWins) {
  const Var x(Tensor::full({1, 2, 2, 1}, -5));
  EXPECT_EQ(max_pool2d(x, {3, 2, 1}).value().to_vector<float>(), std::vector<float>{-5});
}

TEST(Pooling, RefusesImpossibleWindows) {
  const Var x(floats({1, 4, 4, 1}, 1));
  EXPECT_THROW(max_pool2d(x, {2, 2, 2}), InternalError);
  EXPECT_THROW(max_pool2d(x, {5, 1, 0}), InternalError);
  EXPECT_THROW(average_pool2d(x, {2, 0, 0}), InternalError);
}

TEST(Activations, LetNaNPass) {
  const Var x(Tensor::of<float>({2}, {NAN, -1}));
  for (const Var& y : {relu(x), relu6(x)}) {
    EXPECT_TRUE(std::isnan(y.value().data<float>()[0]));
    EXPECT_EQ(y.value().data<float>()[1], 0);
  }
}

TEST(SoftmaxCrossEntropy, IsFiniteForLargeLogits) {
  const Var x(Tensor::of<float>({2, 2}, {1e4f, -1e4f, -1e4f, 1e4f}), true);
  const Var loss = softmax_cross_entropy(x, Tensor::of<int64_t>({2}, {0, 0}), 0);
  EXPECT_EQ(loss.value().to_vector<float>(), std::vector<float>{1e4f});
  Tape::current().backward(loss, Tensor::full({1}, 1));
  EXPECT_EQ(x.grad().to_vector<float>(), (std::vector<float>{0, 0, -0.5f, 0.5f}));
}

TEST(SoftmaxCrossEntropy, RefusesALabelThatIsNoClass) {
  const Var x(floats({2, 3}, 1));
  try {
    softmax_cross_entropy(x, Tensor::of<int64_t>({2}, {0, 3}), 0);
    FAIL() << "label 3 of 3 classes was taken";
  } catch (const DataError& e) {
    EXPECT_NE(std::string(e.what()).find("label 3 of sample 1"), std::string::npos) << e.what();
  }
  EXPECT_THROW(softmax_cross_entropy(x, Tensor::of<int64_t>({2}, {-1, 0}), 0), DataError);
}

TEST(BatchNorm, UpdatesRunningStatisticsInTrainingOnly) {
  const Var x(Tensor::of<float>({2, 1}, {1, 3})), gamma(Tensor::full({1}, 1)),
      beta(Tensor::full({1}, 0));
  Tensor mean = Tensor::full({1}, 10), var = Tensor::full({1}, 4);
  const Tensor before = mean;
  batch_norm(x, gamma, beta, mean, var, {.training = false});
  EXPECT_EQ(mean.data<float>()[0], 10);
  EXPECT_EQ(var.data<float>()[0], 4);
  batch_norm(x, gamma, beta, mean, var, {.training = true, .momentum = 0.25f});
  EXPECT_EQ(mean.data<float>()[0], 8);    // 0.75 * 10 + 0.25 * 2
  EXPECT_EQ(var.data<float>()[0], 3.5f);  // 0.75 * 4 + 0.25 * 2: unbiased
  EXPECT_EQ(before.data<float>()[0], 10) << "the old statistics were written to";
}

TEST(BatchNorm, RefusesToTrainOnOneValue) {
  const Var x(floats({1, 3}, 1)), gamma(Tensor::full({3}, 1)), beta(Tensor::full({3}, 0));
  Tensor mean = Tensor::full({3}, 0), var = Tensor::full({3}, 1);
  EXPECT_THROW(batch_norm(x, gamma, beta, mean, var, {}), ConfigError);
}

}  // namespace
}  // namespace qt
