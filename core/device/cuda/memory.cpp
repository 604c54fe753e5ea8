// core/device/cuda/memory.cpp -- GPU memory in stream order, pinned memory, copies.
#include <algorithm>
#include <bit>
#include <cstring>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/device/cuda/arena.h"
#include "core/device/cuda/handle.h"
#include "core/device/gpu.h"

namespace qt {
namespace {

// What is allocated, and what else the pool must wait for before it has it back.
class Blocks {
 public:
  void add(void* memory, size_t bytes, cudaStream_t home) {
    const std::lock_guard lock(mutex_);
    blocks_[memory] = {bytes, shared(home), {}};
    stats_.in_use += bytes;
    stats_.peak = std::max(stats_.peak, stats_.in_use);
  }
  void used_on(const void* memory, cudaStream_t user) {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(memory);
    QT_CHECK(found != blocks_.end(),
             "used_on is for what allocate_on_gpu returned outside of a recording");
    if (found->second.home.get() == user) return;
    cudaEvent_t event = nullptr;
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    found->second.uses.push_back(owned(event, cudaEventDestroy));
    check_cuda(cudaEventRecord(event, user), "cudaEventRecord");
  }
  void give_back(void* memory) {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(memory);
    const Block& block = found->second;
    const auto home = as<cudaStream_t>(block.home);
    for (const auto& use : block.uses)
      if (cudaStreamWaitEvent(home, as<cudaEvent_t>(use), 0) != cudaSuccess)
        static_cast<void>(cudaGetLastError());
    // What cannot be given back stays the driver's; the next launch is not blamed for it.
    if (cudaFreeAsync(memory, home) != cudaSuccess) static_cast<void>(cudaGetLastError());
    stats_.in_use -= block.bytes;
    blocks_.erase(found);  // and the stream, where this was its last memory
  }
  // What an arena gives out counts with the rest.
  void count(size_t bytes) {
    const std::lock_guard lock(mutex_);
    stats_.in_use += bytes;
    stats_.peak = std::max(stats_.peak, stats_.in_use);
  }
  void count_back(size_t bytes) {
    const std::lock_guard lock(mutex_);
    stats_.in_use -= bytes;
  }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    stats_.peak = stats_.in_use;
  }
  MemoryStats stats() {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  struct Block {
    size_t bytes;
    std::shared_ptr<void> home;               // the stream, which lives as long
    std::vector<std::shared_ptr<void>> uses;  // events
  };
  std::mutex mutex_;
  std::unordered_map<const void*, Block> blocks_;
  MemoryStats stats_;
};

// Never destroyed: tensors in static objects may return storage after main.
Blocks& blocks() {
  static Blocks* const instance = std::make_unique<Blocks>().release();
  return *instance;
}

[[noreturn]] void out_of_memory(const char* what, size_t bytes) {
  static_cast<void>(cudaGetLastError());
  throw OutOfMemory(std::string("out of ") + what + ": asked for " + std::to_string(bytes) +
                    " bytes with " + std::to_string(blocks().stats().in_use) +
                    " bytes of GPU memory in use by tensors");
}

// Which GPU the program works on.
int& gpu_number() {
  static int number = 0;
  return number;
}

cudaMemPool_t default_pool() {
  cudaMemPool_t pool = nullptr;
  check_cuda(cudaDeviceGetDefaultMemPool(&pool, gpu_number()), "cudaDeviceGetDefaultMemPool");
  return pool;
}

// Memory that is given back to the driver costs a later step a system call: the pool keeps it.
void keep_freed_memory() {
  static std::once_flag once;
  std::call_once(once, [] {
    uint64_t threshold = UINT64_MAX;
    check_cuda(cudaMemPoolSetAttribute(default_pool(), cudaMemPoolAttrReleaseThreshold, &threshold),
               "cudaMemPoolSetAttribute");
  });
}

// Pinned buffers for copies to the GPU, each free again when its copy has run.
class Staging {
 public:
  void send(void* to, const void* from, size_t bytes, Stream stream) {
    QT_CHECK(!is_recording(stream),
             "a copy from the host cannot be recorded: its buffer serves other copies later");
    const std::lock_guard lock(mutex_);
    Buffer& buffer = free_buffer(bytes);
    memcpy(buffer.memory.get(), from, bytes);
    check_cuda(
        cudaMemcpyAsync(to, buffer.memory.get(), bytes, cudaMemcpyHostToDevice, handle(stream)),
        "cudaMemcpyAsync of " + std::to_string(bytes) + " bytes to the GPU");
    buffer.sent.record(stream);
  }
  void release() {
    const std::lock_guard lock(mutex_);
    buffers_.clear();
  }

