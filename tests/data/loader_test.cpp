// tests/data/loader_test.cpp -- what batches hold does not depend on workers, ranks, prefetch or
// the start.
#include "data/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <set>

#include "data/windows.h"
#include "tests/data/files.h"

namespace qt {
namespace {

using test::message_of;

std::shared_ptr<const Dataset> small_set(int64_t count = 103) {
  return make_dataset({.kind = "generated", .seed = 3, .image_size = 16, .train_images = count},
                      Split::train);
}

LoaderSpec training(int workers = 2) {
  LoaderSpec spec{.batch = 16, .shuffle = true, .seed = 11, .workers = workers};
  spec.augment.crop = AugmentSpec::Crop::padded;
  spec.augment.flip = true;
  return spec;
}

struct Content {
  std::vector<int64_t> indices, labels;
  std::vector<uint8_t> pixels;
  bool operator==(const Content&) const = default;
};

std::vector<Content> epoch_of(Loader& loader, int epoch, int64_t first = 0) {
  std::vector<Content> batches;
  loader.start_epoch(epoch, first);
  for (Batch batch; loader.next(batch);) {
    EXPECT_EQ(batch.number, first + int64_t(batches.size()));
    EXPECT_EQ(batch.images.dim(0), int64_t(batch.indices.size()));
    batches.push_back(
        {batch.indices, batch.labels.to_vector<int64_t>(), batch.images.to_vector<uint8_t>()});
  }
  return batches;
}

std::vector<Content> epoch_of(const LoaderSpec& spec, int epoch, int64_t first = 0) {
  Loader loader(small_set(), spec);
  return epoch_of(loader, epoch, first);
}

TEST(Loader, GivesTheSameBatchesForAnyWorkersAndPrefetch) {
  const std::vector<Content> expected = epoch_of(training(0), 4);
  ASSERT_EQ(expected.size(), 7u);
  EXPECT_EQ(expected.back().indices.size(), 7u);
  for (int workers : {1, 2, 5})
    for (int prefetch : {1, 4, 100}) {
      LoaderSpec spec = training(workers);
      spec.prefetch = prefetch;
      EXPECT_EQ(epoch_of(spec, 4), expected) << workers << " workers, prefetch " << prefetch;
    }
}

// A GPU's input copies pictures from where the workers wrote them.
TEST(Loader, WritesPicturesIntoTheMemoryItIsGiven) {
  for (const int workers : {0, 2}) {
    Loader loader(small_set(), training(workers));
    std::set<const void*> given;
    size_t bytes = 0;
    loader.allocate_pictures_by([&](size_t size) {
      auto memory = allocate(size);
      given.insert(memory.get());
      bytes = std::max(bytes, size);
      return memory;
    });
    EXPECT_EQ(epoch_of(loader, 4), epoch_of(training(0), 4));
    EXPECT_EQ(bytes, 16u * 16 * 16 * 3);
    loader.start_epoch(5);
    Batch batch;
    ASSERT_TRUE(loader.next(batch));
    EXPECT_TRUE(given.count(batch.images.raw()));
    EXPECT_FALSE(given.count(batch.labels.raw()));
  }
}

TEST(Loader, WindowsThatAreLeftForLaterGiveTheSamePictures) {
  using Crop = AugmentSpec::Crop;
  for (const Crop crop : {Crop::none, Crop::padded, Crop::random_resized})
    for (const bool flip : {false, true}) {
      LoaderSpec spec = training();
      spec.augment.crop = crop;
      spec.augment.flip = flip;
      const std::vector<Content> expected = epoch_of(spec, 3);
      spec.windows_later = true;
      Loader loader(small_set(), spec);
      loader.start_epoch(3);
      bool moved = false;
      for (const Content& wanted : expected) {
        Batch batch;
        ASSERT_TRUE(loader.next(batch));
        Tensor shown = Tensor::empty(batch.images.shape(), DType::u8);
        show_windows(batch.images.data<uint8_t>(), batch.windows.data<int32_t>(), shown);
        EXPECT_EQ(shown.to_vector<uint8_t>(), wanted.pixels);
        EXPECT_EQ(batch.labels.to_vector<int64_t>(), wanted.labels);
        moved |= batch.images.to_vector<uint8_t>() != wanted.pixels;
      }
      EXPECT_EQ(moved, crop == Crop::padded || (flip && crop == Crop::none));
    }
}

TEST(Loader, VisitsEverySampleOnceInAnOrderOfEachEpoch) {
  Loader loader(small_set(), training());
  std::vector<std::vector<int64_t>> orders;
  for (int epoch : {0, 1}) {
    std::vector<int64_t> order;
    for (const Content& batch : epoch_of(loader, epoch))
      order.insert(order.end(), batch.indices.begin(), batch.indices.end());
    orders.push_back(order);
    std::sort(order.begin(), order.end());
    std::vector<int64_t> all(103);
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(order, all);
  }
  EXPECT_NE(orders[0], orders[1]);
}

TEST(Loader, OrderIsPinned) {
  EXPECT_EQ(shuffled_order(1, 0, 10), (std::vector<int64_t>{6, 7, 0, 4, 5, 9, 8, 2, 3, 1}));
  // Every sample comes first about equally often: 10,000 epochs, four standard deviations.
  std::vector<int> first(10);
  for (uint32_t epoch = 0; epoch < 10000; ++epoch) ++first[size_t(shuffled_order(1, epoch, 10)[0])];
  for (int count : first) EXPECT_NEAR(count, 1000, 120);
}

TEST(Loader, RanksTogetherGiveTheBatchesOfOneRank) {
  const std::vector<Content> expected = epoch_of(training(), 2);
  for (int world : {2, 3, 16}) {
    std::vector<Content> joined(expected.size());
    for (int rank = 0; rank < world; ++rank) {
      LoaderSpec spec = training(rank % 3);
      spec.rank = rank, spec.world = world;
      const std::vector<Content> part = epoch_of(spec, 2);
      ASSERT_EQ(part.size(), expected.size());  // every rank takes the same number of steps
      for (size_t i = 0; i < part.size(); ++i) {
        joined[i].indices.insert(joined[i].indices.end(), part[i].indices.begin(),
                                 part[i].indices.end());
        joined[i].labels.insert(joined[i].labels.end(), part[i].labels.begin(),
                                part[i].labels.end());
        joined[i].pixels.insert(joined[i].pixels.end(), part[i].pixels.begin(),
                                part[i].pixels.end());
      }
    }
    EXPECT_EQ(joined, expected) << world << " ranks";
  }
}

TEST(Loader, ResumesInTheMiddleOfAnEpoch) {
  const std::vector<Content> whole = epoch_of(training(), 3);
  for (size_t first : {size_t{1}, size_t{4}, size_t{6}, size_t{7}})
    EXPECT_EQ(epoch_of(training(), 3, int64_t(first)),
              std::vector<Content>(whole.begin() + int64_t(first), whole.end()));
  // Also in a loader that is at work elsewhere.
  Loader loader(small_set(), training());
  loader.start_epoch(0);
  Batch batch;
  ASSERT_TRUE(loader.next(batch));
  EXPECT_EQ(epoch_of(loader, 3, 4), std::vector<Content>(whole.begin() + 4, whole.end()));
}

TEST(Loader, KeepsFileOrderWithoutShuffle) {
  std::vector<int64_t> order;
  const auto set = small_set();
  for (const Content& batch : epoch_of(LoaderSpec{.batch = 10, .workers = 2}, 5)) {
    for (size_t i = 0; i < batch.indices.size(); ++i) {
      EXPECT_EQ(batch.labels[i], set->label(batch.indices[i]));
      const std::vector<uint8_t> picture = test::picture_of(*set, batch.indices[i]);
      EXPECT_TRUE(std::equal(picture.begin(), picture.end(),
                             batch.pixels.begin() + int64_t(i * picture.size())));
    }
    order.insert(order.end(), batch.indices.begin(), batch.indices.end());
  }
  std::vector<int64_t> all(103);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(order, all);
}

TEST(Loader, LeavesOutAPartialLastBatchWhenAsked) {
  LoaderSpec spec = training();
  spec.drop_last = true;
  const std::vector<Content> batches = epoch_of(spec, 0);
  EXPECT_EQ(batches.size(), 6u);
  for (const Content& batch : batches) EXPECT_EQ(batch.indices.size(), 16u);
}

TEST(Loader, GivesNothingBeforeTheFirstEpochAndAfterItsEnd) {
  for (int workers : {0, 2}) {
    Loader loader(small_set(), training(workers));
    Batch batch;
    EXPECT_FALSE(loader.next(batch));
    EXPECT_EQ(epoch_of(loader, 0).size(), 7u);
    EXPECT_FALSE(loader.next(batch));
  }
}

// A set some of whose samples cannot be read, or are slow.
class Unreliable : public Dataset {
 public:
  Unreliable(std::vector<int64_t> bad, int milliseconds)
      : bad_(std::move(bad)), milliseconds_(milliseconds) {
    set_extents(4, 4);
    classes_ = {"a", "b", "c"};
  }
  int64_t size() const override { return 40; }
  int64_t label(int64_t index) const override { return index % 3; }
  std::string name(int64_t index) const override { return "sample " + std::to_string(index); }
  int64_t read(int64_t index, uint8_t* hwc) const override {
    if (milliseconds_) std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds_));
    std::fill(hwc, hwc + picture_bytes(), uint8_t(index));
    if (std::find(bad_.begin(), bad_.end(), index) != bad_.end())
      throw DataError(name(index) + " is bad");
    return index == 7 ? 8 : index;  // as a set does that replaces a bad sample
  }

