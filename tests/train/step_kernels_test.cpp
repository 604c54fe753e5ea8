// tests/train/step_kernels_test.cpp -- verdicts, choices and notes of a step.
#include "train/step_kernels.h"

#include <gtest/gtest.h>

#include <cmath>

#include "deploy/engine.h"

namespace qt {
namespace {

Tensor of(const std::vector<float>& values) {
  return Tensor::of<float>({int64_t(values.size())}, values);
}
float number(const Tensor& x) { return x.to_vector<float>().at(0); }

TEST(FirstBad, IsZeroWhereAllAreFiniteAndPositiveWhereTheyMustBe) {
  EXPECT_EQ(number(first_bad({})), 0);
  EXPECT_EQ(number(first_bad({{"a", of({1, -2})}, {"b", of({3}), true}})), 0);
}

TEST(FirstBad, NumbersTheFirstThatIsNot) {
  EXPECT_EQ(number(first_bad({{"a", of({1})}, {"b", of({1, NAN})}, {"c", of({INFINITY})}})), 2);
  EXPECT_EQ(number(first_bad({{"a", of({1})}, {"b", of({1})}, {"c", of({-INFINITY})}})), 3);
  for (const float step : {0.0f, -1.0f, NAN, INFINITY})
    EXPECT_EQ(number(first_bad({{"a", of({1})}, {"step", of({1, step}), true}})), 2) << step;
}

TEST(FirstBad, LooksAtEveryElementOfALargeTensor) {
  Tensor large = Tensor::full({300, 40}, 1);
  EXPECT_EQ(number(first_bad({{"large", large}})), 0);
  for (const int64_t at : {0, 6000, 11999}) {
    Tensor bad = large.clone();
    bad.data<float>()[at] = NAN;
    EXPECT_EQ(number(first_bad({{"large", bad}})), 1) << at;
  }
}

TEST(KeepIfGood, TakesTheNewOneOrLeavesTheOld) {
  const Tensor fresh = of({1, 2}), kept = of({3, 4});
  replace_if_good(of({2}), {{fresh, kept}});
  EXPECT_EQ(kept.to_vector<float>(), (std::vector<float>{3, 4}));
  replace_if_good(of({0}), {{fresh, kept}});
  EXPECT_EQ(kept.to_vector<float>(), (std::vector<float>{1, 2}));
  EXPECT_THROW(replace_if_good(of({0}), {{of({1}), kept}}), InternalError);
}

TEST(Hits, AreThoseOfCountTop) {
  const Tensor logits =
      Tensor::of<float>({5, 3}, {1, 2, 3, 5, 5, 1, -1, -2, -3, 0, 0, 0, NAN, 1, 2});
  for (int64_t label = 0; label < 3; ++label) {
    const Tensor labels = Tensor::of<int64_t>({5}, std::vector<int64_t>(5, label));
    const Tensor four = Tensor::of<float>({4, 3}, {1, 2, 3, 5, 5, 1, -1, -2, -3, 0, 0, 0});
    const Tensor their_labels = Tensor::of<int64_t>({4}, std::vector<int64_t>(4, label));
    EXPECT_EQ(number(hits(four, their_labels)), float(count_top(four, their_labels, 1))) << label;
    EXPECT_LE(number(hits(logits, labels)), 5);
  }
}

TEST(Notes, GoToTheirPosition) {
  Tensor row = Tensor::zeros({4}, DType::f32), position = Tensor::zeros({1}, DType::i32);
  for (const float value : {5.0f, 6.0f}) {
    note_at(row, position, of({value}));
    advance(position);
  }
  EXPECT_EQ(row.to_vector<float>(), (std::vector<float>{5, 6, 0, 0}));
  EXPECT_EQ(position.to_vector<int32_t>(), std::vector<int32_t>{2});
}

}  // namespace
}  // namespace qt
