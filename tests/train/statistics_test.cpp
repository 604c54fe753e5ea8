// tests/train/statistics_test.cpp -- what TensorBoard is told of each layer, and from which
// pictures.
#include "train/statistics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "tests/core/base/temporary_folder.h"
#include "tests/layers/training_pass.h"

namespace qt {
namespace {

TEST(LayerStatistics, CountClippedValuesAndUsedCodes) {
  const Tensor real = Tensor::of(Shape{8}, std::vector<float>{-9, -3, -1, 0, 0.9f, 1, 3, 100});
  const Tensor codes = Tensor::of(Shape{8}, std::vector<int8_t>{-3, -3, -1, 0, 1, 1, 3, 3})
                           .with_scale(Tensor::full({1}, 1.0f), -3, 3);
  const LayerStatistics s = statistics_of("x", real, codes);
  EXPECT_DOUBLE_EQ(s.clipped, 2.0 / 8);
  EXPECT_EQ(s.codes_used, 5);
  EXPECT_EQ(s.codes_possible, 7);
  EXPECT_DOUBLE_EQ(s.step, 1);
  double count = 0;
  for (double c : s.histogram.count) count += c;
  EXPECT_EQ(count, 8);
  EXPECT_EQ(s.histogram.left.front(), -9);
  EXPECT_NEAR(s.histogram.right.back(), 100, 1e-9);
}

// As a network leaves them whose learning rate is far too high.
TEST(LayerStatistics, LeaveOutWhatIsNotFinite) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const auto of = [](const std::vector<float>& real, const std::vector<int8_t>& codes) {
    const Shape shape{int64_t(real.size())};
    return statistics_of("x", Tensor::of(shape, real),
                         Tensor::of(shape, codes).with_scale(Tensor::full({1}, 1.0f), -3, 3));
  };
  const LayerStatistics some = of({-inf, nan, -1.25f, 2, 3e38f, inf}, {-3, -3, -1, 2, 3, 3});
  double count = 0;
  for (double c : some.histogram.count) count += c;
  EXPECT_EQ(count, 3);
  EXPECT_EQ(some.histogram.left.front(), -1.25);
  EXPECT_DOUBLE_EQ(some.clipped, 3.0 / 6);
  EXPECT_NEAR(of({inf, -1.25f, nan, 2}, {3, -1, -3, 2}).sqnr,
              10 * std::log10((1.25 * 1.25 + 4) / 0.0625), 1e-9);
  const LayerStatistics none = of({inf, nan}, {3, -3});
  EXPECT_TRUE(none.histogram.count.empty());
  EXPECT_EQ(none.sqnr, 0);
}

// What rounds to the outermost code is within its half step, not clipped.
TEST(LayerStatistics, ClippingBeginsHalfAStepBeyondTheOutermostCodes) {
  const auto clipped = [](float value, int8_t code) {
    const Tensor real = Tensor::full({1}, value);
    const Tensor codes =
        Tensor::of(Shape{1}, std::vector<int8_t>{code}).with_scale(Tensor::full({1}, 2.0f), -3, 3);
    return statistics_of("x", real, codes).clipped;
  };
  EXPECT_EQ(clipped(2 * 3.4f, 3), 0);
  EXPECT_EQ(clipped(2 * 3.6f, 3), 1);
  EXPECT_EQ(clipped(2 * -3.4f, -3), 0);
  EXPECT_EQ(clipped(2 * -3.6f, -3), 1);
}

TEST(LayerStatistics, UsesEachChannelsStepAndForgivesRelu) {
  const Tensor weights = Tensor::of(Shape{2, 2}, std::vector<float>{1, 2, 10, 20});
  const Tensor steps = Tensor::of(Shape{2}, std::vector<float>{1, 10});
  const Tensor codes =
      Tensor::of(Shape{2, 2}, std::vector<int8_t>{1, 2, 1, 2}).with_scale(steps, -2, 1 + 1);
  EXPECT_EQ(statistics_of("w", weights, codes).clipped, 0);
  EXPECT_DOUBLE_EQ(statistics_of("w", weights, codes).step, 5.5);
  const Tensor real = Tensor::of(Shape{4}, std::vector<float>{-5, -6, 1.25f, 2});
  const Tensor positive =
      Tensor::of(Shape{4}, std::vector<int8_t>{0, 0, 1, 2}).with_scale(Tensor::full({1}, 1), 0, 2);
  const LayerStatistics s = statistics_of("a", real, positive);
  EXPECT_EQ(s.clipped, 0);
  EXPECT_NEAR(s.sqnr, 10 * std::log10((1.25 * 1.25 + 4) / 0.0625), 1e-9);
}

// Pictures of one pixel whose value is their number, as of a folder whose classes stand in a row.
class Numbers : public MemoryDataset {
 public:
  explicit Numbers(int count) {
    set_extents(1, 1);
    for (int i = 0; i < count; ++i) {
      pixels_.insert(pixels_.end(), 3, uint8_t(i));
      labels_.push_back(0);
    }
  }
  std::string name(int64_t index) const override { return std::to_string(index); }
};

std::vector<int> numbers_of(const Tensor& pictures) {
  std::vector<int> numbers;
  for (int64_t i = 0; i < pictures.dim(0); ++i) numbers.push_back(pictures.data<uint8_t>()[3 * i]);
  return numbers;
}

TEST(LayerStatistics, LookAtPicturesFromAllOverTheSet) {
  EXPECT_EQ(numbers_of(pictures_over(Numbers(200), 8)),
            (std::vector<int>{0, 25, 50, 75, 100, 125, 150, 175}));
  EXPECT_EQ(numbers_of(pictures_over(Numbers(11), 4)), (std::vector<int>{0, 2, 5, 8}));
  EXPECT_EQ(numbers_of(pictures_over(Numbers(3), 8)), (std::vector<int>{0, 1, 2}));
}

// Every quantizer that has a step shows what it makes codes of.
TEST(LayerStatistics, HoldEveryQuantizerOfTheNetwork) {
  for (const ResidualPolicy policy :
       {ResidualPolicy::identity, ResidualPolicy::both, ResidualPolicy::none}) {
    ModelSpec spec;
    spec.name = "resnet20";
    spec.image_size = 8;
    spec.quant.weights.per_channel = true;
    spec.quant.residual = policy;
    const auto model = calibrated(spec);
    std::set<std::string> quantizers, seen;
    Visitor visitor;
    visitor.quantizer = [&](const std::string& name, Quantizer& quantizer) {
      if (quantizer.step()) quantizers.insert(name);
    };
    model->visit(visitor);
    for (const LayerStatistics& s : layer_statistics(*model, pictures(8), ForwardMode::int8)) {
      const bool weights = s.name.ends_with(".weight");
      EXPECT_TRUE(seen.insert(s.name + (weights ? "_quant" : ".act_quant")).second) << s.name;
      EXPECT_GT(s.step, 0) << s.name;
      EXPECT_GT(s.codes_used, 1) << s.name;
      EXPECT_LE(s.codes_used, s.codes_possible) << s.name;
      EXPECT_GT(s.sqnr, 10) << s.name;
      EXPECT_FALSE(s.histogram.count.empty()) << s.name;
    }
    EXPECT_EQ(seen, quantizers);
  }
}

TEST(LayerStatistics, AreALineOfMetricsAndHistogramsForTensorBoard) {
  const test::TemporaryFolder run;
  MetricsLog metrics(run.path());
  write_statistics(metrics, 7, 2, {});
  write_statistics(metrics, 8, 2,
                   {{.name = "conv1",
                     .step = 0.5,
                     .clipped = 0.25,
                     .codes_used = 3,
                     .sqnr = 20,
                     .histogram = {{0}, {1}, {4}}}});
  EXPECT_EQ(test::slurp(run / "metrics.jsonl"),
            "{\"step\":8,\"epoch\":2,\"quant/step/conv1\":0.5,\"quant/clipped/conv1\":0.25,"
            "\"quant/codes_used/conv1\":3.0,\"quant/sqnr_db/conv1\":20.0}\n");
  EXPECT_NE(test::slurp(metrics.events().path()).find("values/conv1"), std::string::npos);
}

}  // namespace
}  // namespace qt
