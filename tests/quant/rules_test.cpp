// tests/quant/rules_test.cpp -- the arithmetic of one code, at the places where it could go wrong.
#include "quant/rules.h"

#include <gtest/gtest.h>

#include <limits>

namespace qt {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN(),
                infinity = std::numeric_limits<float>::infinity();

TEST(UniformCode, RoundsTiesToEvenAndClampsWhatIsOutside) {
  const UniformCode rule{-7, 7};
  EXPECT_EQ(rule.code(0.5f), 0);
  EXPECT_EQ(rule.code(1.5f), 2);
  EXPECT_EQ(rule.code(2.5f), 2);
  EXPECT_EQ(rule.code(-0.5f), 0);
  EXPECT_EQ(rule.code(-1.5f), -2);
  EXPECT_EQ(rule.code(6.5f), 6);
  EXPECT_EQ(rule.code(7.5f), 7);
  EXPECT_EQ(rule.code(infinity), 7);
  EXPECT_EQ(rule.code(-infinity), -7);
}

TEST(UniformCode, MakesNanTheLowestCode) {
  EXPECT_EQ((UniformCode{-7, 7}.code(nan)), -7);
  EXPECT_EQ((UniformCode{0, 15}.code(nan)), 0);
}

TEST(UniformCode, PassesGradientsStrictlyInsideOnly) {
  const UniformCode rule{0, 15};
  EXPECT_TRUE(rule.passes(0.001f));
  EXPECT_TRUE(rule.passes(14.999f));
  for (const float outside : {0.0f, -1.0f, 15.0f, 16.0f, nan}) EXPECT_FALSE(rule.passes(outside));
}

TEST(UniformCode, StepGradientIsTheRoundingErrorInsideAndTheEndOutside) {
  const UniformCode rule{-8, 7};
  EXPECT_FLOAT_EQ(rule.step_gradient(2.25f), -0.25f);
  EXPECT_FLOAT_EQ(rule.step_gradient(2.75f), 0.25f);
  for (const float above : {7.0f, 9.0f}) EXPECT_EQ(rule.step_gradient(above), 7);
  for (const float below : {-8.0f, -9.0f}) EXPECT_EQ(rule.step_gradient(below), -8);
}

TEST(Bounded, IsReluFromZeroToInfinity) {
  const Bounded relu{0, infinity};
  EXPECT_EQ(relu.code(-1), 0);
  EXPECT_EQ(relu.code(1.25f), 1.25f);
  EXPECT_EQ(relu.code(nan), 0);
  EXPECT_FALSE(relu.passes(0));
  EXPECT_FALSE(relu.passes(-1));
  EXPECT_TRUE(relu.passes(1));
}

TEST(UniformCode, PassesWhatIsNotClippedOrWhatItIsTold) {
  const UniformCode lsq{-7, 7}, follows{-7, 7, -7.5f, 7.5f};
  for (const float v : {-7.0f, 7.0f, 7.4f, -7.4f}) {
    EXPECT_FALSE(lsq.passes(v)) << v;
    EXPECT_TRUE(follows.passes(v)) << v;
  }
  for (const float v : {-7.5f, 7.5f, 9.0f}) EXPECT_FALSE(follows.passes(v)) << v;
  EXPECT_TRUE(lsq.passes(6.9f));
}

}  // namespace
}  // namespace qt
