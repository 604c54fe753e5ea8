// tests/core/base/text_test.cpp -- what is text and what is shown of it.
#include "core/base/text.h"

#include <gtest/gtest.h>

namespace qt {
namespace {

TEST(Text, OneLineKeepsTextAndShowsQuestionMarksForTheRest) {
  for (const char* text : {"", "plain", "caf\xc3\xa9", "\xe6\xbc\xa2", "\xf0\x9f\x90\x9d"})
    EXPECT_EQ(one_line(text), text);
  EXPECT_EQ(one_line("a\nb\tc\x7f"), "a?b?c?");
  EXPECT_EQ(one_line("caf\xe9!"), "caf?!");
  EXPECT_EQ(one_line("\xe6\xbc"), "??") << "cut off";
  EXPECT_EQ(one_line("\xc0\xaf\xed\xa0\x80"), "?????") << "overlong, surrogate";
  EXPECT_EQ(one_line(std::string_view("\0x", 2)), "?x");
}

}  // namespace
}  // namespace qt
