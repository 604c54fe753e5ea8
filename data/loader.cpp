// data/loader.cpp -- the order of an epoch, the queue of batches in work, and the threads that fill
// them.
#include "data/loader.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <numeric>
#include <string>

#include "core/base/philox.h"
#include "core/device/stream.h"

namespace qt {
namespace {

// Samples that a worker takes at once: so few that all workers share one batch of large pictures,
// so many that the lock is not felt with small ones.
constexpr int64_t part_bytes = 64 << 10;

int64_t samples_per_part(const Dataset& dataset) {
  return std::max<int64_t>(1, part_bytes / int64_t(dataset.picture_bytes()));
}

void check(const Dataset& dataset, const LoaderSpec& spec) {
  const auto refuse = [](const std::string& key, int64_t came, const std::string& allowed) {
    throw ConfigError(key + " = " + std::to_string(came) + "; allowed: " + allowed);
  };
  if (spec.world < 1) refuse("number of ranks", spec.world, "at least 1");
  if (spec.rank < 0 || spec.rank >= spec.world)
    refuse("rank", spec.rank, "0 to " + std::to_string(spec.world - 1));
  if (spec.batch < spec.world)
    refuse("batch size", spec.batch,
           "at least one sample for each of " + std::to_string(spec.world) + " ranks");
  if (spec.workers < 0) refuse("data.workers", spec.workers, "0 or more");
  if (spec.prefetch < 1) refuse("data.prefetch", spec.prefetch, "1 or more");
  if (dataset.size() < 1) throw DataError("the data set is empty");
  if (spec.drop_last && spec.batch > dataset.size())
    refuse("batch size", spec.batch,
           "at most the " + std::to_string(dataset.size()) +
               " samples of the set, as partial batches are left out");
  const AugmentSpec& augment = spec.augment;
  if (augment.crop == AugmentSpec::Crop::padded &&
      (augment.crop_padding < 0 || augment.crop_padding > 1024))
    refuse("data.augmentation.crop_padding", augment.crop_padding, "0 to 1024 pixels");
  if (!(augment.min_area > 0 && augment.min_area <= augment.max_area && augment.max_area <= 1))
    throw ConfigError("random_resized crop: areas must be 0 < min <= max <= 1");
  if (!(augment.min_ratio > 0 && augment.min_ratio <= augment.max_ratio))
    throw ConfigError("random_resized crop: ratios must be 0 < min <= max");
}

}  // namespace

std::vector<int64_t> shuffled_order(uint64_t seed, uint32_t epoch, int64_t size) {
  std::vector<int64_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), int64_t{0});
  Philox draws(seed, DrawKind::shuffle, epoch);
  for (size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[draws.below(uint32_t(i))]);
  return order;
}

Loader::Loader(std::shared_ptr<const Dataset> dataset, const LoaderSpec& spec)
    : dataset_(std::move(dataset)), spec_(spec) {
  check(*dataset_, spec_);
  next_number_ = batches_per_epoch();
  try {
    for (int i = 0; i < spec_.workers; ++i) workers_.emplace_back([this] { work(); });
  } catch (...) {
    // The system gave no more threads; those that run must end before the members go.
    end_workers();
    throw;
  }
}

Loader::~Loader() { end_workers(); }

void Loader::end_workers() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  work_came_.notify_all();
  workers_.clear();
}

int64_t Loader::batches_per_epoch() const {
  return (dataset_->size() + (spec_.drop_last ? 0 : spec_.batch - 1)) / spec_.batch;
}

void Loader::start_epoch(int epoch, int64_t first_batch) {
  QT_CHECK(epoch >= 0 && first_batch >= 0 && first_batch <= batches_per_epoch(),
           "Loader: epoch " + std::to_string(epoch) + " has no batch " +
               std::to_string(first_batch) + "; it has " + std::to_string(batches_per_epoch()));
  {
    // A slot in work stays alive through its worker's pointer and is then forgotten.
    const std::lock_guard lock(mutex_);
    slots_.clear();
  }
  const bool first = order_.empty();
  epoch_ = uint32_t(epoch);
  next_number_ = first_batch;
  if (spec_.shuffle) {
    order_ = shuffled_order(spec_.seed, epoch_, dataset_->size());
  } else if (first) {
    order_.resize(size_t(dataset_->size()));
    std::iota(order_.begin(), order_.end(), int64_t{0});
  }
  if (spec_.workers > 0) schedule();
}

