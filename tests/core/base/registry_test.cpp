// tests/core/base/registry_test.cpp -- registries make things by name and name the candidates.
#include "core/base/registry.h"

#include <gtest/gtest.h>

namespace qt {
namespace {

struct Shape {
  explicit Shape(int corners) : corners(corners) {}
  int corners;
};
using Shapes = Registry<Shape, int>;

const Shapes::Add add_square{"square",
                             [](int extra) { return std::make_unique<Shape>(4 + extra); }};
const Shapes::Add add_circle{"circle", [](int extra) { return std::make_unique<Shape>(extra); }};

TEST(Registry, MakesByNameFromItsArguments) {
  EXPECT_EQ(Shapes::make("shape", "square", 1)->corners, 5);
  EXPECT_EQ(Shapes::make("shape", "circle", 1)->corners, 1);
}

TEST(Registry, ListsItsNamesSorted) {
  EXPECT_EQ(Shapes::names(), (std::vector<std::string>{"circle", "square"}));
}

TEST(Registry, NamesTheCandidatesOfAnUnknownName) {
  try {
    Shapes::make("shape", "sqare", 0);
    FAIL() << "made a 'sqare'";
  } catch (const ConfigError& e) {
    EXPECT_STREQ(e.what(), "unknown shape 'sqare'; known: circle, square");
    EXPECT_EQ(e.code(), ExitCode::usage);
  }
}

TEST(Registry, RefusesASecondThingOfTheSameName) {
  const auto again = [] {
    const Shapes::Add add{"square", [](int) { return std::make_unique<Shape>(0); }};
  };
  EXPECT_THROW(again(), InternalError);
  EXPECT_EQ(Shapes::make("shape", "square", 0)->corners, 4);
}

// Two registries of different things do not see each other's names.
TEST(Registry, IsKeptApartByTypes) { EXPECT_TRUE((Registry<Shape, double>::names().empty())); }

}  // namespace
}  // namespace qt
