// tests/deploy/validate_test.cpp -- each rule of an integer program is broken once and named.
#include "deploy/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/deploy/programs.h"

namespace qt::test {
namespace {

struct Broken {
  const char* name;
  std::function<void(Program&)> damage;
  const char* message;  // a part of it
};

// small_resnet: 0 image, 1 stem, 2 max pool, 3 conv, 4 conv + residual 2, 5 conv /2, 6 branch, 7
// conv + residual 6, 8 add, 9 conv, 10 average pool, 11 classifier.
Conv& conv_of(Program& p, size_t i = 4) {
  auto& op = std::get<Conv>(p.instructions[i].operation);
  op.codes = op.codes.clone();
  op.m = op.m.clone();
  op.b = op.b.clone();
  return op;
}
constexpr float infinity = std::numeric_limits<float>::infinity();

const std::vector<Broken> breaks{
    {"Empty", [](Program& p) { p.instructions.clear(); }, "needs an image table and a classifier"},
    {"ForwardReference", [](Program& p) { p.instructions[3].inputs = {5}; },
     "reads register 5; only earlier ones"},
    {"SelfReference", [](Program& p) { p.instructions[3].inputs = {3}; }, "reads register 3"},
    {"NegativeRegister", [](Program& p) { p.instructions[3].inputs = {-1}; }, "reads register -1"},
    {"HugeRegister", [](Program& p) { p.instructions[3].inputs = {1 << 30}; },
     "reads register 1073741824"},
    {"NoInput", [](Program& p) { p.instructions[3].inputs = {}; },
     "has 0 inputs; 1 or 2 are allowed"},
    {"TooManyInputs",
     [](Program& p) {
       p.instructions[3].inputs = {1, 2, 2};
     },
     "has 3 inputs"},
    {"AddWithOneInput", [](Program& p) { p.instructions[8].inputs = {7}; },
     "has 1 inputs; 2 are allowed"},
    {"TwoNames", [](Program& p) { p.instructions[3].name = p.instructions[1].name; },
     "that is taken"},
    {"NoClassifier", [](Program& p) { p.instructions.pop_back(); },
     "the last must be a classifier"},
    {"EarlyClassifier",
     [](Program& p) { p.instructions[10].operation = p.instructions[11].operation; },
     "is not the last instruction"},
    {"TwoClassifiers",
     [](Program& p) {
       p.instructions.push_back(p.instructions.back());
       p.instructions.back().name = "again";
     },
     "is not the last instruction"},
    {"SecondImage", [](Program& p) { p.instructions[2].operation = p.instructions[0].operation; },
     "is not the first"},
    {"ClassNames", [](Program& p) { p.class_names.pop_back(); }, "has 7 classes and 6 class names"},
    {"Std", [](Program& p) { p.preprocessing.std[1] = 0; }, "standard deviation"},
    {"Mean", [](Program& p) { p.preprocessing.mean[0] = std::nan(""); }, "mean that is not finite"},
    {"ImageSize", [](Program& p) { p.preprocessing.height = 14; },
     "has the output shape [13, 11, 3]"},
    {"NoImageSize", [](Program& p) { p.preprocessing.width = 0; }, "takes images of 13 x 0"},
    {"OutputShape",
     [](Program& p) {
       p.instructions[5].output = {4, 4, 7};
     },
     "its input gives [4, 3, 7]"},
    {"OutputRank",
     [](Program& p) {
       p.instructions[5].output = Shape{4, 3};
     },
     "wanted [h, w, c]"},
    {"ZeroExtent",
     [](Program& p) {
       p.instructions[5].output = {0, 3, 7};
     },
     "extents from 1 to 2^24"},
    {"InputShape", [](Program& p) { conv_of(p).shape.h = 8; }, "but convolves [8, 6, 5]"},
    {"Stride", [](Program& p) { conv_of(p).shape.stride = 0; },
     "stride, dilation or group count of 0"},
    {"Padding", [](Program& p) { conv_of(p).shape.padding = -1; }, "has the padding -1"},
    {"Groups", [](Program& p) { conv_of(p).shape.groups = 2; }, "do not divide its channels"},
    {"Kernel", [](Program& p) { conv_of(p).shape.dilation = 9; },
     "kernel larger than its padded input"},
    {"ResidualShape",
     [](Program& p) {
       p.instructions[4].inputs = {3, 1};
     },
     "adds 'conv1' of shape [13, 11, 5]"},
    {"Range", [](Program& p) { p.instructions[4].hi = 200; }, "has the code range 0..200"},
    {"RangeWithoutZero", [](Program& p) { p.instructions[4].lo = 3; }, "it must hold 0"},
    {"Step", [](Program& p) { p.instructions[4].step = -1; }, "has the step -1"},
    {"StepZero", [](Program& p) { p.instructions[4].step = 0; }, "has the step 0"},
    {"StepInfinite", [](Program& p) { p.instructions[4].step = infinity; }, "has the step inf"},
    {"PoolRange", [](Program& p) { p.instructions[2].hi = 126; }, "changes no codes"},
    {"PoolStep", [](Program& p) { p.instructions[2].step *= 2; }, "changes no codes"},
    {"PoolPadding",
     [](Program& p) { std::get<MaxPoolCodes>(p.instructions[2].operation).padding = 3; },
     "padding below the kernel"},
    {"PoolKernel",
     [](Program& p) {
       p.instructions[2].operation = MaxPoolCodes{20, 2, 1};
     },
     "larger than its padded input"},
    {"WeightCode",
     [](Program& p) {
       Conv& op = conv_of(p);
       op.codes = op.codes.with_scale(op.codes.step(), -7, 7);
       std::fill_n(op.codes.data<int8_t>(), op.codes.elements(), int8_t(7));
       op.codes.data<int8_t>()[9] = 8;
     },
     "codes[9] is 8, outside -7..7"},
    {"WeightRange",
     [](Program& p) {
       Conv& op = conv_of(p);
       op.codes = op.codes.with_scale(op.codes.step(), -200, 127);
     },
     "range -200..127 of codes"},
    {"WeightShape",
     [](Program& p) {
       Conv& op = conv_of(p);
       op.codes = Tensor::zeros({5, 3, 3, 4}, DType::i8);
     },
     "has codes of shape [5, 3, 3, 4] and type i8; wanted [5, 3, 3, 5]"},
    {"WeightType",
     [](Program& p) {
       Conv& op = conv_of(p);
       op.codes = Tensor::zeros({5, 3, 3, 5}, DType::u8);
     },
     "type u8; wanted"},
    {"WeightStep",
     [](Program& p) {
       Conv& op = conv_of(p);
       op.codes = op.codes.with_scale(Tensor::full({4}, 1), -127, 127);
     },
     "weight step of shape [4]; wanted [1] or [5]"},
    {"WeightStepNegative",
     [](Program& p) {
       Conv& op = conv_of(p);
       op.codes = op.codes.with_scale(Tensor::full({5}, -1), -127, 127);
     },
     "weight_step[0] that is not positive"},
    {"WithoutWeightStep",
     [](Program& p) {
       Conv& op = conv_of(p);
       op.codes = op.codes.without_scale();
     },
     "weight codes without a step"},
    {"ConstantM", [](Program& p) { conv_of(p).m.data<float>()[3] = std::nanf(""); },
     "m[3] is not finite"},
    {"ConstantB", [](Program& p) { conv_of(p).b.data<float>()[1] = infinity; },
     "b[1] is not finite"},
    {"Overflow", [](Program& p) { conv_of(p).m.data<float>()[1] = 1e30f; }, "may overflow f32"},
    {"ConstantShape", [](Program& p) { conv_of(p).m = Tensor::full({6}, 1); },
     "has m of shape [6]"},
    {"Ratio", [](Program& p) { conv_of(p).residual_ratio = 1.0f / 3; },
     "more than 16 significant bits"},
    {"RatioZero", [](Program& p) { conv_of(p).residual_ratio = 0; }, "residual_ratio is 0"},
    {"AddMultiplier", [](Program& p) { std::get<Add>(p.instructions[8].operation).m = infinity; },
     "m is inf"},
    {"AddRatio", [](Program& p) { std::get<Add>(p.instructions[8].operation).r = 0.1f; },
     "16 significant bits"},
    {"PoolMultiplier",
     [](Program& p) { std::get<AveragePoolCodes>(p.instructions[10].operation).multiplier = -1; },
     "multiplier is -1"},
    {"Table", [](Program& p) { p.instructions[0].hi = 100; }, "outside -127..100"},
    {"TableShape",
     [](Program& p) {
       p.instructions[0].operation = ImageTable{Tensor::zeros({3, 255}, DType::i8)};
     },
     "has table of shape [3, 255]"},
    {"LogitRange", [](Program& p) { p.instructions[11].hi = 1; }, "no code range"},
    {"LogitBias",
     [](Program& p) {
       std::get<Classifier>(p.instructions[11].operation).bias = Tensor::full({7}, infinity);
     },
     "bias[0] is not finite"},
    {"ClassifierInput", [](Program& p) { p.instructions[11].inputs = {9}; }, "wanted [1, 1, c]"},
};

class Validate : public testing::TestWithParam<size_t> {};

TEST_P(Validate, Refuses) {
  const Broken& broken = breaks[GetParam()];
  Program program = small_resnet(31, {});
  EXPECT_NO_THROW(validate(program, "model.qat"));
  broken.damage(program);
  try {
    validate(program, "model.qat");
    FAIL() << "accepted";
  } catch (const CheckpointError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr(broken.message));
    EXPECT_THAT(error.what(), testing::StartsWith("model.qat: "));
  }
}

INSTANTIATE_TEST_SUITE_P(All, Validate, testing::Range(size_t(0), breaks.size()),
                         [](const auto& info) { return breaks[info.param].name; });

TEST(Validate, RefusesSumsThatLeaveInt32) {
  ProgramMaker make(1, 1, 1);
  const int wide = make.conv(0, {.out = 140000, .kernel = 1, .padding = 0});
  make.conv(wide, {.out = 1, .kernel = 1, .padding = 0, .lo = 0, .hi = 127});
  const Program program = make.classifier(2, 1);
  try {
    validate(program, "p");
    FAIL();
  } catch (const CheckpointError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("may sum codes to 2258060000, beyond int32"));
  }
}

TEST(Validate, RefusesPoolsWhoseSumsLeaveInt32) {
  const auto message = [](int64_t height, int64_t width) -> std::string {
    ProgramMaker make(1, height, width);
    const Program program =
        make.classifier(make.average_pool(make.conv(0, {.out = 1, .lo = 0, .hi = 127}), 0, 127), 2);
    try {
      validate(program, "p");
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message(4096, 4095), "accepted");
  EXPECT_THAT(message(4096, 4096), testing::HasSubstr("may sum codes beyond int32"));
}

TEST(Validate, KnowsSixteenSignificantBits) {
  for (const float r : {1.0f, 0.75f, 65535.0f, 1.0f / 65536, 32769.0f * 8})
    EXPECT_TRUE(has_16_significant_bits(r)) << r;
  for (const float r : {65537.0f, 0.1f, 1.0f / 3, 131071.0f / 65536})
    EXPECT_FALSE(has_16_significant_bits(r)) << r;
}

}  // namespace
}  // namespace qt::test
