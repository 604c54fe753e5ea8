// tests/deploy/compare_test.cpp -- a planted difference is found, named and counted.
#include "deploy/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/deploy/programs.h"

namespace qt::test {
namespace {

using testing::HasSubstr;

class CompareCodes : public testing::Test {
 protected:
  const Program program_ = small_resnet(21, {});
  const Tensor images_ = random_images(program_, 2, 7);
  EngineResult run(const Program& program, const char* engine = "reference") const {
    return make_engine(engine)->run(program, images_, {.keep_codes = true});
  }
};

TEST_F(CompareCodes, CountsEqualElements) {
  const CodeDifference difference = compare_codes(run(program_), run(program_, "onednn"));
  int64_t elements = 0;
  for (const Instruction& at : program_.instructions) elements += 2 * at.output.elements();
  EXPECT_TRUE(difference.equal);
  EXPECT_EQ(difference.compared, elements);
  EXPECT_EQ(difference.differing, 0);
}

TEST_F(CompareCodes, NamesLayerAndElementOfAnOffByOneCode) {
  EngineResult other = run(program_);
  int8_t& code = other.codes.at(5).second.data<int8_t>()[17];
  ++code;
  const CodeDifference difference = compare_codes(run(program_), other);
  EXPECT_FALSE(difference.equal);
  EXPECT_EQ(difference.layer, program_.instructions[5].name);
  EXPECT_EQ(difference.element, 17);
  EXPECT_EQ(difference.b - difference.a, 1);
  EXPECT_EQ(difference.differing, 1);
  EXPECT_THAT(difference.text(),
              HasSubstr(program_.instructions[5].name + " differs first at element 17"));
}

// One weight code off by one, anywhere: at 2 bits it always moves some code of its layer.
TEST_F(CompareCodes, FindsOneWeightCodeThatIsOffByOneInAnyConvolution) {
  const Program low_bit = small_resnet(22, {2, 8, false, 5});
  for (size_t i = 2; i < low_bit.instructions.size(); ++i) {
    Program changed = low_bit;
    auto* conv = std::get_if<Conv>(&changed.instructions[i].operation);
    if (!conv) continue;
    conv->codes = conv->codes.clone();
    int8_t& code =
        conv->codes
            .data<int8_t>()[conv->shape.r * conv->shape.s / 2 * conv->shape.c];  // the middle tap
    code = int8_t(code > 0 ? code - 1 : code + 1);
    const CodeDifference difference = compare_codes(run(low_bit), run(changed, "onednn"));
    EXPECT_FALSE(difference.equal) << changed.instructions[i].name;
    EXPECT_EQ(difference.layer, changed.instructions[i].name);
    EXPECT_GT(difference.differing, 0);
  }
}

TEST_F(CompareCodes, ComparesLogitsBitForBit) {
  EngineResult other = run(program_);
  other.logits = other.logits.clone();
  float& logit = other.logits.data<float>()[3];
  logit = std::nextafterf(logit, 1e9f);
  const CodeDifference difference = compare_codes(run(program_), other);
  EXPECT_FALSE(difference.equal);
  EXPECT_EQ(difference.layer, "logits");
  EXPECT_EQ(difference.element, 3);
}

TEST_F(CompareCodes, DoesNotPassResultsWithoutCodesOrWithMissingLayers) {
  const EngineResult without = make_engine("reference")->run(program_, images_);
  EXPECT_FALSE(compare_codes(without, without).equal);
  EngineResult shorter = run(program_);
  shorter.codes.erase(shorter.codes.begin() + 4);
  EXPECT_EQ(compare_codes(run(program_), shorter).layer, program_.instructions[4].name);
  EXPECT_EQ(compare_codes(shorter, run(program_)).layer, program_.instructions[4].name);
  EngineResult reshaped = run(program_);
  reshaped.codes[2].second = Tensor::zeros({1, 1}, DType::i8);
  EXPECT_EQ(compare_codes(run(program_), reshaped).element, -1);
}

}  // namespace
}  // namespace qt::test
