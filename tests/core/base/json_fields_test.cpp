// tests/core/base/json_fields_test.cpp -- what a JSON object of a file is refused for.
#include "core/base/json_fields.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/core/base/temporary_folder.h"

namespace qt {
namespace {

template <class Ask>
std::string refusal(const std::string& text, Ask ask) {
  const auto json = JsonFields::Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return test::message_of<CheckpointError>([&] {
    JsonFields fields(json, "a.json");
    ask(fields);
  });
}

TEST(JsonFields, GiveWhatTheObjectHolds) {
  const auto json = JsonFields::Json::parse(
      R"({"i": -3, "n": 2, "b": true, "t": "x", "l": [1, 2], "d": [1, 2.5, 3], "s": ["a"],
          "m": {"k": "v"}})");
  JsonFields fields(json, "a.json");
  EXPECT_EQ(fields.integer("i"), -3);
  EXPECT_EQ(fields.number("n"), 2);
  EXPECT_TRUE(fields.boolean("b"));
  EXPECT_EQ(fields.text("t"), "x");
  EXPECT_EQ(fields.integers("l", 2), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(fields.three_numbers("d"), (std::array<double, 3>{1, 2.5, 3}));
  EXPECT_EQ(fields.texts("s"), std::vector<std::string>{"a"});
  EXPECT_EQ(fields.texts_by_name("m").at("k"), "v");
  EXPECT_FALSE(fields.has("q"));
  EXPECT_NO_THROW(fields.no_others());
}

TEST(JsonFields, NameKeyAndValueOfWhatDoesNotFit) {
  const auto all = [](JsonFields&) {};
  EXPECT_EQ(refusal("[1]", all), "a.json is not a JSON object");
  EXPECT_EQ(refusal("{", all), "a.json is not a JSON object");
  EXPECT_EQ(refusal("{}", [](JsonFields& f) { f.get("k"); }), "a.json has no 'k'");
  EXPECT_EQ(refusal(R"({"k": 1})", [](JsonFields& f) { f.no_others(); }),
            "a.json has the unknown key 'k'");
  const auto integer = [](JsonFields& f) { f.integer("k", 0, 9); };
  for (const char* wrong : {"-1", "10", "1.5", "18446744073709551615", "\"3\"", "null"})
    EXPECT_EQ(refusal(std::string("{\"k\": ") + wrong + "}", integer),
              std::string("a.json has 'k' ") + wrong + ", wanted an integer from 0 to 9");
  for (const char* wrong : {"{}", "[1, 2, 3]", "[1, 2.5]", "[1, 18446744073709551615]"})
    EXPECT_NE(
        refusal(std::string("{\"k\": ") + wrong + "}", [](JsonFields& f) { f.integers("k", 2); })
            .find("wanted a list of at most 2 integers"),
        std::string::npos)
        << wrong;
  EXPECT_NE(refusal(R"({"k": {"a": 1}})", [](JsonFields& f) { f.texts_by_name("k"); }), "");
  EXPECT_NE(refusal(R"({"k": ["a", 1]})", [](JsonFields& f) { f.texts("k"); }), "");
  EXPECT_NE(refusal(R"({"k": [1, 2]})", [](JsonFields& f) { f.three_numbers("k"); }), "");
}

}  // namespace
}  // namespace qt
