// tests/layers/layers_test.cpp -- single layers: what they compute, what they refuse, what their
// quantizers are shown.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "core/ops/ops.h"
#include "layers/conv_unit.h"
#include "layers/heads.h"
#include "tests/support/tensors.h"

namespace qt {
namespace {

using testing::HasSubstr;

constexpr Pass float_pass{.mode = ForwardMode::float32}, int8_pass{.mode = ForwardMode::int8},
    calibration{.mode = ForwardMode::int8, .calibrate = true};

float step_of(Quantizer& quantizer) { return quantizer.step()->var.value().data<float>()[0]; }

TEST(ImageInput, TableHoldsNormalizedPixelsAsCodesOfOneFixedStep) {
  const std::array<double, 3> mean{0.5, 0.25, 0.4}, std{0.25, 0.2, 0.3};
  ImageInput layer(mean, std);
  const float step = layer.codes().step().data<float>()[0];
  EXPECT_NEAR(step, 0.75 / 0.2 / 127, 1e-7) << "white in the second channel is farthest from 0";
  for (int64_t c = 0; c < 3; ++c)
    for (int64_t p = 0; p < 256; ++p) {
      const double real = (double(p) / 255 - mean[size_t(c)]) / std[size_t(c)];
      const int64_t i = c * 256 + p;
      EXPECT_NEAR(layer.reals().data<float>()[i], real, 1e-6);
      EXPECT_NEAR(layer.codes().data<int8_t>()[i], real / double(step), 0.5001);
    }
  EXPECT_EQ(layer.codes().data<int8_t>()[256 + 255], 127);
  const Tensor images = Tensor::of<uint8_t>({1, 1, 2, 3}, {0, 1, 2, 255, 254, 253});
  const Tensor codes = layer.forward({Var(images)}, int8_pass).value(),
               reals = layer.forward({Var(images)}, float_pass).value();
  for (int64_t i = 0; i < 6; ++i) {
    const int64_t at = i % 3 * 256 + images.data<uint8_t>()[i];
    EXPECT_EQ(codes.data<int8_t>()[i], layer.codes().data<int8_t>()[at]) << i;
    EXPECT_EQ(reals.data<float>()[i], layer.reals().data<float>()[at]) << i;
  }
  EXPECT_EQ(codes.lo(), -127);
  EXPECT_FALSE(reals.has_scale());
}

TEST(ImageInput, RefusesWhatIsNoImageBatch) {
  ImageInput layer({0.5, 0.5, 0.5}, {0.25, 0.25, 0.25});
  for (const Tensor& bad :
       {Tensor::zeros({1, 2, 2, 3}, DType::f32), Tensor::zeros({1, 2, 2, 4}, DType::u8)}) {
    try {
      layer.forward({Var(bad)}, int8_pass);
      ADD_FAILURE() << "accepted " << bad.shape().text();
    } catch (const InternalError& error) {
      EXPECT_THAT(error.what(), HasSubstr("an image batch must be u8 [n, h, w, 3], got"));
    }
  }
}

ConvUnitSpec unit_spec() {
  return {.conv_name = "conv",
          .norm_name = "bn",
          .in = 4,
          .out = 6,
          .kernel = 3,
          .stride = 2,
          .padding = 2,
          .dilation = 2,
          .groups = 2,
          .weights = {.per_channel = true},
          .activations = {.is_signed = false}};
}

TEST(ConvUnit, IsConvolutionBatchNormalizationReluInFloat) {
  ConvUnit unit(unit_spec(), 3, 0);
  const Var x(floats({2, 7, 9, 4}, 1));
  const Tape::Pause pause;
  const Var y = unit.forward({x}, float_pass);
  Tensor mean = Tensor::zeros({6}, DType::f32), var = Tensor::full({6}, 1);
  const Var sums =
      conv2d(x, unit.weight().var, {.stride = 2, .padding = 2, .dilation = 2, .groups = 2});
  const Var one(Tensor::full({6}, 1)), zero(Tensor::full({6}, 0));
  const Var wanted = relu(batch_norm(sums, one, zero, mean, var, {.training = false}));
  EXPECT_EQ(difference_of(doubles(y.value()), doubles(wanted.value()), 1e-5), "");
  EXPECT_EQ(y.value().shape(), unit.output_shape({x.value().shape()}));
}

TEST(ConvUnit, RefusesAnotherNumberOfChannelsByName) {
  ConvUnit unit(unit_spec(), 3, 0);
  try {
    unit.output_shape({{1, 7, 9, 5}});
    FAIL() << "accepted";
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(), HasSubstr("conv: input [1, 7, 9, 5], wants [n, h, w, 4]"));
  }
}

TEST(ConvUnit, DrawsWeightsByKaimingsRuleFromSeedAndNumber) {
  ConvUnitSpec spec = unit_spec();
  spec.in = 64, spec.out = 32, spec.groups = 1;
  const Tensor w = ConvUnit(spec, 3, 5).weight().var.value();
  double squares = 0;
  for (const double v : doubles(w)) squares += v * v;
  EXPECT_NEAR(std::sqrt(squares / double(w.elements())), std::sqrt(2.0 / (32 * 9)), 0.002)
      << "fan out";
  EXPECT_TRUE(same_bits(w, ConvUnit(spec, 3, 5).weight().var.value()));
  EXPECT_FALSE(same_bits(w, ConvUnit(spec, 3, 6).weight().var.value()));
  EXPECT_FALSE(same_bits(w, ConvUnit(spec, 4, 5).weight().var.value()));
}

TEST(Linear, DrawsWeightsOfVarianceOneThirdOfTheInputs) {
  Linear layer("fc", 300, 50, {}, 3, 0);
  double squares = 0;
  for (const double v : doubles(layer.weight().var.value())) squares += v * v;
  EXPECT_NEAR(squares / 15000, 1.0 / 900, 5e-5);
}

TEST(Quantizers, StepsOfWeightsAreChosenOnceAndThoseOfActivationsByEveryCalibration) {
  ConvUnit unit(unit_spec(), 3, 0);
  const Var x(codes({2, 7, 9, 4}, 1, 0, 127));
  const Tape::Pause pause;
  unit.forward({x}, calibration);
  const Tensor weight_step = unit.weight_quantizer().step()->var.value();
  const float first = step_of(unit.activation_quantizer());
  Tensor doubled = unit.weight().var.value().clone();
  for (int64_t i = 0; i < doubled.elements(); ++i) doubled.data<float>()[i] *= 2;
  unit.weight().set(doubled);
  Tensor gamma = Tensor::full({6}, 3);
  unit.norm().gamma.set(gamma);
  unit.forward({x}, calibration);
  EXPECT_TRUE(same_bits(unit.weight_quantizer().step()->var.value(), weight_step))
      << "a trained step of a checkpoint survives calibration";
  EXPECT_NEAR(step_of(unit.activation_quantizer()) / first, 2, 0.05) << "the average of 1 and 3";
}

TEST(Quantizers, AreShownRealValuesWithoutMovingTheStatisticsTwice) {
  ConvUnitSpec spec = unit_spec();
  spec.weights.kind = spec.activations.kind = "minmax";
  ConvUnit shown(spec, 3, 0), plain(unit_spec(), 3, 0);
  const Var x(codes({2, 7, 9, 4}, 1, 0, 127));
  const Tape::Pause pause;
  shown.forward({x}, {.training = true});
  const Tensor mean = shown.norm().running_mean, var = shown.norm().running_var;
  EXPECT_GT(step_of(shown.activation_quantizer()), 0);
  plain.weight_quantizer().step()->set(shown.weight_quantizer().step()->var.value());
  plain.activation_quantizer().step()->set(shown.activation_quantizer().step()->var.value());
  plain.forward({x}, {.training = true});
  EXPECT_TRUE(same_bits(plain.norm().running_mean, mean));
  EXPECT_TRUE(same_bits(plain.norm().running_var, var));
}

TEST(GlobalAveragePool, MeansInFloatAndChoosesItsStepFromRealValues) {
  GlobalAveragePool layer({.bits = 8, .is_signed = false});
  Tensor x = Tensor::empty({1, 1, 2, 2}, DType::i8);
  for (int64_t i = 0; i < 4; ++i) x.data<int8_t>()[i] = int8_t(10 + 20 * i);  // means 30 and 50
  x = x.with_scale(Tensor::full({1}, 0.25f), 0, 127);
  const Tape::Pause pause;
  layer.forward({Var(x)}, calibration);
  EXPECT_NEAR(step_of(layer.activation_quantizer()), 2 * 40 * 0.25 / std::sqrt(127.0), 1e-5);
  const Tensor codes = layer.forward({Var(x)}, int8_pass).value();
  ASSERT_EQ(codes.shape(), (Shape{1, 1, 1, 2}));
  const double step = double(step_of(layer.activation_quantizer()));
  EXPECT_EQ(codes.data<int8_t>()[0], int(std::rint(30 * 0.25 / step)));
  EXPECT_EQ(codes.data<int8_t>()[1], int(std::rint(50 * 0.25 / step)));
  const Tensor real = layer.forward({Var(to_float(x))}, float_pass).value();
  EXPECT_EQ(real.to_vector<float>(), (std::vector<float>{30, 50}));
}

TEST(MaxPool, ShapeIsTheForwardPasss) {
  MaxPool layer(3, 2, 1);
  for (const int64_t side : {3, 4, 7, 8}) {
    const Shape x{1, side, side + 1, 2};
    EXPECT_EQ(layer.forward({Var(floats(x, 1))}, float_pass).value().shape(),
              layer.output_shape({x}));
  }
}

}  // namespace
}  // namespace qt