 private:
  std::vector<int64_t> bad_;
  int milliseconds_;
};

TEST(Loader, PassesAWorkersExceptionOnWithTheBatchItBelongsTo) {
  for (int workers : {0, 1, 3}) {
    Loader loader(std::make_shared<Unreliable>(std::vector<int64_t>{33, 14, 17}, 0),
                  {.batch = 10, .workers = workers, .prefetch = 4});
    loader.start_epoch(0);
    Batch batch;
    ASSERT_TRUE(loader.next(batch));
    EXPECT_EQ(message_of<DataError>([&] { loader.next(batch); }), "sample 14 is bad");
    EXPECT_FALSE(loader.next(batch));
    loader.start_epoch(0, 2);
    EXPECT_TRUE(loader.next(batch));
    EXPECT_EQ(batch.indices.front(), 20);
  }
}

TEST(Loader, LabelsAReplacedSampleByItsReplacement) {
  Loader loader(std::make_shared<Unreliable>(std::vector<int64_t>{}, 0), {.batch = 10});
  loader.start_epoch(0);
  Batch batch;
  ASSERT_TRUE(loader.next(batch));
  EXPECT_EQ(batch.indices[7], 8);
  EXPECT_EQ(batch.labels.data<int64_t>()[7], 2);
}

TEST(Loader, CountsTheTimeThatItsCallerWaited) {
  Loader loader(std::make_shared<Unreliable>(std::vector<int64_t>{}, 5),
                {.batch = 10, .workers = 1});
  EXPECT_EQ(loader.seconds_waited(), 0.0);
  loader.start_epoch(0);
  for (Batch batch; loader.next(batch);) {
  }
  EXPECT_GE(loader.seconds_waited(), 0.19);  // 40 samples of 5 ms
}

