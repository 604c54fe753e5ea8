// tests/quant/quantizer_test.cpp -- code ranges, folded constants, steps and what watches them.
#include "quant/quantizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "quant/fold.h"

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

TEST(Quantizer, RefusesNineBitsAndUnknownKinds) {
  EXPECT_THROW(make_quantizer({.bits = 9}, 1), ConfigError);
  try {
    make_quantizer({.kind = "lsqq"}, 1);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("known: lsq, minmax, none"));
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
  EXPECT_NEAR(lsq->step_floor()->data<float>()[0], 2 * 0.5 / std::sqrt(7.0) / 1000, 1e-9);
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

}  // namespace
}  // namespace qt
