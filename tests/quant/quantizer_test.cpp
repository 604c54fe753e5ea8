// tests/quant/quantizer_test.cpp -- code ranges, folded constants, steps and what watches them.
#include "quant/quantizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "quant/fold.h"
#include "quant/norm_act.h"
#include "tests/support/tensors.h"

namespace qt {
namespace {

TEST(QuantSpec, RangesAreThoseOfTheContract) {
  for (int bits = 2; bits <= 8; ++bits) {
    const QuantSpec narrow{.bits = bits}, full{.bits = bits, .narrow = false},
        unsigned_codes{.bits = bits, .is_signed = false};
    EXPECT_EQ(narrow.hi(), (1 << (bits - 1)) - 1);
    EXPECT_EQ(narrow.lo(), -narrow.hi());
    EXPECT_EQ(full.lo(), -(1 << (bits - 1)));
    EXPECT_EQ(unsigned_codes.lo(), 0);
    EXPECT_EQ(unsigned_codes.hi(), bits == 8 ? 127 : (1 << bits) - 1);
  }
}

TEST(Quantizer, RefusesOneAndNineBitsAndUnknownKinds) {
  for (const int bits : {-1, 0, 1, 9}) EXPECT_THROW(make_quantizer({.bits = bits}, 1), ConfigError);
  try {
    make_quantizer({.kind = "lsqq"}, 1);
    FAIL();
  } catch (const ConfigError& error) {
    for (const char* part : {"unknown quantizer 'lsqq'; known: ", "lsq", "minmax", "none"})
      EXPECT_THAT(error.what(), testing::HasSubstr(part));
  }
}

TEST(Quantizer, WithoutAStepSaysSo) {
  const auto lsq = make_quantizer({}, 1);
  EXPECT_FALSE(lsq->ready());
  EXPECT_THROW(lsq->quantize(Var(Tensor::full({2, 3}, 1)), {}), InternalError);
}

TEST(Lsq, StartsAtTwiceTheMeanMagnitudeAndKeepsAThousandthAsFloor) {
  const auto lsq = make_quantizer({.bits = 4, .per_channel = true}, 2);
  lsq->observe(Tensor::of<float>({2, 3}, {1, -2, 3, 0.5f, 0.5f, -0.5f}));
  const Tensor step = lsq->step()->var.value();
  EXPECT_NEAR(step.data<float>()[0], 2 * 2 / std::sqrt(7.0), 1e-6);
  EXPECT_NEAR(step.data<float>()[1], 2 * 0.5 / std::sqrt(7.0), 1e-6);
  EXPECT_NEAR(lsq->step()->floor.data<float>()[0], 2 * 0.5 / std::sqrt(7.0) / 1000, 1e-9);
}

TEST(MinMax, FollowsAMovingAverageOfTheLargestMagnitude) {
  const auto minmax = make_quantizer({.kind = "minmax", .bits = 8, .momentum = 0.25}, 1);
  minmax->observe(Tensor::of<float>({1, 2}, {-12.7f, 3}));
  EXPECT_NEAR(minmax->step()->var.value().data<float>()[0], 0.1, 1e-6);
  minmax->observe(Tensor::of<float>({1, 2}, {1, 25.4f}));
  EXPECT_NEAR(minmax->step()->var.value().data<float>()[0], 0.125, 1e-6);
  EXPECT_FALSE(minmax->step()->var.wants_grad());
}

TEST(Fold, AChannelWithoutGammaIsAConstant) {
  const FoldedConstants k = fold_constants(0.01, 0, 3, 100, 4, 1e-5, 0.5);
  EXPECT_EQ(k.live, 0.0f);
  EXPECT_EQ(k.m, 1.0f);
  EXPECT_EQ(k.b, 6.0f);
}

TEST(Fold, ResidualRatiosTimesCodesAreExact) {
  for (int i = 1; i < 2000; ++i) {
    const float r = residual_ratio(0.0123 * i, 0.37);
    EXPECT_NEAR(r, 0.0123 * i / 0.37, 0.0123 * i / 0.37 / 65536);
    for (const int code : {127, -127, 126, 101, 85})
      ASSERT_EQ(double(float(code) * r), double(code) * double(r));
  }
}

TEST(Health, NamesTheFirstConstantThatIsNotFinite) {
  Health health;
  health.watch("conv1", Tensor::full({3}, 1));
  EXPECT_EQ(health.first_bad(), "");
  health.watch("conv1", Tensor::full({3}, 1));
  health.watch("layer1.0.conv1",
               Tensor::of<float>({2}, {1, std::numeric_limits<float>::quiet_NaN()}));
  health.watch("layer1.0.conv2", Tensor::full({1}, std::numeric_limits<float>::infinity()));
  EXPECT_EQ(health.first_bad(), "layer1.0.conv1");
  EXPECT_EQ(health.first_bad(), "") << "forgets what it has said";
}

TEST(Quantizer, FakeQuantsGradientsAreInt8sTimesStep) {
  for (const bool per_channel : {true, false}) {
    SCOPED_TRACE(per_channel);
    const Tensor x = floats({5, 17}, 1, 3), dreal = floats({5, 17}, 2);
    const int64_t steps = per_channel ? 5 : 1;
    Tensor step = floats({steps}, 3, 0.1f), dcode = dreal.clone();
    for (int64_t i = 0; i < steps; ++i) step.data<float>()[i] += 0.4f;
    for (int64_t i = 0; i < dcode.elements(); ++i)
      dcode.data<float>()[i] *= step.data<float>()[per_channel ? i / 17 : 0];
    const QuantSpec spec{.bits = 4, .per_channel = per_channel};
    const auto whole = make_quantizer(spec, steps), fake = make_quantizer(spec, steps);
    whole->step()->set(step);
    fake->step()->set(step);
    const Var a(x, true), b(x, true);
    Tape::current().backward(whole->quantize(a, {.mode = ForwardMode::int8}), dcode);
    Tape::current().backward(fake->quantize(b, {.mode = ForwardMode::fake_quant}), dreal);
    EXPECT_EQ(difference_of(doubles(a.grad()), doubles(b.grad()), 1e-5), "");
    EXPECT_EQ(
        difference_of(doubles(whole->step()->var.grad()), doubles(fake->step()->var.grad()), 1e-5),
        "");
  }
}

TEST(Lsq, AveragesItsStepOverTheBatchesOfACalibration) {
  const auto lsq = make_quantizer({.bits = 8, .is_signed = false}, 1);
  for (const float magnitude : {1.0f, 2.0f, 6.0f}) lsq->observe(Tensor::full({2, 5}, magnitude));
  EXPECT_NEAR(lsq->step()->var.value().data<float>()[0], 2 * 3 / std::sqrt(127.0), 1e-6);
  EXPECT_NEAR(lsq->step()->floor.data<float>()[0], 2 * 3 / std::sqrt(127.0) / 1000, 1e-8);
}

TEST(Lsq, GivesAChannelOfZerosAPositiveStepAndItsFloor) {
  const auto lsq = make_quantizer({.bits = 4, .per_channel = true}, 2);
  lsq->observe(Tensor::of<float>({2, 2}, {0, 0, 3, -3}));
  const std::vector<float> step = lsq->step()->var.value().to_vector<float>();
  EXPECT_GT(step[0], 0);
  EXPECT_LT(step[0], 1e-4f);
  EXPECT_FLOAT_EQ(lsq->step()->floor.data<float>()[0], step[0] / 1000);
  EXPECT_TRUE(lsq->step()->var.wants_grad());
}

TEST(MinMax, GivesZerosAPositiveStep) {
  const auto minmax = make_quantizer({.kind = "minmax"}, 1);
  minmax->observe(Tensor::zeros({2, 2}, DType::f32));
  EXPECT_GT(minmax->step()->var.value().data<float>()[0], 0);
}

TEST(Quantizer, ObservesInThePassesOfItsKindOnly) {
  struct Wanted {
    const char* kind;
    bool calibrating, training, evaluating;
  };
  for (const Wanted& w : {Wanted{"lsq", true, false, false}, Wanted{"minmax", true, true, false},
                          Wanted{"none", false, false, false}}) {
    const auto quantizer = make_quantizer({.kind = w.kind}, 1);
    EXPECT_EQ(quantizer->observes({.calibrate = true}), w.calibrating) << w.kind;
    EXPECT_EQ(quantizer->observes({.training = true}), w.training) << w.kind;
    EXPECT_EQ(quantizer->observes({}), w.evaluating) << w.kind;
    EXPECT_FALSE(quantizer->observes({.training = true, .steps_follow = false})) << w.kind;
    for (const bool training : {false, true})
      EXPECT_FALSE(quantizer->observes(
          {.mode = ForwardMode::float32, .training = training, .calibrate = !training}))
          << w.kind;
  }
}

// The gradient of the step of a tensor of 4 samples with 6 features each.
double step_gradient_of(const QuantSpec& spec, const Pass& pass = {}) {
  const auto lsq = make_quantizer(spec, 1);
  lsq->step()->set(Tensor::full({1}, 0.25f));
  const Var x(floats({4, 6}, 1), true);
  Tape::current().backward(lsq->quantize(x, pass), floats({4, 6}, 2));
  return double(lsq->step()->var.grad().data<float>()[0]);
}

TEST(Lsq, CountsFeaturesOfOneSampleOrAllElements) {
  const double features = step_gradient_of({.bits = 4}),
               elements = step_gradient_of({.bits = 4, .count_elements = true});
  ASSERT_NE(features, 0);
  EXPECT_NEAR(features / elements, 2, 1e-5) << "sqrt(4 samples)";
  // Where this rank has 4 of 36 samples, elements are those of all.
  const Pass of_nine{.samples_per_sample = 9};
  EXPECT_NEAR(step_gradient_of({.bits = 4, .count_elements = true}, of_nine), elements / 3, 1e-6);
  EXPECT_EQ(step_gradient_of({.bits = 4}, of_nine), features);
}

// Sums of codes, as an average pool hands them over: x stands for x * scale.
TEST(Quantizer, CodesOfSumsAreThoseOfTheirRealsAndSoAreTheGradients) {
  const float scale = 0.125f, step = 0.5f;  // powers of two: no rounding tells them apart
  Tensor sums = Tensor::empty({4, 1, 1, 6}, DType::f32), reals = sums.clone();
  for (int64_t i = 0; i < sums.elements(); ++i) {
    sums.data<float>()[i] = float(i * 7 % 80);
    reals.data<float>()[i] = sums.data<float>()[i] * scale;
  }
  const QuantSpec spec{.bits = 4, .is_signed = false};
  const auto of_sums = make_quantizer(spec, 1), of_reals = make_quantizer(spec, 1);
  of_sums->step()->set(Tensor::full({1}, step));
  of_reals->step()->set(Tensor::full({1}, step));
  const Var a(sums.with_scale(Tensor::full({1}, scale)), true), b(reals, true);
  const Var codes = of_sums->quantize(a, {}), wanted = of_reals->quantize(b, {});
  EXPECT_TRUE(same_bits(codes.value(), wanted.value()));
  EXPECT_EQ(codes.value().hi(), 15);
  EXPECT_EQ(codes.value().step().data<float>()[0], step);
  const Tensor dcode = floats(sums.shape(), 3);
  Tape::current().backward(codes, dcode);
  Tape::current().backward(of_reals->quantize(b, {}), dcode);
  std::vector<double> dreal = doubles(b.grad());
  for (double& d : dreal) d *= double(scale);
  EXPECT_EQ(difference_of(doubles(a.grad()), dreal, 1e-6), "");
  const Tensor dstep = of_sums->step()->var.grad();
  EXPECT_NE(dstep.data<float>()[0], 0);
  EXPECT_EQ(difference_of(doubles(dstep), doubles(of_reals->step()->var.grad()), 1e-5), "");
}

TEST(None, PassesNumbersAndGradientsThrough) {
  const auto none = make_quantizer({.kind = "none"}, 1);
  EXPECT_TRUE(none->ready());
  EXPECT_EQ(none->step(), nullptr);
  const Var x(floats({2, 2, 2, 3}, 1), true);
  EXPECT_TRUE(same_bits(none->quantize(x, {}).value(), x.value()));
  const Var y = none->norm_act({.name = "unit", .y = x, .residual = {}, .relu = false}, {});
  EXPECT_TRUE(same_bits(y.value(), x.value()));
  const Tensor dout = floats(x.value().shape(), 2);
  Tape::current().backward(y, dout);
  EXPECT_TRUE(same_bits(x.grad(), dout));
}

// The largest value decides the step and must be able to shrink.
TEST(MinMax, TheLargestWeightOfEveryChannelLearns) {
  QuantSpec spec;
  spec.kind = "minmax", spec.bits = 4, spec.per_channel = true, spec.momentum = 1;
  const auto quantizer = make_quantizer(spec, 2);
  const Var w(Tensor::of<float>({2, 3}, {0.1f, -0.9f, 0.3f, 0.7f, 0.2f, -0.1f}), true);
  quantizer->observe(w.value());
  const Pass pass{.mode = ForwardMode::fake_quant, .training = true};
  const Var y = quantizer->quantize(w, pass);
  Tape::current().backward(y, Tensor::full({2, 3}, 1.0f));
  EXPECT_EQ(w.grad().to_vector<float>(), std::vector<float>(6, 1.0f));
}

}  // namespace
}  // namespace qt
