// train/gpu_input.cpp -- the double buffer between the loader and a GPU.
#include "train/gpu_input.h"

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "data/windows.h"

namespace qt {
namespace {

// Parts of a buffer begin at multiples of this, as wide loads want it.
constexpr size_t alignment = 256;
size_t aligned(size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

// Pinned blocks that come back when their last handle goes: to pin memory takes milliseconds.
class PinnedBlocks : public std::enable_shared_from_this<PinnedBlocks> {
 public:
  std::shared_ptr<void> take(size_t bytes) {
    auto block = free_block(bytes);
    void* const memory = block.second.get();
    return {memory, [self = shared_from_this(), block](void*) {
              const std::lock_guard lock(self->mutex_);
              self->free_.insert(block);
            }};
  }

 private:
  using Block = std::pair<size_t, std::shared_ptr<void>>;  // its size
  Block free_block(size_t bytes) {
    {
      const std::lock_guard lock(mutex_);
      const auto found = free_.lower_bound(bytes);
      if (found != free_.end() && found->first <= 2 * bytes + 4096) {
        const Block block = *found;
        free_.erase(found);
        return block;
      }
    }
    return {bytes, allocate_pinned(bytes)};
  }
  std::mutex mutex_;
  std::multimap<size_t, std::shared_ptr<void>> free_;
};

}  // namespace

GpuInput::GpuInput(Loader& loader, int64_t classes)
    : loader_(loader), classes_(classes), computing_(current_stream()) {
  loader_.allocate_pictures_by(
      [blocks = std::make_shared<PinnedBlocks>()](size_t bytes) { return blocks->take(bytes); });
}

// Pinned memory must outlive the copies out of it, and the GPU's what still reads it.
GpuInput::~GpuInput() {
  try {
    for (const Buffer& buffer : buffers_) {
      if (!buffer.in_use) continue;
      buffer.copied.synchronize();
      used_on(buffer.memory.raw(), computing_);
    }
  } catch (const Error&) {
    // A GPU that has failed: the call that finds it so says it.
  }
}

void GpuInput::start_epoch(int epoch, int64_t first_batch) {
  for (Buffer& buffer : buffers_) buffer.full = false;
  failure_ = nullptr;
  loader_.start_epoch(epoch, first_batch);
}

void GpuInput::check_labels(const Batch& batch) const {
  for (int64_t i = 0; i < batch.labels.elements(); ++i) {
    const int64_t label = batch.labels.data<int64_t>()[i];
    if (label < 0 || label >= classes_)
      throw DataError("label " + std::to_string(label) + " of sample " + std::to_string(i) +
                      " in the batch is not one of the " + std::to_string(classes_) +
                      " classes 0 .. " + std::to_string(classes_ - 1));
  }
}

void GpuInput::fill(Buffer& buffer, const Batch& batch) {
  const UseStream use(copying_.stream());
  check_labels(batch);
  buffer.samples = batch.labels.elements();
  buffer.global_samples = batch.global_samples;
  buffer.windows_at = aligned(batch.images.bytes());
  buffer.labels_at = buffer.windows_at + aligned(batch.windows.bytes());
  const size_t bytes = buffer.labels_at + batch.labels.bytes();
  if (buffer.in_use) buffer.copied.synchronize();
  if (bytes > buffer.bytes) {
    if (buffer.in_use) used_on(buffer.memory.raw(), computing_);
    buffer.pinned = allocate_pinned(bytes - buffer.windows_at);
    buffer.memory = Tensor::empty({int64_t(bytes)}, DType::u8);
    buffer.bytes = bytes;
  } else {
    buffer.read.hold_back(copying_.stream());
  }
  buffer.pictures = batch.images;  // until the copy has run
  char* const small = static_cast<char*>(buffer.pinned.get());
  char* const to = static_cast<char*>(buffer.memory.raw());
  memcpy(small, batch.windows.raw(), batch.windows.bytes());
  memcpy(small + buffer.labels_at - buffer.windows_at, batch.labels.raw(), batch.labels.bytes());
  send_to_gpu(to, batch.images.raw(), batch.images.bytes(), copying_.stream());
  send_to_gpu(to + buffer.windows_at, small, bytes - buffer.windows_at, copying_.stream());
  buffer.copied.record(copying_.stream());
  buffer.in_use = buffer.full = true;
}

void GpuInput::prefetch() {
  Buffer& buffer = buffers_[next_];
  if (buffer.full || failure_) return;
  try {
    Batch batch;
    if (loader_.next(batch)) fill(buffer, batch);
  } catch (...) {
    failure_ = std::current_exception();
  }
}

bool GpuInput::next(GpuBatch& batch) {
  prefetch();  // where nobody did
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  Buffer& buffer = buffers_[next_];
  if (!buffer.full) return false;
  const Shape images{buffer.samples, loader_.dataset().height(), loader_.dataset().width(), 3};
  if (!batch.images.defined() || !(batch.images.shape() == images)) {
    batch.images = Tensor::empty(images, DType::u8);
    batch.labels = Tensor::empty({buffer.samples}, DType::i64);
  }
  batch.global_samples = buffer.global_samples;
  buffer.copied.hold_back(computing_);
  const auto* const from = static_cast<const char*>(buffer.memory.raw());
  show_windows(reinterpret_cast<const uint8_t*>(from),
               reinterpret_cast<const int32_t*>(from + buffer.windows_at), batch.images);
  copy_on_gpu(batch.labels.raw(), from + buffer.labels_at, batch.labels.bytes(), computing_);
  buffer.read.record(computing_);
  buffer.full = false;
  next_ = 1 - next_;
  return true;
}

}  // namespace qt
