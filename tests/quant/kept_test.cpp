// tests/quant/kept_test.cpp -- standardized values in 16 bits: what they lose, and that nothing
// else is lost.
#include "quant/kept.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "core/device/memory.h"
#include "core/ops/ops.h"
#include "quant/norm_act.h"
#include "tests/support/tensors.h"

namespace qt {
namespace {

float through_memory(float v) { return loaded(kernel::Store<Kept>::from(v)); }

TEST(Kept, IsTenBitsWithAFlagOfItsOwn) {
  double sum = 0, most = 0;
  for (int exponent = -13; exponent < 16; ++exponent)
    for (int i = 0; i < 3000; ++i) {
      const float x = std::ldexp(1 + float(i) / 3000, exponent);
      for (const float value : {x, -x})
        for (const bool passes : {false, true}) {
          const float k = kept(value, passes);
          ASSERT_EQ(passed(k), passes) << value;
          ASSERT_EQ(through_memory(k), k) << value;
          const double error = std::ldexp(double(standardized(k)) / double(value) - 1, 10);
          sum += error, most = std::max(most, std::fabs(error));
        }
    }
  EXPECT_LE(most, 1);
  EXPECT_LT(std::fabs(sum) / (29 * 3000 * 4), 0.01) << "to no side";
}

TEST(Kept, EveryPatternOfMemoryIsReadAsHalfPrecisionIs) {
  for (uint32_t bits = 0; bits < 1u << 16; ++bits) {
    const int exponent = int(bits >> 10 & 31), fraction = int(bits & 1023);
    if (exponent == 0 || exponent == 31) continue;  // none is written
    const float wanted =
        std::ldexp(1 + float(fraction) / 1024, exponent - 15) * (bits >> 15 ? -1.0f : 1.0f);
    const float got = loaded(Kept{uint16_t(bits)});
    ASSERT_EQ(got, wanted) << bits;
    ASSERT_EQ(passed(got), fraction % 2 == 1) << bits;
    ASSERT_EQ(kernel::Store<Kept>::from(got).bits, bits);
  }
}

TEST(Kept, TheSmallestStayNormal) {
  const float least = std::ldexp(1.0f, -14);
  for (const bool passes : {false, true})
    for (const float x : {0.0f, 1e-30f, 3e-5f, least}) {
      for (const float value : {x, -x}) {
        const float k = through_memory(kept(value, passes));
        EXPECT_EQ(passed(k), passes);
        EXPECT_NEAR(std::fabs(standardized(k)), least, 0.01 * least);
        EXPECT_EQ(std::signbit(k), std::signbit(value));
        for (const float excess : {-1.0f, 1.0f})
          EXPECT_EQ(through_memory(next_kept(k, excess, 1)), next_kept(k, excess, 1));
      }
    }
  const float most = kept(65503, true);
  EXPECT_EQ(through_memory(most), most);
}

TEST(Kept, TheNextNumberIsTheOneBesideThatMovesTheProductBack) {
  for (const bool passes : {false, true})
    for (const float x : {1.0f, 1.75f, 3.998046875f, 0.000244140625f, 40000.0f})
      for (const float value : {x, -x})
        for (const float slope : {-3.0f, 0.5f})
          for (const float excess : {-0.6f, 0.6f}) {
            const float k = kept(value, passes), next = next_kept(k, excess, slope);
            const float moved = (standardized(next) - standardized(k)) * slope;
            EXPECT_TRUE(excess > 0 ? moved < 0 : moved > 0)
                << value << " " << slope << " " << excess;
            const float gap = std::ldexp(1.0f, std::ilogb(value) - 9);
            EXPECT_LE(std::fabs(standardized(next) - standardized(k)), 1.5f * gap) << value;
            EXPECT_EQ(passed(next), passes);
            EXPECT_EQ(through_memory(next), next);
          }
}

// ---- in the fused op ----
struct Gradients {
  Tensor output, y, residual, gamma, beta, step;
};

struct Case {
  int bits = 8;
  ForwardMode mode = ForwardMode::int8;
  bool residual = false, frozen = false;
};

Gradients gradients_of(const Case& c, bool keep, uint64_t seed = 0) {
  const Shape shape{4, 9, 7, 17};
  Tensor y = floats(shape, 1004 + seed, 300);
  for (int64_t i = 0; i < y.elements(); ++i) y.data<float>()[i] = std::rint(y.data<float>()[i]);
  BatchNormState norm;
  norm.frozen = c.frozen;
  norm.gamma.var = Var(floats({17}, 11, 1.5f), true);
  norm.gamma.var.set_value([&] {  // one channel is all beta
    Tensor gamma = norm.gamma.var.value().clone();
    gamma.data<float>()[3] = 0;
    return gamma;
  }());
  norm.beta.var = Var(floats({17}, 12), true);
  norm.running_mean = Tensor::full({17}, 0), norm.running_var = Tensor::full({17}, 4);
  const Var input(y.with_scale(Tensor::full({17}, 0.01f)), true),
      residual = c.residual ? Var(codes(shape, 3, 0, 127), true) : Var();
  const Tensor dout = floats(shape, 104 + seed);
  const NormAct args{.name = "unit", .y = input, .norm = &norm, .residual = residual};
  const Pass pass{.mode = c.mode, .training = true, .keep_16_bits = keep};
  const auto quantizer = make_quantizer({.bits = c.bits, .is_signed = false}, 1);
  quantizer->step()->set(Tensor::full({1}, 2.2f / float((1 << (c.bits - 1)) - 1)));
  const Var out =
      c.mode == ForwardMode::float32 ? norm_act_real(args, pass) : quantizer->norm_act(args, pass);
  Tape::current().backward(out, dout);
  return {out.value(),
          input.grad(),
          c.residual ? residual.grad() : Tensor(),
          norm.gamma.var.grad(),
          norm.beta.var.grad(),
          c.mode == ForwardMode::float32 ? Tensor() : quantizer->step()->var.grad()};
}

void expect_near(const Tensor& got, const Tensor& wanted, double tolerance, const char* what) {
  ASSERT_EQ(got.defined(), wanted.defined()) << what;
  if (!got.defined()) return;
  EXPECT_EQ(difference_of(doubles(got), doubles(wanted), tolerance), "") << what;
}

// Which gradients pass is kept exactly: sums of them alone have the same bits.
TEST(Kept, InTheFusedOpLosesTheLastBitsOfStandardizedValuesAlone) {
  for (const ForwardMode mode : {ForwardMode::int8, ForwardMode::fake_quant, ForwardMode::float32})
    for (const int bits : {2, 4, 8})
      for (const bool residual : {false, true}) {
        SCOPED_TRACE(std::string(name_of(mode)) + ", " + std::to_string(bits) + " bits" +
                     (residual ? ", residual" : ""));
        const Case c{.bits = bits, .mode = mode, .residual = residual};
        const Gradients wanted = gradients_of(c, false), got = gradients_of(c, true);
        EXPECT_TRUE(same_bits(got.output, wanted.output));
        EXPECT_TRUE(same_bits(got.beta, wanted.beta));
        if (residual) {
          EXPECT_TRUE(same_bits(got.residual, wanted.residual));
        }
        expect_near(got.y, wanted.y, 5e-4, "dy");
        expect_near(got.gamma, wanted.gamma, 1e-3, "dgamma");
        expect_near(got.step, wanted.step, 1e-2, "dstep");
        EXPECT_FALSE(same_bits(got.gamma, wanted.gamma)) << "nothing was rounded";
      }
}

// Codes are kept too: round(v) - v, over many values near the middle between two codes.
TEST(Kept, TakesNoValueOverTheMiddleBetweenTwoCodes) {
  for (const int bits : {4, 8}) {
    double errors = 0, squares = 0;
    for (uint64_t seed = 0; seed < 40; ++seed) {
      const double wanted = doubles(gradients_of({.bits = bits}, false, seed).step)[0],
                   got = doubles(gradients_of({.bits = bits}, true, seed).step)[0];
      errors += (got - wanted) * (got - wanted), squares += wanted * wanted;
    }
    EXPECT_LT(std::sqrt(errors / squares), 0.01) << bits;  // 0.1 where a rounded x may do so
  }
}

TEST(Kept, IsForStatisticsOfABatchAlone) {
  const Case frozen{.residual = true, .frozen = true};
  const Gradients wanted = gradients_of(frozen, false), got = gradients_of(frozen, true);
  EXPECT_TRUE(same_bits(got.y, wanted.y));
  EXPECT_TRUE(same_bits(got.gamma, wanted.gamma));
}

TEST(Kept, TakesTwoBytesInThePlaceOfFourUntilBackward) {
  const Shape shape{8, 16, 16, 64};
  const auto held = [&](bool keep) {
    BatchNormState norm;
    norm.gamma.var = Var(Tensor::full({64}, 1), true), norm.beta.var = Var(Tensor::full({64}, 0));
    norm.running_mean = Tensor::full({64}, 0), norm.running_var = Tensor::full({64}, 1);
    const auto quantizer = make_quantizer({.is_signed = false}, 1);
    quantizer->step()->set(Tensor::full({1}, 0.02f));
    const size_t before = memory_stats().in_use;
    Var out;
    {
      const Var y(floats(shape, 1, 100).with_scale(Tensor::full({64}, 0.01f)), true);
      out = quantizer->norm_act({.name = "unit", .y = y, .norm = &norm, .residual = {}},
                                {.training = true, .keep_16_bits = keep});
    }
    const size_t bytes = memory_stats().in_use - before;
    Tape::current().forget();
    return double(bytes) / double(shape.elements());
  };
  EXPECT_NEAR(held(false), 1 + 4, 0.1);
  EXPECT_NEAR(held(true), 1 + 2, 0.1);
}

}  // namespace
}  // namespace qt