Loader::SlotPointer Loader::make_slot(int64_t number) const {
  const int64_t first = number * spec_.batch,
                count = std::min(spec_.batch, dataset_->size() - first);
  const int64_t begin = first + count * spec_.rank / spec_.world,
                end = first + count * (spec_.rank + 1) / spec_.world;
  const UseStream host(Stream{});
  auto slot = std::make_shared<Slot>();
  slot->epoch = epoch_;
  Batch& batch = slot->batch;
  batch.number = number;
  batch.global_samples = count;
  batch.indices.assign(order_.begin() + begin, order_.begin() + end);
  const Shape pictures{end - begin, dataset_->height(), dataset_->width(), 3};
  batch.images = Tensor::over(allocate_pictures_(size_t(pictures.elements())), pictures, DType::u8);
  batch.labels = Tensor::empty({end - begin}, DType::i64);
  if (spec_.windows_later) {
    batch.windows = Tensor::empty({end - begin, 3}, DType::i32);
    if (end > begin) slot->windows = batch.windows.data<int32_t>();
  }
  if (end > begin)
    slot->pixels = batch.images.data<uint8_t>(), slot->labels = batch.labels.data<int64_t>();
  return slot;
}

void Loader::schedule() {
  const int64_t last = batches_per_epoch();
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (next_number_ >= last || int64_t(slots_.size()) >= spec_.prefetch) break;
    }
    SlotPointer slot = make_slot(next_number_++);
    const std::lock_guard lock(mutex_);
    slots_.push_back(std::move(slot));
  }
  work_came_.notify_all();
}

void Loader::work() {
  const int64_t part = samples_per_part(*dataset_);
  std::unique_lock lock(mutex_);
  for (;;) {
    SlotPointer slot;
    work_came_.wait(lock, [&] {
      for (const SlotPointer& candidate : slots_)
        if (candidate->claimed < candidate->samples()) {
          slot = candidate;
          break;
        }
      return ending_ || slot != nullptr;
    });
    if (ending_) return;
    const int64_t begin = slot->claimed, end = std::min(begin + part, slot->samples());
    slot->claimed = end;
    lock.unlock();
    std::exception_ptr failure;
    try {
      fill(*slot, begin, end);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure && begin < slot->failed_at) slot->failed_at = begin, slot->failure = failure;
    slot->done += end - begin;
    if (slot->done == slot->samples()) slot_done_.notify_one();
  }
}

void Loader::fill(Slot& slot, int64_t begin, int64_t end) const {
  for (int64_t i = begin; i < end; ++i) {
    int64_t& index = slot.batch.indices[size_t(i)];
    uint8_t* const pixels = slot.pixels + size_t(i) * dataset_->picture_bytes();
    if (spec_.windows_later) {
      const PictureWindow window = read_unwindowed(*dataset_, spec_.augment, spec_.seed, slot.epoch,
                                                   int64_t(index), pixels, index);
      int32_t* const to = slot.windows + i * 3;
      to[0] = window.top, to[1] = window.left, to[2] = window.flipped;
    } else {
      index = read_augmented(*dataset_, spec_.augment, spec_.seed, slot.epoch, index, pixels);
    }
    slot.labels[i] = dataset_->label(index);
  }
}

// The first slot once it is ready, taken off the queue; null where none is left.
Loader::SlotPointer Loader::wait_for_first() {
  std::unique_lock lock(mutex_);
  if (slots_.empty()) return nullptr;
  const SlotPointer slot = slots_.front();
  slot_done_.wait(lock, [&] { return slot->done == slot->samples(); });
  slots_.pop_front();
  if (slot->failure) slots_.clear();
  return slot;
}

bool Loader::next(Batch& batch) {
  const auto start = std::chrono::steady_clock::now();
  SlotPointer slot;
  if (spec_.workers > 0) {
    slot = wait_for_first();
  } else if (next_number_ < batches_per_epoch()) {
    slot = make_slot(next_number_++);
    try {
      fill(*slot, 0, slot->samples());
    } catch (...) {
      slot->failure = std::current_exception();
    }
  }
  if (!slot) return false;
  if (slot->failure) {
    next_number_ = batches_per_epoch();
    std::rethrow_exception(slot->failure);
  }
  if (spec_.workers > 0) schedule();
  seconds_waited_ +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  batch = std::move(slot->batch);
  return true;
}

}  // namespace qt
