// tests/quant/norm_act_test.cpp -- the fused op against single operations and against the formula,
// scalar by scalar.
#include "quant/norm_act.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "core/ops/ops.h"
#include "tests/support/tensors.h"

namespace qt {
namespace {

using testing::HasSubstr;

Tensor vector_of(int64_t channels, uint64_t seed, float offset, float reach) {
  Tensor t = floats({channels}, seed, reach);
  for (int64_t i = 0; i < channels; ++i) t.data<float>()[i] += offset;
  return t;
}

BatchNormState state(int64_t channels) {
  BatchNormState norm;
  norm.gamma.var = Var(floats({channels}, 11, 1.5f), true);  // some are negative
  norm.beta.var = Var(floats({channels}, 12), true);
  norm.running_mean = floats({channels}, 13);
  norm.running_var = vector_of(channels, 14, 1.5f, 1);
  return norm;
}

// Whole numbers as convolutions of codes give them.
Tensor whole_numbers(const Shape& shape, uint64_t seed, float reach) {
  Tensor t = floats(shape, seed, reach);
  for (int64_t i = 0; i < t.elements(); ++i)
    t.data<float>()[i] = std::rint(t.data<float>()[i]) + 3;  // the mean is not 0
  return t;
}

Tensor times_channel(const Tensor& x, const Tensor& factor) {
  Tensor y = Tensor::empty(x.shape(), DType::f32);
  for (int64_t i = 0; i < x.elements(); ++i)
    y.data<float>()[i] = x.data<float>()[i] * factor.data<float>()[i % factor.elements()];
  return y;
}

Tensor times(const Tensor& x, float factor) { return times_channel(x, Tensor::full({1}, factor)); }

void expect_near(const Tensor& got, const Tensor& wanted, double tolerance,
                 const std::string& what) {
  ASSERT_TRUE(got.defined() && wanted.defined()) << what;
  ASSERT_EQ(got.shape(), wanted.shape()) << what;
  EXPECT_EQ(difference_of(doubles(got), doubles(wanted), tolerance), "") << what;
}

void expect_near(const Tensor& got, const std::vector<double>& wanted, double tolerance,
                 const std::string& what) {
  ASSERT_TRUE(got.defined()) << what;
  EXPECT_EQ(difference_of(doubles(got), wanted, tolerance), "") << what;
}

void expect_same_norm(const BatchNormState& got, const BatchNormState& wanted) {
  expect_near(got.gamma.var.grad(), wanted.gamma.var.grad(), 2e-5, "dgamma");
  expect_near(got.beta.var.grad(), wanted.beta.var.grad(), 2e-5, "dbeta");
  expect_near(got.running_mean, wanted.running_mean, 1e-6, "running mean");
  expect_near(got.running_var, wanted.running_var, 1e-5, "running variance");
}

class NormActOf : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Channels, NormActOf, testing::Values(1, 5, 17, 64, 130));

TEST_P(NormActOf, RealsEqualBatchNormAddReluInValueAndEveryGradient) {
  const int64_t channels = GetParam();
  const Shape shape{3, 5, 4, channels};
  const Tensor dout = floats(shape, 3);
  const Var y(floats(shape, 1, 2), true), residual(floats(shape, 2), true);
  BatchNormState norm = state(channels), norm2 = state(channels);
  const Var fused = norm_act_real({.name = "unit", .y = y, .norm = &norm, .residual = residual},
                                  {.mode = ForwardMode::float32, .training = true});
  Tape::current().backward(fused, dout);
  const Var y2(y.value(), true), residual2(residual.value(), true);
  const Var single = relu(add(
      batch_norm(y2, norm2.gamma.var, norm2.beta.var, norm2.running_mean, norm2.running_var, {}),
      residual2));
  Tape::current().backward(single, dout);
  expect_near(fused.value(), single.value(), 1e-5, "value");
  expect_near(y.grad(), y2.grad(), 2e-5, "dy");
  expect_near(residual.grad(), residual2.grad(), 1e-6, "dresidual");
  expect_same_norm(norm, norm2);
}

TEST_P(NormActOf, RawSumsGiveWhatRealsGiveAndTheirGradientIsTheRealOneTimesScale) {
  const int64_t channels = GetParam();
  const Shape shape{3, 5, 4, channels};
  const Tensor dout = floats(shape, 3), scale = vector_of(channels, 4, 0.02f, 0.01f);
  const Var raw(whole_numbers(shape, 1, 200).with_scale(scale), true);
  BatchNormState norm = state(channels), norm2 = state(channels);
  const Var from_raw = norm_act_real({.name = "unit", .y = raw, .norm = &norm, .residual = {}},
                                     {.mode = ForwardMode::float32, .training = true});
  Tape::current().backward(from_raw, dout);
  const Var real(times_channel(raw.value(), scale), true);
  const Var from_real = relu(
      batch_norm(real, norm2.gamma.var, norm2.beta.var, norm2.running_mean, norm2.running_var, {}));
  Tape::current().backward(from_real, dout);
  expect_near(from_raw.value(), from_real.value(), 1e-5, "value");
  expect_near(raw.grad(), times_channel(real.grad(), scale), 2e-5, "dy");
  expect_same_norm(norm, norm2);
}

enum class Skip { none, codes, real };

// A unit of 7 channels of which one has gamma 0 and one gamma < 0, with everything it needs.
struct Unit {
  static constexpr int64_t channels = 7;
  static constexpr float residual_step = 0.0203f;
  Shape shape{2, 3, 5, channels};
  Tensor scale = vector_of(channels, 21, 0.012f, 0.004f);
  Var y{whole_numbers(shape, 4, 300).with_scale(scale), true};
  BatchNormState norm = state(channels);
  Var residual;

