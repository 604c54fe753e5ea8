// tests/quant/fold_test.cpp -- the integer program's constants against the formula they fold.
#include "quant/fold.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

namespace qt {
namespace {

TEST(Fold, AppliedToASumGivesTheNormalizedValueInUnitsOfTheStep) {
  const double scale = 0.0031, mean = 0.4, var = 1.7, eps = 1e-5, step = 0.02;
  for (const double gamma : {1.3, -0.6, 0.001, -1e-6})
    for (const double beta : {-0.5, 0.0, 0.8}) {
      const FoldedConstants k = fold_constants(scale, gamma, beta, mean, var, eps, step);
      for (const double y : {-4000.0, -1.0, 0.0, 77.0, 9001.0}) {
        const double wanted = (gamma * (y * scale - mean) / std::sqrt(var + eps) + beta) / step;
        const double got = (y * double(k.live) + double(k.b)) * double(k.m);
        EXPECT_NEAR(got, wanted, 1e-6 * (std::fabs(wanted) + std::fabs(beta) / step + 20))
            << "gamma " << gamma << " beta " << beta << " y " << y;
      }
    }
}

TEST(Fold, ConstantsAreRoundedOnceFromDouble) {
  const double scale = 0.0031, gamma = -0.37, beta = 0.21, mean = 0.4, var = 1.7, step = 0.023;
  const FoldedConstants k = fold_constants(scale, gamma, beta, mean, var, 1e-5, step);
  const long double slope = (long double)gamma / std::sqrt((long double)var + 1e-5L);
  EXPECT_EQ(k.live, 1.0f);
  EXPECT_EQ(k.m, float((long double)scale * slope / (long double)step));
  EXPECT_EQ(k.b, float(((long double)beta / slope - (long double)mean) / (long double)scale));
}

TEST(Fold, AChannelWithoutGammaIsAConstant) {
  for (const double gamma : {0.0, -0.0}) {
    const FoldedConstants k = fold_constants(0.01, gamma, 3, 100, 4, 1e-5, 0.5);
    EXPECT_EQ(k.live, 0.0f);
    EXPECT_EQ(k.m, 1.0f);
    EXPECT_EQ(k.b, 6.0f);
  }
}

TEST(ResidualRatio, HasSixteenSignificantBitsAndIsTheNearestSuchNumber) {
  for (int i = 1; i < 5000; ++i) {
    const double wanted = 0.0123 * i / 0.37;
    const float r = residual_ratio(0.0123 * i, 0.37);
    ASSERT_EQ(std::bit_cast<uint32_t>(r) & 0xffu, 0u) << wanted;
    int exponent;
    std::frexp(wanted, &exponent);
    // Half of the last of 16 bits; the second term is for rounding to f32 before.
    ASSERT_LE(std::fabs(double(r) - wanted),
              std::ldexp(0.5, exponent - 16) + std::ldexp(0.5, exponent - 24))
        << wanted;
  }
}

TEST(ResidualRatio, TiesGoToEven) {
  const auto rounded = [](uint32_t bits) {
    return std::bit_cast<uint32_t>(residual_ratio(double(std::bit_cast<float>(bits)), 1));
  };
  EXPECT_EQ(rounded(0x3f800080u), 0x3f800000u);
  EXPECT_EQ(rounded(0x3f800180u), 0x3f800200u);
  EXPECT_EQ(rounded(0x3f800081u), 0x3f800100u);
  EXPECT_EQ(rounded(0x3f80017fu), 0x3f800100u);
  EXPECT_EQ(rounded(0x3fffffffu), 0x40000000u) << "carries into the exponent";
}

TEST(ResidualRatio, TimesAnyCodeIsExact) {
  for (int i = 1; i < 2000; ++i) {
    const float r = residual_ratio(0.0123 * i, 0.37);
    for (int code = -128; code <= 255; ++code) {
      const float product = float(code) * r;
      ASSERT_EQ(double(product), double(code) * double(r)) << code << " * " << r;
    }
  }
}

}  // namespace
}  // namespace qt
