// tests/quant/norm_act_test.cpp -- the fused op against single operations and against the formula,
// scalar by scalar.
#include "quant/norm_act.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "core/base/philox.h"
#include "core/ops/ops.h"

namespace qt {
namespace {

Tensor random_tensor(const Shape& shape, uint32_t seed, float scale = 1, float offset = 0) {
  Tensor t = Tensor::empty(shape, DType::f32);
  Philox draws(seed, DrawKind::test);
  for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] = offset + scale * draws.normal();
  return t;
}

BatchNormState state(int64_t channels) {
  BatchNormState norm;
  norm.gamma.var = Var(random_tensor({channels}, 11), true);  // some are negative
  norm.beta.var = Var(random_tensor({channels}, 12), true);
  norm.running_mean = random_tensor({channels}, 13);
  norm.running_var = Tensor::full({channels}, 1.5f);
  return norm;
}

void expect_near(const Tensor& a, const Tensor& b, double tolerance, const std::string& what) {
  ASSERT_EQ(a.shape(), b.shape()) << what;
  for (int64_t i = 0; i < a.elements(); ++i)
    ASSERT_NEAR(a.data<float>()[i], b.data<float>()[i],
                tolerance * (1 + std::fabs(b.data<float>()[i])))
        << what << " " << i;
}

class NormActOf : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Channels, NormActOf, testing::Values(1, 5, 17, 64, 130));

TEST_P(NormActOf, RealsEqualsBatchNormAddReluInValueAndEveryGradient) {
  const int64_t channels = GetParam();
  const Shape shape{3, 5, 4, channels};
  const Tensor dout = random_tensor(shape, 3);
  const Var y(random_tensor(shape, 1, 2, 0.5f), true), residual(random_tensor(shape, 2), true);
  BatchNormState norm = state(channels);
  const Var fused = norm_act_real({.name = "unit", .y = y, .norm = &norm, .residual = residual},
                                  {.mode = ForwardMode::float32, .training = true});
  Tape::current().backward(fused, dout);

  const Var y2(y.value(), true), residual2(residual.value(), true);
  BatchNormState norm2 = state(channels);
  const Var single = relu(add(
      batch_norm(y2, norm2.gamma.var, norm2.beta.var, norm2.running_mean, norm2.running_var, {}),
      residual2));
  Tape::current().backward(single, dout);
  expect_near(fused.value(), single.value(), 1e-5, "value");
  expect_near(y.grad(), y2.grad(), 2e-4, "dy");
  expect_near(residual.grad(), residual2.grad(), 1e-6, "dresidual");
  expect_near(norm.gamma.var.grad(), norm2.gamma.var.grad(), 1e-4, "dgamma");
  expect_near(norm.beta.var.grad(), norm2.beta.var.grad(), 1e-4, "dbeta");
  expect_near(norm.running_mean, norm2.running_mean, 1e-6, "running mean");
  expect_near(norm.running_var, norm2.running_var, 1e-5, "running variance");
}

TEST(NormAct, CodesAreThoseOfTheFormula) {
  const int64_t channels = 7;
  const Shape shape{2, 3, 3, channels};
  BatchNormState norm = state(channels);
  Tensor gamma = norm.gamma.var.value().clone();
  gamma.data<float>()[2] = 0;
  norm.gamma.set(gamma);
  Tensor sums = random_tensor(shape, 4, 300);
  for (int64_t i = 0; i < sums.elements(); ++i)
    sums.data<float>()[i] = std::rint(sums.data<float>()[i]);
  const Tensor scale = Tensor::full({channels}, 0.01f);
  Tensor skip = Tensor::empty(shape, DType::i8);
  for (int64_t i = 0; i < skip.elements(); ++i) skip.data<int8_t>()[i] = int8_t(i * 37 % 128);
  const auto quantizer = make_quantizer({.bits = 4, .is_signed = false}, 1);
  quantizer->step()->set(Tensor::full({1}, 0.3f));
  const Var out =
      quantizer->norm_act({.name = "unit",
                           .y = Var(sums.with_scale(scale)),
                           .norm = &norm,
                           .residual = Var(skip.with_scale(Tensor::full({1}, 0.02f), 0, 127))},
                          {.mode = ForwardMode::int8});
  EXPECT_EQ(out.value().lo(), 0);
  EXPECT_EQ(out.value().hi(), 15);
  const float ratio = residual_ratio(0.02f, 0.3f);
  for (int64_t i = 0; i < sums.elements(); ++i) {
    const int64_t c = i % channels;
    const FoldedConstants k =
        fold_constants(0.01f, gamma.data<float>()[c], norm.beta.var.value().data<float>()[c],
                       std::as_const(norm.running_mean).data<float>()[c], 1.5f, norm.eps, 0.3f);
    float v = sums.data<float>()[i] * k.live;
    v = v + k.b;
    v = v * k.m;
    const float r = float(skip.data<int8_t>()[i]) * ratio;
    v = v + r;
    ASSERT_EQ(out.value().data<int8_t>()[i], int(std::rint(std::min(std::max(v, 0.0f), 15.0f))))
        << i;
  }
}

TEST(NormAct, FrozenStatisticsAreUsedAndStayAsTheyAre) {
  BatchNormState norm = state(5);
  norm.frozen = true;
  const Tensor before = norm.running_mean.clone();
  const Shape shape{2, 2, 2, 5};
  const Var y(random_tensor(shape, 1), true);
  const NormAct args{.name = "unit", .y = y, .norm = &norm};
  const Var frozen = norm_act_real(args, {.mode = ForwardMode::float32, .training = true});
  const Var evaluated = norm_act_real(args, {.mode = ForwardMode::float32});
  expect_near(frozen.value(), evaluated.value(), 0, "value");
  expect_near(norm.running_mean, before, 0, "running mean");
  Tape::current().forget();
}

TEST(NormAct, ResidualOfAnotherShapeIsRefusedByName) {
  BatchNormState norm = state(5);
  EXPECT_THROW(norm_act_real({.name = "layer1.0.conv2",
                              .y = Var(random_tensor({1, 2, 2, 5}, 1)),
                              .norm = &norm,
                              .residual = Var(random_tensor({1, 2, 1, 5}, 1))},
                             {.mode = ForwardMode::float32}),
               InternalError);
}

}  // namespace
}  // namespace qt
