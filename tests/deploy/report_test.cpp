// tests/deploy/report_test.cpp -- the table names every layer and adds up.
#include "deploy/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/deploy/programs.h"

namespace qt::test {
namespace {

using testing::HasSubstr;

TEST(Report, CountsBitsOfCodeRanges) {
  EXPECT_EQ(bits_of(-127, 127), 8);
  EXPECT_EQ(bits_of(-128, 127), 8);
  EXPECT_EQ(bits_of(0, 127), 7);
  EXPECT_EQ(bits_of(0, 15), 4);
  EXPECT_EQ(bits_of(-8, 7), 4);
  EXPECT_EQ(bits_of(-7, 7), 4);
  EXPECT_EQ(bits_of(-1, 1), 2);
  EXPECT_EQ(bits_of(0, 3), 2);
}

TEST(Report, CountsTheMultiplicationsOfGroups) {
  ProgramMaker make(1, 8, 8);
  const int wide = make.conv(0, {.out = 6, .lo = 0, .hi = 15});
  const int grouped = make.conv(wide, {.out = 4, .groups = 2, .lo = 0, .hi = 15});
  const Program program = make.classifier(make.average_pool(grouped, 0, 127), 3);
  EXPECT_EQ(multiplications(program.instructions[1]), 8 * 8 * 6 * (9 * 3));
  EXPECT_EQ(multiplications(program.instructions[2]), 8 * 8 * 4 * (9 * 3));
  EXPECT_EQ(multiplications(program.instructions[3]), 0);
  EXPECT_EQ(multiplications(program.instructions[4]), 3 * 4);
}

TEST(Report, ShowsEveryLayerAndTheTotals) {
  ProgramMaker make(1, 8, 8);
  const int a =
      make.conv(0, {.out = 4, .stride = 2, .weight_lo = -7, .weight_hi = 7, .lo = 0, .hi = 15});
  const int b = make.conv(a, {.out = 4, .lo = 0, .hi = 15, .residual = a});
  const Program program = make.classifier(make.average_pool(b, 0, 127), 3);
  const std::string text = inspect(program);
  for (const Instruction& at : program.instructions) EXPECT_THAT(text, HasSubstr(at.name)) << text;
  // 4 * 27 weights of 4 bits, 4 * 36 and 3 * 4 of 8.
  const int64_t macs = 4 * 4 * 4 * 27 + 4 * 4 * 4 * 36 + 12, bytes = 54 + 144 + 12;
  EXPECT_THAT(text,
              HasSubstr("total: " + std::to_string(macs) + " multiply-accumulates an image, " +
                        std::to_string(bytes) + " bytes of packed weights"))
      << text;
  EXPECT_THAT(text, HasSubstr("conv 3x3 /2 pad 1"));
  EXPECT_THAT(text, HasSubstr("-7..7"));
  EXPECT_THAT(text, HasSubstr("conv1 + conv1"));
  // The picture and the first layer's codes; later ones are smaller.
  EXPECT_THAT(text, HasSubstr("held at once: " + std::to_string(8 * 8 * 3 + 4 * 4 * 4) + " codes"));
  EXPECT_THAT(text, HasSubstr("classes: 3 (class 0, class 1, class 2)"));
  EXPECT_THAT(text, HasSubstr("top1: 92.5"));
}

TEST(Report, ANameCannotWriteLinesOrColours) {
  ProgramMaker make(1, 8, 8);
  Program program = make.classifier(make.average_pool(make.conv(0, {.out = 4}), 0, 127), 2);
  program.class_names = {"\x1b[31mred", "two\nlines"};
  const std::string text = inspect(program);
  EXPECT_THAT(text, HasSubstr("classes: 2 (?[31mred, two?lines)"));
}

}  // namespace
}  // namespace qt::test
