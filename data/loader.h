// data/loader.h -- batches of a data set in a fixed order, made ready by worker threads.
//
// What a batch holds depends on (data set, seed, epoch, batch number) only: not on workers,
// prefetch, ranks or timing.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "core/device/memory.h"
#include "core/tensor/tensor.h"
#include "data/augment.h"
#include "data/dataset.h"

namespace qt {

// The order in which epoch `epoch` visits 0 .. size-1: a Fisher-Yates shuffle by Philox(seed,
// shuffle, epoch).
std::vector<int64_t> shuffled_order(uint64_t seed, uint32_t epoch, int64_t size);

struct LoaderSpec {
  int64_t batch = 128;         // samples of a global batch, over all ranks
  bool shuffle = false;        // false: file order, every epoch
  bool drop_last = false;      // leave out a last batch that is not full
  uint64_t seed = 0;           // of order and augmentation
  AugmentSpec augment = {};    // default: evaluation pictures
  bool windows_later = false;  // crops and flips are not done: Batch::windows says what to do
  int workers = 1;             // threads; 0: the work is done inside next()
  int prefetch = 2;  // batches kept ready or in work beyond the one handed out, at least 1
  // This rank's part of each global batch: contiguous, sizes differ by at most one.
  int rank = 0, world = 1;
};

// In the host's memory, wherever current_stream() works.
struct Batch {
  Tensor images;                 // u8 [n, height, width, 3], not normalized
  Tensor labels;                 // i64 [n]
  Tensor windows;                // i32 [n, 3] for show_windows, with LoaderSpec::windows_later
  std::vector<int64_t> indices;  // n; where a bad sample was replaced, the index of its replacement
  int64_t number = 0;            // within the epoch
  int64_t global_samples = 0;    // n over all ranks; n may be 0 on a rank in a partial batch
};

// One consumer thread. Throws ConfigError for a spec that cannot be (batch < world, a batch larger
// than the set with drop_last, ...). An exception of a worker is rethrown by the next() of the
// batch it belongs to; after it, only start_epoch() continues.
class Loader {
 public:
  Loader(std::shared_ptr<const Dataset> dataset, const LoaderSpec& spec);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // From the next start_epoch() on pictures lie in memory of this kind; asked for by the consumer's
  // thread.
  using Allocate = std::function<std::shared_ptr<void>(size_t bytes)>;
  void allocate_pictures_by(Allocate allocate) { allocate_pictures_ = std::move(allocate); }

  int64_t batches_per_epoch() const;
  // The batches first_batch, first_batch + 1, ... of this epoch follow; what was prefetched is
  // forgotten.
  void start_epoch(int epoch, int64_t first_batch = 0);
  // False at the end of the epoch, and before the first start_epoch().
  bool next(Batch& batch);
  // How long next() has been waiting for pictures, summed since construction.
  double seconds_waited() const { return seconds_waited_; }
  const Dataset& dataset() const { return *dataset_; }

 private:
  // A batch in work. Workers claim parts of it in order; it is ready when all its samples are done.
  struct Slot {
    Batch batch;
    uint8_t* pixels = nullptr;
    int64_t* labels = nullptr;
    int32_t* windows = nullptr;
    int64_t claimed = 0, done = 0;
    int64_t failed_at = INT64_MAX;
    std::exception_ptr failure;
    uint32_t epoch = 0;
    int64_t samples() const { return int64_t(batch.indices.size()); }
  };
  using SlotPointer = std::shared_ptr<Slot>;

  SlotPointer make_slot(int64_t number) const;
  void schedule();
  void work();
  void fill(Slot& slot, int64_t begin, int64_t end) const;
  SlotPointer wait_for_first();
  void end_workers();

  std::shared_ptr<const Dataset> dataset_;
  LoaderSpec spec_;
  // Of the consumer only.
  Allocate allocate_pictures_ = allocate;
  std::vector<int64_t> order_;
  uint32_t epoch_ = 0;
  int64_t next_number_ = 0;
  double seconds_waited_ = 0;
  // Shared with the workers, under mutex_.
  std::mutex mutex_;
  std::condition_variable work_came_, slot_done_;
  std::deque<SlotPointer> slots_;  // by batch number
  bool ending_ = false;
  std::vector<std::jthread> workers_;  // last: they end first
};

}  // namespace qt