TEST(Loader, EndsWhileWorkIsUnderWay) {
  for (int trial = 0; trial < 20; ++trial) {
    Loader loader(small_set(), training(3));
    loader.start_epoch(trial);
    Batch batch;
    if (trial % 2) {
      loader.next(batch);
    }
  }
}

TEST(Loader, RefusesWhatCannotBe) {
  const auto refusal = [](const std::function<void(LoaderSpec&)>& change) {
    LoaderSpec spec = training();
    change(spec);
    return message_of<ConfigError>([&] { Loader loader(small_set(), spec); });
  };
  EXPECT_EQ(refusal([](LoaderSpec& s) { s.batch = 0; }),
            "batch size = 0; allowed: at least one sample for each of 1 ranks");
  EXPECT_EQ(refusal([](LoaderSpec& s) { s.workers = -1; }),
            "data.workers = -1; allowed: 0 or more");
  EXPECT_EQ(refusal([](LoaderSpec& s) { s.prefetch = 0; }),
            "data.prefetch = 0; allowed: 1 or more");
  EXPECT_EQ(refusal([](LoaderSpec& s) { s.rank = 1; }), "rank = 1; allowed: 0 to 0");
  EXPECT_EQ(refusal([](LoaderSpec& s) { s.batch = 200, s.drop_last = true; }),
            "batch size = 200; allowed: at most the 103 samples of the set, as partial batches are "
            "left out");
  EXPECT_EQ(refusal([](LoaderSpec& s) { s.augment.crop_padding = -1; }),
            "data.augmentation.crop_padding = -1; allowed: 0 to 1024 pixels");
}

}  // namespace
}  // namespace qt