  explicit Unit(Skip skip = Skip::codes) {
    Tensor gamma = norm.gamma.var.value().clone();
    gamma.data<float>()[2] = 0;
    gamma.data<float>()[3] = -0.7f;
    norm.gamma.set(gamma);
    if (skip == Skip::real) residual = Var(floats(shape, 6, 1.3f), true);
    if (skip != Skip::codes) return;
    Tensor q = Tensor::empty(shape, DType::i8);
    for (int64_t i = 0; i < q.elements(); ++i) q.data<int8_t>()[i] = int8_t(i * 37 % 128);
    residual = Var(q.with_scale(Tensor::full({1}, residual_step), 0, 127), true);
  }
  NormAct args() { return {.name = "unit", .y = y, .norm = &norm, .residual = residual}; }
};

float at(const Tensor& t, int64_t i) { return t.data<float>()[i]; }

// The integer program's arithmetic for element i, every step rounded to f32.
float formula(const Unit& unit, float step, int64_t i) {
  const int64_t c = i % Unit::channels;
  const FoldedConstants k = fold_constants(
      at(unit.scale, c), at(unit.norm.gamma.var.value(), c), at(unit.norm.beta.var.value(), c),
      at(unit.norm.running_mean, c), at(unit.norm.running_var, c), unit.norm.eps, step);
  float v = at(unit.y.value(), i) * k.live;
  v = v + k.b;
  v = v * k.m;
  if (!unit.residual.defined()) return v;
  const Tensor& q = unit.residual.value();
  const float r = q.is_codes() ? residual_ratio(Unit::residual_step, step) : 1.0f / step;
  const float term = (q.is_codes() ? float(q.data<int8_t>()[i]) : at(q, i)) * r;
  return v + term;
}

TEST(NormAct, CodesAreThoseOfTheFormula) {
  for (const Skip skip : {Skip::none, Skip::codes, Skip::real})
    for (const int bits : {2, 4, 8})
      for (const bool is_signed : {false, true}) {
        SCOPED_TRACE(testing::Message()
                     << "skip " << int(skip) << ", " << bits << " bits, signed " << is_signed);
        Unit unit(skip);
        const QuantSpec spec{.bits = bits, .is_signed = is_signed};
        const float step = 2.7f / float(spec.hi());
        const auto quantizer = make_quantizer(spec, 1);
        quantizer->step()->set(Tensor::full({1}, step));
        const Tape::Pause pause;
        const Tensor codes = quantizer->norm_act(unit.args(), {.mode = ForwardMode::int8}).value();
        ASSERT_EQ(codes.dtype(), DType::i8);
        EXPECT_EQ(codes.lo(), spec.lo());
        EXPECT_EQ(codes.hi(), spec.hi());
        std::set<int> seen;
        for (int64_t i = 0; i < codes.elements(); ++i) {
          const float v = std::clamp(formula(unit, step, i), float(spec.lo()), float(spec.hi()));
          seen.insert(int(std::rint(v)));
          ASSERT_EQ(codes.data<int8_t>()[i], int(std::rint(v))) << "element " << i;
        }
        EXPECT_GE(seen.size(), size_t(is_signed || bits > 2 ? 3 : 2)) << "the case says little";
      }
}

TEST(NormAct, TiesGoToEven) {
  // v = y / 2 where the scale is 0.5 and the step 1.
  const Tensor y = Tensor::of<float>({1, 1, 1, 8}, {1, 3, 5, 7, -1, -3, -5, -40})
                       .with_scale(Tensor::full({1}, 0.5f));
  const auto quantizer = make_quantizer({.bits = 4}, 1);
  quantizer->step()->set(Tensor::full({1}, 1));
  const Var codes = quantizer->norm_act({.name = "add", .y = Var(y), .residual = {}}, {});
  EXPECT_EQ(codes.value().to_vector<int8_t>(), (std::vector<int8_t>{0, 2, 2, 4, 0, -2, -2, -7}));
  const Var sums = quantizer->norm_act(
      {.name = "add", .y = Var(y), .residual = Var(Tensor::full(y.shape(), 1))}, {});
  EXPECT_EQ(sums.value().to_vector<int8_t>(), (std::vector<int8_t>{2, 2, 4, 4, 0, 0, -2, -7}));
}

// Gradients by the textbook, in double: G is the gradient of the real output before quantization.
struct HandGradients {
  std::vector<double> y, residual, gamma, beta, step;
};

HandGradients by_hand(const Unit& unit, const QuantSpec& spec, float step, const Tensor& dcode,
                      bool batch) {
  const int64_t rows = unit.y.value().rows(), channels = Unit::channels, all = rows * channels;
  const size_t columns = size_t(channels);
  HandGradients h{std::vector<double>(size_t(all)),
                  std::vector<double>(size_t(all)),
                  std::vector<double>(columns),
                  std::vector<double>(columns),
                  {0}};
  for (int64_t c = 0; c < channels; ++c) {
    const double s = at(unit.scale, c), gamma = at(unit.norm.gamma.var.value(), c);
    double mean = 0, var = 0;
    for (int64_t i = c; i < all; i += channels) mean += s * at(unit.y.value(), i) / double(rows);
    for (int64_t i = c; i < all; i += channels)
      var += std::pow(s * at(unit.y.value(), i) - mean, 2) / double(rows);
    if (!batch) mean = at(unit.norm.running_mean, c), var = at(unit.norm.running_var, c);
    const double rstd = 1 / std::sqrt(var + double(unit.norm.eps));
    const auto normalized = [&](int64_t i) { return (s * at(unit.y.value(), i) - mean) * rstd; };
    std::vector<double> g(static_cast<size_t>(all));
    for (int64_t i = c; i < all; i += channels) {
      const double skip = unit.residual.value().data<int8_t>()[i] * double(Unit::residual_step);
      const double v =
          (gamma * normalized(i) + at(unit.norm.beta.var.value(), c) + skip) / double(step);
      const bool inside = v > spec.lo() && v < spec.hi();
      const double d = at(dcode, i) / double(step);
      const double estimate = inside ? std::rint(v) - v : v <= spec.lo() ? spec.lo() : spec.hi();
      h.step[0] += d * estimate;
      g[size_t(i)] = inside ? d : 0;
      h.residual[size_t(i)] = g[size_t(i)] * double(Unit::residual_step);
      h.beta[size_t(c)] += g[size_t(i)];
      h.gamma[size_t(c)] += g[size_t(i)] * normalized(i);
    }
    for (int64_t i = c; i < all; i += channels) {
      const double through_statistics =
          (h.beta[size_t(c)] + normalized(i) * h.gamma[size_t(c)]) / double(rows);
      h.y[size_t(i)] = s * gamma * rstd * (g[size_t(i)] - (batch ? through_statistics : 0));
    }
  }
  h.step[0] /= std::sqrt(double(all) / double(unit.shape[0]) * spec.hi());
  return h;
}

void expect_gradients_by_hand(const Pass& pass, bool freeze, bool batch) {
  for (const int bits : {2, 4, 8}) {
    SCOPED_TRACE(bits);
    Unit unit;
    unit.norm.frozen = freeze;
    const Tensor mean = unit.norm.running_mean, var = unit.norm.running_var;
    const QuantSpec spec{.bits = bits, .is_signed = false};
    const float step = 2.2f / float(spec.hi());
    const auto quantizer = make_quantizer(spec, 1);
    quantizer->step()->set(Tensor::full({1}, step));
    const Tensor dcode = floats(unit.shape, 31);
    const HandGradients wanted = by_hand(unit, spec, step, dcode, batch);
    Tape::current().backward(quantizer->norm_act(unit.args(), pass), dcode);
    expect_near(unit.y.grad(), wanted.y, 2e-5, "dy");
    expect_near(unit.residual.grad(), wanted.residual, 2e-5, "dresidual");
    expect_near(unit.norm.gamma.var.grad(), wanted.gamma, 2e-5, "dgamma");
    expect_near(unit.norm.beta.var.grad(), wanted.beta, 2e-5, "dbeta");
    expect_near(quantizer->step()->var.grad(), wanted.step, 1e-4, "dstep");
    EXPECT_EQ(same_bits(unit.norm.running_mean, mean), !batch);
    EXPECT_EQ(same_bits(unit.norm.running_var, var), !batch);
  }
}

TEST(NormAct, GradientsOfCodesAreThoseOfAHandWrittenLoop) {
  expect_gradients_by_hand({.training = true}, false, true);
}

TEST(NormAct, FrozenStatisticsAreUsedInTrainingAndPassNoGradient) {
  expect_gradients_by_hand({.training = true}, true, false);
}

TEST(NormAct, TrainingWithFrozenStatisticsGivesTheBitsOfEvaluation) {
  Unit unit;
  unit.norm.frozen = true;
  const auto quantizer = make_quantizer({.bits = 4, .is_signed = false}, 1);
  quantizer->step()->set(Tensor::full({1}, 0.2f));
  const Tape::Pause pause;
  EXPECT_TRUE(same_bits(quantizer->norm_act(unit.args(), {.training = true}).value(),
                        quantizer->norm_act(unit.args(), {.training = false}).value()));
  const Pass real{.mode = ForwardMode::float32, .training = true},
      evaluation{.mode = ForwardMode::float32};
  EXPECT_TRUE(same_bits(norm_act_real(unit.args(), real).value(),
                        norm_act_real(unit.args(), evaluation).value()));
}

TEST(NormAct, EvaluationUsesRunningStatisticsAndPassesNoGradientThroughThem) {
  expect_gradients_by_hand({.training = false}, false, false);
}

// fake_quant's gradient is of the real number code * step, int8's of the code.
TEST(NormAct, FakeQuantsGradientsAreInt8sTimesSteps) {
  Unit whole(Skip::none), fake(Skip::none);
  Tensor q = Tensor::empty(whole.shape, DType::i8);
  for (int64_t i = 0; i < q.elements(); ++i) q.data<int8_t>()[i] = int8_t(i * 37 % 128);
  const float step = 0.25f, residual_step = 0.03125f;  // their ratio needs no rounding
  whole.residual = Var(q.with_scale(Tensor::full({1}, residual_step), 0, 127), true);
  fake.residual = Var(times(to_float(q), residual_step), true);
  fake.y = Var(times_channel(whole.y.value(), whole.scale), true);
  const auto a = make_quantizer({.bits = 4, .is_signed = false}, 1),
             b = make_quantizer({.bits = 4, .is_signed = false}, 1);
  a->step()->set(Tensor::full({1}, step));
  b->step()->set(Tensor::full({1}, step));
  const Tensor dreal = floats(whole.shape, 41);
  const Var codes = a->norm_act(whole.args(), {.mode = ForwardMode::int8, .training = true});
  Tape::current().backward(codes, times(dreal, step));
  const Var reals = b->norm_act(fake.args(), {.mode = ForwardMode::fake_quant, .training = true});
  Tape::current().backward(reals, dreal);
  EXPECT_FALSE(reals.value().has_scale());
  expect_near(reals.value(), times(to_float(codes.value()), step), 0, "value");
  expect_near(whole.y.grad(), times_channel(fake.y.grad(), whole.scale), 1e-5, "dy");
  expect_near(whole.residual.grad(), times(fake.residual.grad(), residual_step), 1e-5, "skip");
  expect_near(whole.norm.gamma.var.grad(), fake.norm.gamma.var.grad(), 1e-5, "dgamma");
  expect_near(whole.norm.beta.var.grad(), fake.norm.beta.var.grad(), 1e-5, "dbeta");
  expect_near(a->step()->var.grad(), b->step()->var.grad(), 1e-5, "dstep");
}

TEST(NormAct, ConstantsThatAreNotFiniteAreReportedUnderTheUnitsName) {
  Unit unit, sound;
  Tensor gamma = unit.norm.gamma.var.value().clone();
  gamma.data<float>()[1] = std::numeric_limits<float>::quiet_NaN();
  unit.norm.gamma.set(gamma);
  Health health;
  const Tape::Pause pause;
  norm_act_real(unit.args(), {.mode = ForwardMode::float32, .health = &health});
  EXPECT_EQ(health.first_bad(), "unit");
  norm_act_real(sound.args(), {.mode = ForwardMode::float32, .health = &health});
  EXPECT_EQ(health.first_bad(), "");
}

TEST(NormAct, AnInfiniteBetaIsReportedToo) {
  Unit unit(Skip::none);
  Tensor beta = unit.norm.beta.var.value().clone();
  beta.data<float>()[0] = std::numeric_limits<float>::infinity();
  unit.norm.beta.set(beta);
  Health health;
  const Tape::Pause pause;
  norm_act_real(unit.args(), {.mode = ForwardMode::float32, .health = &health});
  EXPECT_EQ(health.first_bad(), "unit");
}

TEST(NormAct, CalibrationTakesBatchStatisticsAndMovesTheRunningOnes) {
  Unit calibrating, training;
  const Tensor before = calibrating.norm.running_mean;
  const Tape::Pause pause;
  const Pass calibrate{.mode = ForwardMode::int8, .calibrate = true},
      train{.mode = ForwardMode::int8, .training = true};
  EXPECT_TRUE(same_bits(norm_act_real(calibrating.args(), calibrate).value(),
                        norm_act_real(training.args(), train).value()));
  EXPECT_TRUE(same_bits(calibrating.norm.running_mean, training.norm.running_mean));
  EXPECT_FALSE(same_bits(calibrating.norm.running_mean, before));
}

TEST(NormAct, OneValuePerChannelHasNoStatistics) {
  BatchNormState norm = state(5);
  const NormAct args{
      .name = "layer1.0.conv2", .y = Var(floats({1, 1, 1, 5}, 1)), .norm = &norm, .residual = {}};
  try {
    norm_act_real(args, {.mode = ForwardMode::float32, .training = true});
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("layer1.0.conv2: batch statistics need more than one"));
  }
}

TEST(NormAct, ResidualOfAnotherShapeIsRefusedByName) {
  BatchNormState norm = state(5);
  try {
    norm_act_real({.name = "layer1.0.conv2",
                   .y = Var(floats({1, 2, 2, 5}, 1)),
                   .norm = &norm,
                   .residual = Var(floats({1, 2, 1, 5}, 1))},
                  {.mode = ForwardMode::float32});
    FAIL() << "accepted";
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(), HasSubstr("layer1.0.conv2: residual [1, 2, 1, 5]"));
  }
}

}  // namespace
}  // namespace qt