 private:
  struct Buffer {
    std::shared_ptr<void> memory;
    size_t bytes;
    GpuEvent sent;
  };
  Buffer& free_buffer(size_t bytes) {
    for (Buffer& buffer : buffers_)
      if (buffer.bytes >= bytes && buffer.bytes <= 2 * bytes + 4096 && buffer.sent.reached())
        return buffer;
    return buffers_.emplace_back(Buffer{allocate_pinned(bytes), bytes, {}});
  }
  std::mutex mutex_;
  std::vector<Buffer> buffers_;
};

Staging& staging() {
  static Staging* const instance = std::make_unique<Staging>().release();  // outlives the driver
  return *instance;
}

// Pinned buffers for copies to the host, kept: to free one waits for all that runs on the GPU, a
// sum over ranks on another stream too.
class Landing {
 public:
  void fetch(void* to, const void* from, size_t bytes, Stream stream) {
    Buffer buffer = taken(bytes);
    cudaError_t status =
        cudaMemcpyAsync(buffer.memory.get(), from, bytes, cudaMemcpyDeviceToHost, handle(stream));
    if (status == cudaSuccess) {
      status = cudaStreamSynchronize(handle(stream));
      if (status == cudaSuccess) memcpy(to, buffer.memory.get(), bytes);
    }
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(buffer));
    check_cuda(status, "copy of " + std::to_string(bytes) + " bytes to the host");
  }
  void release() {
    const std::lock_guard lock(mutex_);
    free_.clear();
  }

 private:
  struct Buffer {
    std::shared_ptr<void> memory;
    size_t bytes;
  };
  // The smallest that is long enough. New ones have a power of two of bytes: a thread that waits
  // for its copies, as all do, soon needs no more.
  Buffer taken(size_t bytes) {
    const std::lock_guard lock(mutex_);
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it)
      if (it->bytes >= bytes && (best == free_.end() || it->bytes < best->bytes)) best = it;
    if (best == free_.end()) {
      const size_t rounded = std::bit_ceil(std::max<size_t>(bytes, 4096));
      return {allocate_pinned(rounded), rounded};
    }
    Buffer buffer = std::move(*best);
    free_.erase(best);
    return buffer;
  }
  std::mutex mutex_;
  std::vector<Buffer> free_;
};

Landing& landing() {
  static Landing* const instance = std::make_unique<Landing>().release();  // outlives the driver
  return *instance;
}

}  // namespace

bool built_with_cuda() { return true; }

int gpu_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  static_cast<void>(cudaGetLastError());  // no driver, or none that is new enough
  return 0;
}

void use_gpu(int number) {
  check_cuda(cudaSetDevice(number), "cudaSetDevice(" + std::to_string(number) + ")");
  gpu_number() = number;
}

