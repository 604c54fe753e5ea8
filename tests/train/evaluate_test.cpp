// tests/train/evaluate_test.cpp -- accuracy and loss over all pictures, or over those asked for.
#include "train/evaluate.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <thread>

namespace qt {
namespace {

class ColourSet : public MemoryDataset {
 public:
  explicit ColourSet(int64_t count) {
    set_extents(2, 2);
    classes_ = {"a", "b", "c"};
    for (int64_t i = 0; i < count; ++i) {
      labels_.push_back(int32_t(i * i % 3));
      pixels_.insert(pixels_.end(), picture_bytes(), uint8_t(i));
    }
  }
  std::string name(int64_t index) const override { return std::to_string(index); }
};

// Picture i speaks for class i % 3.
Tensor logits_by_colour(const Tensor& images) {
  const int64_t n = images.dim(0);
  Tensor logits = Tensor::zeros({n, 3}, DType::f32);
  for (int64_t i = 0; i < n; ++i)
    logits.data<float>()[i * 3 + images.data<uint8_t>()[i * 12] % 3] = 1;
  return logits;
}

TEST(Evaluate, CountsLossAndTopOneOverAllPicturesInOrder) {
  const auto set = std::make_shared<ColourSet>(10);
  double right = std::log(std::exp(1.0) + 2) - 1, wrong = std::log(std::exp(1.0) + 2);
  for (int64_t batch : {1, 4, 10, 64}) {
    Predictions predictions;
    const Evaluation e =
        evaluate(set, logits_by_colour, {.loader = {.batch = batch}, .predictions = &predictions});
    EXPECT_EQ(e.images, 10);
    // i % 3 == i * i % 3 for 0, 1, 3, 4, 6, 7, 9.
    EXPECT_DOUBLE_EQ(e.top1, 70);
    EXPECT_NEAR(e.loss, (7 * right + 3 * wrong) / 10, 1e-12);
    ASSERT_EQ(predictions.labels.size(), 10u);
    for (int64_t i = 0; i < 10; ++i) EXPECT_EQ(predictions.labels[size_t(i)], i * i % 3);
    EXPECT_EQ(predictions.tensors()[0].second.shape(), (Shape{10, 3}));
  }
}

TEST(Evaluate, LogitsOfOtherClassesAreRefused) {
  const auto two = [](const Tensor& images) {
    return Tensor::zeros({images.dim(0), 2}, DType::f32);
  };
  EXPECT_THROW(evaluate(std::make_shared<ColourSet>(10), two, {.loader = {.batch = 5}}),
               InternalError);
}

TEST(Evaluate, TheLimitHoldsWithinABatch) {
  const auto set = std::make_shared<ColourSet>(10);
  const Evaluation e = evaluate(set, logits_by_colour, {.loader = {.batch = 4}, .limit = 6});
  EXPECT_EQ(e.images, 6);
  EXPECT_NEAR(e.top1, 100.0 * 4 / 6, 1e-12);
}

// Picture i is of class i; the logits of its class are the i-th greatest.
TEST(Evaluate, CountsTheFiveGreatestLogitsWhereThereAreMoreThanTenClasses) {
  struct Set : MemoryDataset {
    explicit Set(int64_t count) {
      set_extents(1, 1);
      for (int64_t i = 0; i < count; ++i) {
        classes_.push_back(std::to_string(i));
        labels_.push_back(int32_t(i));
        pixels_.insert(pixels_.end(), picture_bytes(), uint8_t(i));
      }
    }
    std::string name(int64_t index) const override { return std::to_string(index); }
  };
  for (const int64_t classes : {10, 12}) {
    const auto logits_of = [&](const Tensor& images) {
      Tensor logits = Tensor::zeros({images.dim(0), classes}, DType::f32);
      for (int64_t i = 0; i < images.dim(0); ++i)
        for (int64_t k = 0; k < classes; ++k)
          logits.data<float>()[i * classes + k] = k < images.data<uint8_t>()[3 * i]    ? 1
                                                  : k == images.data<uint8_t>()[3 * i] ? 0
                                                                                       : -1;
      return logits;
    };
    const Evaluation e =
        evaluate(std::make_shared<Set>(classes), logits_of, {.loader = {.batch = 5}});
    EXPECT_DOUBLE_EQ(e.top1, 100.0 / double(classes));
    EXPECT_EQ(e.top5.has_value(), classes == 12);
    EXPECT_DOUBLE_EQ(e.top5.value_or(0), classes == 12 ? 100.0 * 5 / 12 : 0);
  }
}

TEST(Evaluate, EndsBeforeTheBatchAtWhichItIsAskedTo) {
  const auto set = std::make_shared<ColourSet>(10);
  int asked = 0, batches = 0;
  const auto counting = [&](const Tensor& images) {
    ++batches;
    return logits_by_colour(images);
  };
  const Evaluation e =
      evaluate(set, counting,
               {.loader = {.batch = 3}, .stop = [&] { return ++asked == 3 ? "enough" : ""; }});
  EXPECT_EQ(batches, 2);
  EXPECT_EQ(e.stopped_by, "enough");
  const Evaluation whole = evaluate(set, logits_by_colour,
                                    {.loader = {.batch = 3}, .stop = [] { return std::string(); }});
  EXPECT_EQ(whole.stopped_by, "");
  EXPECT_EQ(whole.images, 10);
}

TEST(Evaluate, FilledBatchesAreOfOneSizeAndCountNoPictureTwice) {
  const auto set = std::make_shared<ColourSet>(10);
  std::vector<int64_t> sizes;
  const auto noting = [&](const Tensor& images) {
    sizes.push_back(images.dim(0));
    return logits_by_colour(images);
  };
  Predictions filled, plain;
  const Evaluation e =
      evaluate(set, noting, {.loader = {.batch = 4}, .predictions = &filled, .fill_batches = true});
  EXPECT_EQ(sizes, (std::vector<int64_t>{4, 4, 4}));
  const Evaluation wanted =
      evaluate(set, logits_by_colour, {.loader = {.batch = 4}, .predictions = &plain});
  EXPECT_EQ(e.images, 10);
  EXPECT_EQ(e.top1, wanted.top1);
  EXPECT_EQ(e.loss, wanted.loss);
  EXPECT_EQ(filled.labels, plain.labels);
  EXPECT_EQ(filled.logits, plain.logits);
}

TEST(Evaluate, RatesLeaveOutTheFirstBatchWhereThereAreMore) {
  using namespace std::chrono_literals;
  const auto set = std::make_shared<ColourSet>(12);
  int calls = 0;
  const auto slow_at_first = [&](const Tensor& images) {
    std::this_thread::sleep_for(calls++ == 0 ? 400ms : 20ms);
    return logits_by_colour(images);
  };
  const Evaluation many = evaluate(set, slow_at_first, {.loader = {.batch = 4}});
  EXPECT_GT(many.network_rate, 40);   // 8 pictures in about 40 ms; 12 in 440 ms would be 27
  EXPECT_LE(many.network_rate, 200);  // no sleep is shorter than asked
  EXPECT_LE(many.rate, many.network_rate);
  calls = 0;
  const Evaluation one = evaluate(set, slow_at_first, {.loader = {.batch = 12}});
  EXPECT_GT(one.network_rate, 0);
  EXPECT_LE(one.network_rate, 30);
}

}  // namespace
}  // namespace qt
