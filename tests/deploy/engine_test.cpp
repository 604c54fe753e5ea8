// tests/deploy/engine_test.cpp -- the engines: the formulas by hand, and equality of every
// register.
#include "deploy/engine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

#include "core/device/memory.h"
#include "deploy/compare.h"
#include "deploy/validate.h"
#include "tests/deploy/programs.h"

namespace qt::test {
namespace {

// ---- by hand ----

// One 1x1 convolution over one pixel (3 codes), one output channel; then a classifier that shows
// the code.
struct OnePixel {
  std::array<int8_t, 3> pixel{1, 0, 0};  // codes
  std::array<int8_t, 3> weights{1, 0, 0};
  float m = 1, b = 0;
  int lo = -127, hi = 127;
  float residual_ratio = 0;  // of a second input that holds the code `skip`
  int8_t skip = 0;
};

Program one_pixel(const OnePixel& o) {
  Program program;
  program.preprocessing = {1, 1, 0, {0, 0, 0}, {1, 1, 1}};
  Tensor table = Tensor::zeros({3, 256}, DType::i8);
  for (int c = 0; c < 3; ++c) table.data<int8_t>()[c * 256] = o.pixel[size_t(c)];
  program.instructions.push_back({"image", {}, ImageTable{table}, {1, 1, 3}, -128, 127, 1});
  const auto conv = [](const std::vector<int8_t>& w, float m, float b) {
    Conv op;
    op.shape = {.n = 0, .h = 1, .w = 1, .c = 3, .k = 1};
    op.codes = Tensor::of<int8_t>({1, 1, 1, 3}, w).with_scale(Tensor::full({1}, 1), -128, 127);
    op.m = Tensor::full({1}, m);
    op.b = Tensor::full({1}, b);
    return op;
  };
  program.instructions.push_back(
      {"skip", {0}, conv({0, 0, 0}, 1, o.skip), {1, 1, 1}, -127, 127, 1});
  Conv op = conv({o.weights.begin(), o.weights.end()}, o.m, o.b);
  op.residual_ratio = o.residual_ratio;
  std::vector<int> inputs{0};
  if (o.residual_ratio != 0) inputs.push_back(1);
  program.instructions.push_back({"conv", inputs, op, {1, 1, 1}, o.lo, o.hi, 1});
  Classifier fc{Tensor::of<int8_t>({1, 1}, {1}).with_scale(Tensor::full({1}, 1), -127, 127),
                Tensor::full({1}, 1), Tensor::full({1}, 0)};
  program.instructions.push_back({"fc", {2}, fc, {1, 1, 1}, 0, 0, 0});
  validate(program, "test");
  return program;
}

class EachEngine : public testing::TestWithParam<const char*> {
 protected:
  EngineResult run(const Program& program, int64_t n = 1) const {
    const Preprocessing& p = program.preprocessing;
    return make_engine(GetParam())
        ->run(program, Tensor::zeros({n, p.height, p.width, 3}, DType::u8), {.keep_codes = true});
  }
  int code(const OnePixel& o) const {
    return run(one_pixel(o)).codes.at(2).second.data<int8_t>()[0];
  }
};

TEST_P(EachEngine, RoundsTiesToEven) {
  for (const auto& [acc, wanted] : std::vector<std::pair<int, int>>{
           {1, 0}, {3, 2}, {5, 2}, {7, 4}, {-1, 0}, {-3, -2}, {-5, -2}})
    EXPECT_EQ(code({.pixel = {int8_t(acc), 0, 0}, .m = 0.5f}), wanted) << acc << " / 2";
}

TEST_P(EachEngine, AddsBBeforeItMultiplies) {
  EXPECT_EQ(code({.pixel = {10, 0, 0}, .weights = {3, 0, 0}, .m = 0.25f, .b = 6}), 9);
  EXPECT_EQ(code({.pixel = {10, 0, 0}, .weights = {3, 0, 0}, .m = -0.25f, .b = 6}),
            -9);  // gamma < 0
}

TEST_P(EachEngine, GivesTheConstantWhereGammaIsZero) {
  EXPECT_EQ(code({.pixel = {100, 100, 100}, .weights = {0, 0, 0}, .m = 1, .b = 41.5f}), 42);
}

TEST_P(EachEngine, ClampsAtBothEndsAndAtReluZero) {
  EXPECT_EQ(code({.pixel = {127, 127, 127}, .weights = {127, 127, 127}}), 127);
  EXPECT_EQ(code({.pixel = {127, 127, 127}, .weights = {-128, -128, -128}}), -127);
  EXPECT_EQ(code({.pixel = {127, 0, 0}, .weights = {-1, 0, 0}, .lo = 0, .hi = 15}), 0);
  EXPECT_EQ(code({.pixel = {127, 0, 0}, .weights = {1, 0, 0}, .lo = 0, .hi = 15}), 15);
  EXPECT_EQ(code({.m = 1e28f, .lo = -7, .hi = 7}), 7);
}

TEST_P(EachEngine, AddsTheResidual) {
  EXPECT_EQ(code({.pixel = {10, 0, 0}, .residual_ratio = 0.75f, .skip = 6}),
            14);  // 10 + 4.5 -> 14 (even)
  EXPECT_EQ(code({.pixel = {10, 0, 0}, .residual_ratio = 0.75f, .skip = -6}),
            6);  // 10 - 4.5 -> 6 (even)
}

// A fused multiply-add gives another code here, so the test fails where the build contracts.
TEST_P(EachEngine, RoundsTheProductBeforeTheResidualIsAdded) {
  for (int t = 3; t < 128; ++t) {
    float m = 64.5f / float(t);
    for (int tries = 0; tries < 4; ++tries, m = std::nextafterf(m, 0)) {
      const volatile float p = float(t) * m;
      if (p != 64.5f || double(t) * double(m) >= 64.5) continue;
      if (std::fmaf(float(t), m, -63.0f) >= 1.5f) continue;
      EXPECT_EQ(code({.pixel = {int8_t(t), 0, 0}, .m = m, .residual_ratio = 1, .skip = -63}), 2);
      return;
    }
  }
  FAIL() << "no operands found for which fusing makes a difference";
}

TEST_P(EachEngine, MapsPixelsThroughTheTableOfTheirChannel) {
  ProgramMaker make(1, 2, 2);
  make.average_pool(0, -127, 127);
  Program program = make.classifier(1, 2);
  const Tensor images =
      Tensor::of<uint8_t>({1, 2, 2, 3}, {0, 1, 2, 255, 254, 253, 128, 128, 128, 5, 6, 7});
  const EngineResult result = make_engine(GetParam())->run(program, images, {.keep_codes = true});
  EXPECT_EQ(result.codes[0].second.to_vector<int8_t>(),
            (std::vector<int8_t>{-127, -126, -124, 127, 127, 127, 0, 1, 2, -123, -121, -119}));
}

TEST_P(EachEngine, PoolsAndFlattensAndClassifies) {
  ProgramMaker make(1, 2, 2);
  const int pooled = make.max_pool(0, 3, 2, 1);
  const int flat = make.flatten(pooled);
  Program program = make.classifier(flat, 1);
  auto& fc = std::get<Classifier>(program.instructions.back().operation);
  std::copy_n(std::array<int8_t, 3>{1, 2, -1}.data(), 3, fc.codes.data<int8_t>());
  fc.m.data<float>()[0] = 0.5f;
  fc.bias.data<float>()[0] = 0.25f;
  const Tensor images =
      Tensor::of<uint8_t>({1, 2, 2, 3}, {120, 1, 90, 119, 1, 91, 118, 2, 92, 117, 3, 93});
  const EngineResult result = make_engine(GetParam())->run(program, images, {.keep_codes = true});
  EXPECT_EQ(result.codes[1].second.to_vector<int8_t>(), (std::vector<int8_t>{-8, -124, -33}));
  EXPECT_EQ(result.codes[2].second.shape(), (Shape{1, 1, 1, 3}));
  EXPECT_EQ(result.logits.to_vector<float>(), (std::vector<float>{0.5f * (-8 - 248 + 33) + 0.25f}));
}

TEST_P(EachEngine, AveragesExactSums) {
  ProgramMaker make(1, 3, 1);
  make.average_pool(0, -127, 127);
  Program program = make.classifier(1, 1);
  std::get<AveragePoolCodes>(program.instructions[1].operation).multiplier = 0.5f;
  const Tensor images =
      Tensor::of<uint8_t>({1, 3, 1, 3}, {128, 129, 127, 129, 128, 126, 130, 131, 125});
  const EngineResult result = make_engine(GetParam())->run(program, images, {.keep_codes = true});
  // codes: channel 0: 0 1 2, channel 1: 2 1 4, channel 2: 1 0 -1
  EXPECT_EQ(result.codes[1].second.to_vector<int8_t>(),
            (std::vector<int8_t>{2, 4, 0}));  // 1.5, 3.5, 0
}

TEST_P(EachEngine, RefusesImagesOfAnotherSizeOrType) {
  const Program program = small_resnet(1, {});
  EXPECT_THROW(make_engine(GetParam())->run(program, Tensor::zeros({1, 13, 12, 3}, DType::u8)),
               InternalError);
  EXPECT_THROW(make_engine(GetParam())->run(program, Tensor::zeros({1, 13, 11, 3}, DType::f32)),
               InternalError);
  EXPECT_THROW(make_engine(GetParam())->run(program, Tensor::zeros({0, 13, 11, 3}, DType::u8)),
               InternalError);
}

TEST_P(EachEngine, KeepsCodesOnlyWhenAsked) {
  const Program program = small_resnet(1, {});
  const EngineResult without = make_engine(GetParam())->run(program, random_images(program, 2, 1));
  EXPECT_TRUE(without.codes.empty());
  const EngineResult with =
      make_engine(GetParam())->run(program, random_images(program, 2, 1), {.keep_codes = true});
  ASSERT_EQ(with.codes.size(), program.instructions.size() - 1);
  EXPECT_EQ(with.logits.to_vector<float>(), without.logits.to_vector<float>());
  for (size_t i = 0; i < with.codes.size(); ++i) {
    EXPECT_EQ(with.codes[i].first, program.instructions[i].name);
    EXPECT_EQ(with.codes[i].second.step().to_vector<float>(),
              std::vector<float>{program.instructions[i].step});
    EXPECT_EQ(with.codes[i].second.hi(), program.instructions[i].hi);
  }
}

TEST_P(EachEngine, GivesAnImageTheSameCodesAloneAndInABatch) {
  const Program program = small_resnet(5, {});
  const Tensor images = random_images(program, 3, 2);
  const auto engine = make_engine(GetParam());
  const std::vector<float> together = engine->run(program, images).logits.to_vector<float>();
  const int64_t size = images.elements() / 3;
  std::vector<float> alone;
  for (int64_t n = 0; n < 3; ++n) {
    Tensor one = Tensor::empty({1, images.dim(1), images.dim(2), 3}, DType::u8);
    std::copy_n(images.data<uint8_t>() + n * size, size, one.data<uint8_t>());
    const std::vector<float> logits = engine->run(program, one).logits.to_vector<float>();
    alone.insert(alone.end(), logits.begin(), logits.end());
  }
  EXPECT_EQ(together, alone);
}

INSTANTIATE_TEST_SUITE_P(All, EachEngine, testing::Values("reference", "onednn"),
                         [](const auto& info) { return std::string(info.param); });

// ---- against each other ----
struct Case {
  const char* library;
  CodePath path;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.library << (c.path == CodePath::integer ? " integer" : " exact_float");
}
class EnginePair : public testing::TestWithParam<Case> {
 protected:
  void expect_equal(const Program& program, const Tensor& images) const {
    validate(program, "test");
    const EngineResult wanted =
        make_engine("reference")->run(program, images, {.keep_codes = true});
    const auto library = library_by_name(GetParam().library);
    const auto engine = make_library_engine(*library);
    EXPECT_EQ(engine->name(), GetParam().library);
    const LibraryTrace trace;
    const EngineResult got =
        engine->run(program, images, {.path = GetParam().path, .keep_codes = true});
    const CodeDifference difference = compare_codes(wanted, got);
    EXPECT_TRUE(difference.equal) << difference.text();
    EXPECT_GT(difference.compared, 0);
    ASSERT_FALSE(trace.calls().empty());
    for (const LibraryCall& call : trace.calls()) {
      const bool own = call.library == "winograd" || call.library == "direct";
      EXPECT_TRUE(call.library == GetParam().library ||
                  (own && GetParam().library == std::string("onednn")))
          << call.library;
      EXPECT_TRUE(GetParam().path == CodePath::integer || call.arithmetic == "f32") << call.kernel;
    }
  }
};

TEST_P(EnginePair, AgreesInEveryRegisterAtAllWidths) {
  uint64_t seed = 1;
  for (const int weights : {2, 4, 8})
    for (const int activations : {2, 4, 8})
      for (const bool full : {false, true})
        for (const int64_t channels : {5, 16, 80}) {
          SCOPED_TRACE(testing::Message() << "W" << weights << "A" << activations << " full range "
                                          << full << " channels " << channels);
          const Program program = small_resnet(++seed, {weights, activations, full, channels});
          expect_equal(program, random_images(program, 3, seed));
        }
}

TEST_P(EnginePair, AgreesWhereSumsExceedTheMantissaOfAFloat) {
  ProgramMaker make(11, 5, 5);
  ProgramMaker::ConvChoice wide{.out = 515, .gain = 4};
  const int x = make.conv(0, wide);
  ProgramMaker::ConvChoice deep{.out = 6, .weight_lo = -127, .extreme = true};
  deep.gain = 0.9f;
  const int y = make.conv(x, deep);
  deep.weight_lo = -128;
  const int z = make.conv(x, deep);
  const Program program =
      make.classifier(make.average_pool(make.add(y, z, -127, 127), -127, 127), 3);
  expect_equal(program, random_images(program, 2, 4));
}

TEST_P(EnginePair, AgreesOnGroupsKernelsAndStrides) {
  ProgramMaker make(12, 15, 9);
  const int a =
      make.conv(0, {.out = 12, .kernel = 7, .stride = 2, .padding = 3, .lo = -127, .hi = 127});
  const int b = make.conv(a, {.out = 6, .kernel = 5, .padding = 2, .groups = 3, .lo = -7, .hi = 7});
  const int c =
      make.conv(b, {.out = 9, .kernel = 1, .stride = 2, .padding = 0, .lo = -128, .hi = 127});
  const int d = make.conv(
      c, {.out = 9, .kernel = 3, .padding = 1, .groups = 9, .lo = -127, .hi = 127, .residual = c});
  const Program program = make.classifier(make.flatten(make.max_pool(d, 2, 2, 0)), 5);
  expect_equal(program, random_images(program, 2, 5));
}

// oneDNN 2.6's AVX2 kernel for these writes past the end of its threads' workspaces where channels
// are no multiple of 16, so that two threads spoil each other's sums now and then.
TEST_P(EnginePair, AgreesOnStridedPointwiseConvolutionsEveryTime) {
  for (const int64_t channels : {8, 24, 40}) {
    ProgramMaker make(uint64_t(channels), 8, 8);
    const int x = make.conv(0, {.out = channels});
    const int y = make.conv(x, {.out = 16, .kernel = 1, .stride = 2, .padding = 0});
    const Program program = make.classifier(make.average_pool(y, 0, 127), 3);
    for (uint64_t run = 0; run < 200 && !HasFailure(); ++run)
      expect_equal(program, random_images(program, 3, run));
  }
}

TEST_P(EnginePair, AgreesOnExtremeOperands) {
  for (const int lo : {-127, -128}) {
    ProgramMaker make(13, 6, 6);
    const int a = make.conv(0, {.out = 33, .lo = -127, .hi = 127, .gain = 1000});
    const int b =
        make.conv(a, {.out = 17, .weight_lo = lo, .lo = -128, .hi = 127, .extreme = true});
    const int c = make.conv(
        b, {.out = 19, .weight_lo = lo, .lo = 0, .hi = 127, .residual = -1, .extreme = true});
    const Program program = make.classifier(make.average_pool(c, 0, 127), 2);
    expect_equal(program, Tensor::zeros({2, 6, 6, 3}, DType::u8));
    expect_equal(program, random_images(program, 2, 6));
  }
}

INSTANTIATE_TEST_SUITE_P(All, EnginePair,
                         testing::Values(Case{"reference", CodePath::integer},
                                         Case{"onednn", CodePath::integer},
                                         Case{"onednn", CodePath::exact_float}),
                         [](const auto& info) {
                           return std::string(info.param.library) +
                                  (info.param.path == CodePath::integer ? "_integer"
                                                                        : "_exact_float");
                         });

// ---- memory, top 1 ----
TEST(Engine, FreesRegistersAfterTheirLastReader) {
  ProgramMaker make(2, 64, 64);
  int x = make.conv(0, {.out = 16});
  for (int i = 0; i < 12; ++i) x = make.conv(x, {.out = 16, .kernel = 1, .padding = 0});
  const Program program = make.classifier(make.average_pool(x, 0, 127), 2);
  const size_t one_register = 64 * 64 * 16 * 2;
  const Tensor images = random_images(program, 2, 1);
  const size_t before = memory_stats().in_use;
  reset_memory_peak();
  make_engine("reference")->run(program, images);
  EXPECT_LT(memory_stats().peak - before, 5 * one_register);
  reset_memory_peak();
  make_engine("reference")->run(program, images, {.keep_codes = true});
  EXPECT_GT(memory_stats().peak - before, 12 * one_register);
}

TEST(Engine, NamesWhatItKnows) {
  try {
    make_engine("cuda-graph");
    FAIL();
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    EXPECT_TRUE(message.starts_with("unknown engine 'cuda-graph'; known: ")) << message;
    for (const char* name : {"onednn", "reference"})
      EXPECT_NE(message.find(name), std::string::npos) << message;
  }
}

TEST_P(EnginePair, AgreesOnSignedCodesAndOnPicturesOfAnySize) {
  for (const int64_t size : {4, 9, 30}) {
    ProgramMaker make(uint64_t(size), size, size + 3);
    const int a = make.conv(0, {.out = 16, .kernel = 7, .stride = 2, .padding = 3, .lo = -127});
    const int b = make.conv(a, {.out = 32, .lo = 0});
    const int c = make.conv(b, {.out = 32, .lo = -127, .residual = b});
    const Program program = make.classifier(make.average_pool(c, -127, 127), 4);
    for (const int64_t n : {1, 5}) expect_equal(program, random_images(program, n, 8));
  }
}

// The same weights, whose kernel was chosen for codes from 0, meet negative ones.
TEST(Engine, RunsACopyOfAProgramThatHasOtherRanges) {
  const auto engine = make_engine("onednn"), reference = make_engine("reference");
  for (const int64_t channels : {16, 64, 128})
    for (const int64_t size : {8, 28}) {
      ProgramMaker make(7, size, size);
      const int a = make.conv(0, {.out = channels, .lo = 0});
      const int b = make.conv(a, {.out = channels, .lo = 0});
      const Program program = make.classifier(make.average_pool(b, 0, 127), 4);
      Program copy = program;
      copy.instructions.at(size_t(a)).lo = -127;
      const Tensor images = random_images(program, 2, 3);
      for (const auto& one : {program, copy, program})
        EXPECT_TRUE(compare_codes(reference->run(one, images, {.keep_codes = true}),
                                  engine->run(one, images, {.keep_codes = true}))
                        .equal)
            << channels << " channels, " << size << " pixels";
    }
}

// An engine keeps the weights that it has made ready; they are those of the program it runs.
TEST(Engine, RunsProgramsAndBatchesOfAnySizeInTurns) {
  const Program first = small_resnet(3, {.channels = 16}),
                second = small_resnet(4, {.channels = 16});
  const auto engine = make_engine("onednn"), reference = make_engine("reference");
  for (const int64_t n : {3, 1, 4})
    for (const Program* program : {&first, &second}) {
      const Tensor images = random_images(*program, n, uint64_t(n));
      EXPECT_EQ(engine->run(*program, images).logits.to_vector<float>(),
                reference->run(*program, images).logits.to_vector<float>());
    }
}

TEST(Engine, CountsRowsWhoseFirstGreatestLogitIsTheLabel) {
  const Tensor logits = Tensor::of<float>({3, 3}, {1, 3, 2, 5, 5, 1, -1, -2, -3});
  EXPECT_EQ(count_top(logits, Tensor::of<int64_t>({3}, {1, 0, 0}), 1), 3);
  EXPECT_EQ(count_top(logits, Tensor::of<int64_t>({3}, {1, 1, 2}), 1), 1);
}

TEST(Engine, CountsRowsWhoseLabelIsAmongTheGreatestLogits) {
  const Tensor logits = Tensor::of<float>({3, 4}, {4, 3, 2, 1, 5, 5, 5, 5, -1, -1, 0, -2});
  const Tensor labels = Tensor::of<int64_t>({3}, {2, 1, 1});  // third, second, third
  for (const auto& [k, hits] : std::vector<std::pair<int64_t, int64_t>>{{1, 0}, {2, 1}, {3, 3}})
    EXPECT_EQ(count_top(logits, labels, k), hits) << k;
  const float nan = std::nanf("");
  const Tensor broken = Tensor::of<float>({2, 3}, {nan, 1, 0, 0, 1, nan});
  EXPECT_EQ(count_top(broken, Tensor::of<int64_t>({2}, {0, 2}), 3), 0) << "the label's is NaN";
  EXPECT_EQ(count_top(broken, Tensor::of<int64_t>({2}, {1, 1}), 1), 0) << "another one is";
}

TEST(Engine, RunLogitsUsesTheLibraryOfTheThread) {
  const Program program = small_resnet(9, {});
  const Tensor images = random_images(program, 2, 3);
  for (const char* name : {"onednn", "reference"}) {
    const UseLibrary use(library_by_name(name));
    const LibraryTrace trace;
    const Tensor logits = run_logits(program, images);
    ASSERT_FALSE(trace.calls().empty());
    const bool plain = name == std::string("reference");
    for (const LibraryCall& call : trace.calls()) EXPECT_EQ(call.library == "reference", plain);
    EXPECT_EQ(logits.to_vector<float>(),
              make_engine("onednn")->run(program, images).logits.to_vector<float>());
  }
}

TEST(Engine, OneDnnsEngineIsOneDnnsWhateverTheThreadUses) {
  const Program program = small_resnet(9, {});
  const UseLibrary use(library_by_name("reference"));
  const LibraryTrace trace;
  make_engine("onednn")->run(program, random_images(program, 1, 3));
  ASSERT_FALSE(trace.calls().empty());
  for (const LibraryCall& call : trace.calls()) EXPECT_NE(call.library, "reference");
}

}  // namespace
}  // namespace qt::test
