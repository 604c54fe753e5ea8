// tests/deploy/programs_test.cpp -- the program maker of programs.h, and that what it makes is fit
// for tests.
#include "tests/deploy/programs.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <set>

#include "deploy/engine.h"
#include "deploy/validate.h"

namespace qt::test {

ProgramMaker::ProgramMaker(uint64_t seed, int64_t height, int64_t width) : random_(seed) {
  program_.preprocessing = {height, width, 0, {0.5, 0.25, 0.125}, {0.25, 0.3, 0.1}};
  Tensor table = Tensor::empty({3, 256}, DType::i8);
  for (int64_t i = 0; i < table.elements(); ++i)
    table.data<int8_t>()[i] = int8_t(std::min<int64_t>(i % 256 - 128 + i / 256, 127));
  for (int64_t c = 0; c < 3; ++c) table.data<int8_t>()[c * 256] = -127;
  append("image", {}, ImageTable{table}, {height, width, 3}).lo = -127;
  program_.instructions[0].hi = 127;
  program_.instructions[0].step = 0.02f;
}

Instruction& ProgramMaker::append(const std::string& kind, std::vector<int> inputs,
                                  Operation operation, const Shape& output) {
  const std::string name = kind + std::to_string(program_.instructions.size());
  program_.instructions.push_back({name, std::move(inputs), std::move(operation), output, 0, 0, 0});
  return program_.instructions.back();
}

float ProgramMaker::uniform(float from, float to) {
  return std::uniform_real_distribution<float>(from, to)(random_);
}

Tensor ProgramMaker::weights(const Shape& shape, int lo, int hi, bool extreme) {
  Tensor codes = Tensor::empty(shape, DType::i8);
  std::uniform_int_distribution<int> any(lo, hi);
  for (int64_t i = 0; i < codes.elements(); ++i)
    codes.data<int8_t>()[i] = int8_t(extreme ? (uniform(0, 1) < 0.97f ? hi : lo) : any(random_));
  Tensor step = Tensor::empty({shape[0]}, DType::f32);
  for (int64_t k = 0; k < shape[0]; ++k) step.data<float>()[k] = uniform(0.001f, 0.01f);
  return codes.with_scale(step, lo, hi);
}

int ProgramMaker::conv(int x, const ConvChoice& choice) {
  const Instruction input = program_.instructions.at(size_t(x));
  Conv op;
  op.shape = {.n = 0,
              .h = input.output[0],
              .w = input.output[1],
              .c = input.output[2],
              .k = choice.out,
              .r = choice.kernel,
              .s = choice.kernel,
              .stride = choice.stride,
              .padding = choice.padding,
              .dilation = choice.dilation,
              .groups = choice.groups};
  op.codes = weights(op.shape.w_shape(), choice.weight_lo, choice.weight_hi, choice.extreme);
  op.m = Tensor::empty({choice.out}, DType::f32);
  op.b = Tensor::empty({choice.out}, DType::f32);
  const int64_t products = op.codes.elements() / choice.out;
  const double terms = choice.extreme ? double(products) : std::sqrt(double(products)) / 3;
  const double spread = terms * choice.weight_hi * input.hi;
  for (int64_t k = 0; k < choice.out; ++k) {
    const float sign = k % 3 == 1 ? -1.0f : 1.0f;  // gamma < 0
    op.m.data<float>()[k] = sign * choice.gain * uniform(0.5f, 1.5f) * float(choice.hi / spread);
    op.b.data<float>()[k] = uniform(-0.3f, 0.3f) * float(spread);
    if (k != 2) continue;  // gamma = 0
    op.m.data<float>()[k] = 1;
    op.b.data<float>()[k] = uniform(-1, 1) * float(choice.hi);
    std::fill_n(op.codes.data<int8_t>() + k * products, products, int8_t(0));
  }
  const Shape y{op.shape.out_h(), op.shape.out_w(), op.shape.k};
  std::vector<int> inputs{x};
  if (choice.residual >= 0) {
    inputs.push_back(choice.residual);
    op.residual_ratio = float(std::ldexp(std::rint(std::ldexp(uniform(0.5f, 1), 16)), -16));
  }
  Instruction& at = append("conv", inputs, std::move(op), y);
  at.lo = choice.lo;
  at.hi = choice.hi;
  at.step = uniform(0.01f, 0.1f);
  return int(program_.instructions.size()) - 1;
}

int ProgramMaker::add(int a, int b, int lo, int hi) {
  const float r = float(std::ldexp(std::rint(std::ldexp(uniform(0.5f, 1), 16)), -16));
  Instruction& at = append("add", {a, b}, Add{uniform(0.3f, 1.2f), r},
                           program_.instructions.at(size_t(a)).output);
  at.lo = lo;
  at.hi = hi;
  at.step = uniform(0.01f, 0.1f);
  return int(program_.instructions.size()) - 1;
}

int ProgramMaker::max_pool(int x, int64_t kernel, int64_t stride, int64_t padding) {
  const Instruction input = program_.instructions.at(size_t(x));
  const auto extent = [&](int64_t e) { return (e + 2 * padding - kernel) / stride + 1; };
  Instruction& at = append("pool", {x}, MaxPoolCodes{kernel, stride, padding},
                           {extent(input.output[0]), extent(input.output[1]), input.output[2]});
  at.lo = input.lo;
  at.hi = input.hi;
  at.step = input.step;
  return int(program_.instructions.size()) - 1;
}

int ProgramMaker::average_pool(int x, int lo, int hi) {
  const Instruction input = program_.instructions.at(size_t(x));
  const float pixels = float(input.output[0] * input.output[1]);
  Instruction& at = append("avgpool", {x}, AveragePoolCodes{uniform(1.0f, 2.0f) / pixels},
                           {1, 1, input.output[2]});
  at.lo = lo;
  at.hi = hi;
  at.step = uniform(0.01f, 0.1f);
  return int(program_.instructions.size()) - 1;
}

int ProgramMaker::flatten(int x) {
  const Instruction input = program_.instructions.at(size_t(x));
  Instruction& at = append("flatten", {x}, FlattenCodes{}, {1, 1, input.output.elements()});
  at.lo = input.lo;
  at.hi = input.hi;
  at.step = input.step;
  return int(program_.instructions.size()) - 1;
}

Program ProgramMaker::classifier(int x, int64_t classes) {
  Classifier op;
  op.codes = weights({classes, program_.instructions.at(size_t(x)).output[2]}, -127, 127, false);
  op.m = Tensor::empty({classes}, DType::f32);
  op.bias = Tensor::empty({classes}, DType::f32);
  for (int64_t k = 0; k < classes; ++k) {
    op.m.data<float>()[k] = uniform(0.0001f, 0.001f);
    op.bias.data<float>()[k] = uniform(-1, 1);
  }
  append("fc", {x}, std::move(op), {1, 1, classes});
  for (int64_t k = 0; k < classes; ++k)
    program_.class_names.push_back("class " + std::to_string(k));
  program_.notes = {{"top1", "92.5"}, {"config", "a \"quoted\" name"}};
  return program_;
}

Program small_resnet(uint64_t seed, const Widths& widths) {
  const int w_hi = (1 << (widths.weight_bits - 1)) - 1,
            a_hi = widths.activation_bits == 8 ? 127 : (1 << widths.activation_bits) - 1;
  const int w_lo = widths.full_range ? -w_hi - 1 : -w_hi,
            s_hi = (1 << (widths.activation_bits - 1)) - 1;
  ProgramMaker make(seed, 13, 11);
  ProgramMaker::ConvChoice body{
      .out = widths.channels, .weight_lo = w_lo, .weight_hi = w_hi, .lo = 0, .hi = a_hi};
  ProgramMaker::ConvChoice stem = body;
  stem.weight_lo = -127, stem.weight_hi = 127;
  const int stem_at = make.conv(0, stem);
  const int pooled = make.max_pool(stem_at, 3, 2, 1);
  const int first = make.conv(pooled, body);
  body.residual = pooled;
  const int second = make.conv(first, body);
  ProgramMaker::ConvChoice down = body;
  down.residual = -1, down.stride = 2;
  down.out = widths.channels % 16 == 0 ? 2 * widths.channels : widths.channels + 2;
  const int third = make.conv(second, down);
  ProgramMaker::ConvChoice skip = down;
  skip.kernel = 1, skip.padding = 0, skip.lo = -s_hi, skip.hi = s_hi;
  const int branch = make.conv(second, skip);
  ProgramMaker::ConvChoice last = down;
  last.stride = 1, last.residual = branch, last.dilation = 2, last.padding = 2;
  const int fourth = make.conv(third, last);
  const int sum = make.add(fourth, branch, 0, a_hi);
  ProgramMaker::ConvChoice odd = last;
  odd.residual = -1, odd.gain = 6;
  const int saturated = make.conv(sum, odd);
  const int mean = make.average_pool(saturated, 0, 127);
  return make.classifier(mean, 7);
}

Tensor random_images(const Program& program, int64_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  Tensor images =
      Tensor::empty({n, program.preprocessing.height, program.preprocessing.width, 3}, DType::u8);
  for (int64_t i = 0; i < images.elements(); ++i)
    images.data<uint8_t>()[i] = uint8_t(i < 256 ? i : int64_t(random() & 255));
  return images;
}

TemporaryFolder::TemporaryFolder() {
  static int number = 0;
  path_ = std::filesystem::temp_directory_path() /
          ("qattrain-deploy-" + std::to_string(getpid()) + "-" + std::to_string(number++));
  std::filesystem::create_directories(path_);
}
TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

namespace {

// Tests that compare engines prove little where nearly all codes are equal.
TEST(ProgramMaker, MakesCodesThatSpreadAndSaturate) {
  const Program program = small_resnet(3, {});
  validate(program, "test");
  const EngineResult result =
      make_engine("reference")->run(program, random_images(program, 2, 1), {.keep_codes = true});
  ASSERT_EQ(result.codes.size(), program.instructions.size() - 1);
  for (size_t i = 0; i < result.codes.size(); ++i) {
    const std::vector<int8_t> codes = result.codes[i].second.to_vector<int8_t>();
    const std::set<int8_t> different(codes.begin(), codes.end());
    EXPECT_GE(different.size(), 5u) << result.codes[i].first;
    EXPECT_TRUE(program.instructions[i].lo < 0 || i == 11 || different.contains(0))
        << result.codes[i].first;
  }
  const std::vector<int8_t> saturated = result.codes[9].second.to_vector<int8_t>();
  EXPECT_GT(std::count(saturated.begin(), saturated.end(), int8_t(127)),
            int64_t(saturated.size() / 5));
}

}  // namespace
}  // namespace qt::test