std::shared_ptr<void> allocate_on_gpu(size_t bytes, Stream stream) {
  if (const auto arena = Arena::current(); arena && arena->stream() == handle(stream)) {
    void* part = nullptr;
    const cudaError_t status = arena->allocate(bytes, part);
    if (status == cudaErrorMemoryAllocation) out_of_memory("GPU memory", bytes);
    check_cuda(status, "cudaMallocAsync while a graph is recorded");
    blocks().count(bytes);
    return {part, [arena, bytes](void* memory) {
              arena->give_back(memory);
              blocks().count_back(bytes);
            }};
  }
  keep_freed_memory();
  void* memory = nullptr;
  const auto allocate = [&] { return cudaMallocAsync(&memory, bytes ? bytes : 1, handle(stream)); };
  cudaError_t status = allocate();
  if (status == cudaErrorMemoryAllocation && !is_recording(stream)) {
    // What the pool and idle graphs keep, each for itself, may do. Nothing is waited for: another
    // rank may be what the GPU waits for.
    static_cast<void>(cudaGetLastError());
    check_cuda(cudaMemPoolTrimTo(default_pool(), 0), "cudaMemPoolTrimTo");
    check_cuda(cudaDeviceGraphMemTrim(gpu_number()), "cudaDeviceGraphMemTrim");
    status = allocate();
  }
  if (status == cudaErrorMemoryAllocation) out_of_memory("GPU memory", bytes);
  check_cuda(status, "cudaMallocAsync of " + std::to_string(bytes) + " bytes");
  blocks().add(memory, bytes, handle(stream));
  return {memory, [](void* block) { blocks().give_back(block); }};
}

void used_on(const void* memory, Stream user) { blocks().used_on(memory, handle(user)); }

std::shared_ptr<void> allocate_pinned(size_t bytes) {
  void* memory = nullptr;
  const cudaError_t status = cudaMallocHost(&memory, bytes ? bytes : 1);
  if (status == cudaErrorMemoryAllocation) out_of_memory("pinned memory", bytes);
  check_cuda(status, "cudaMallocHost of " + std::to_string(bytes) + " bytes");
  return owned(memory, cudaFreeHost);
}

MemoryStats gpu_memory_stats() { return blocks().stats(); }
void reset_gpu_memory_peak() { blocks().reset_peak(); }
void release_cached_gpu_memory() {
  const cudaError_t status = cudaDeviceSynchronize();  // copies still read the staging memory
  staging().release();
  landing().release();
  check_cuda(status, "cudaDeviceSynchronize");
  check_cuda(cudaMemPoolTrimTo(default_pool(), 0), "cudaMemPoolTrimTo");
  check_cuda(cudaDeviceGraphMemTrim(gpu_number()), "cudaDeviceGraphMemTrim");
}
size_t gpu_reserved_bytes() {
  uint64_t pool = 0, graphs = 0;
  check_cuda(cudaMemPoolGetAttribute(default_pool(), cudaMemPoolAttrReservedMemCurrent, &pool),
             "cudaMemPoolGetAttribute");
  check_cuda(
      cudaDeviceGetGraphMemAttribute(gpu_number(), cudaGraphMemAttrReservedMemCurrent, &graphs),
      "cudaDeviceGetGraphMemAttribute");
  return size_t(pool + graphs);
}

void copy_to_gpu(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes) staging().send(to, from, bytes, stream);
}

void send_to_gpu(void* to, const void* pinned, size_t bytes, Stream stream) {
  if (!bytes) return;
  check_cuda(cudaMemcpyAsync(to, pinned, bytes, cudaMemcpyHostToDevice, handle(stream)),
             "cudaMemcpyAsync of " + std::to_string(bytes) + " pinned bytes to the GPU");
}

void copy_to_host(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes) landing().fetch(to, from, bytes, stream);
}

void copy_on_gpu(void* to, const void* from, size_t bytes, Stream stream) {
  if (!bytes) return;
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, handle(stream)),
             "cudaMemcpyAsync of " + std::to_string(bytes) + " bytes on the GPU");
}

void set_bytes_on_gpu(void* to, int value, size_t bytes, Stream stream) {
  if (!bytes) return;
  check_cuda(cudaMemsetAsync(to, value, bytes, handle(stream)),
             "cudaMemsetAsync of " + std::to_string(bytes) + " bytes");
}

}  // namespace qt
