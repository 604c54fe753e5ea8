// core/device/memory.cpp -- size classes, free lists and counters of the memory pool.
#include "core/device/memory.h"

#include <sys/mman.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/device/gpu.h"
#include "core/device/stream.h"

namespace qt {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr bool caching = false;
#else
constexpr bool caching = true;
#endif

constexpr size_t cache_line = 64, huge_page = size_t{2} << 20, huge_from = size_t{4} << 20;
constexpr size_t shared_from = size_t{1} << 20;

// Classes are an eighth of a power of two apart, so that at most 12.5 % is wasted and sizes that
// differ a little share a free list.
size_t size_class(size_t bytes) {
  if (!caching) return bytes;
  if (bytes <= 512) return (bytes + cache_line - 1) / cache_line * cache_line;
  const size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

struct Block {
  void* start;
  size_t bytes;
};

class Pool {
 public:
  // A free block of this class or, where there is none and it is large, of up to half as much
  // again: what a step frees early serves what it needs late, and the process stays smaller than
  // the sum over classes.
  Block take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    const size_t most = bytes < shared_from ? bytes : bytes + bytes / 2;
    auto list = free_.lower_bound(bytes);
    while (list != free_.end() && list->second.empty()) ++list;
    Block block{};
    if (list != free_.end() && list->first <= most) {
      block = {list->second.back(), list->first};
      list->second.pop_back();
      stats_.cached -= block.bytes;
    } else {
      block = {from_system(bytes), bytes};
    }
    stats_.in_use += block.bytes;
    stats_.peak = stats_.peak > stats_.in_use ? stats_.peak : stats_.in_use;
    return block;
  }

  void give_back(void* block, size_t bytes) {
    const std::lock_guard lock(mutex_);
    stats_.in_use -= bytes;
    if (!caching) return std::free(block);
    try {
      free_[bytes].push_back(block);
    } catch (const std::bad_alloc&) {  // no room for the list: storage is dropped where nothing
      return std::free(block);         // may be thrown
    }
    stats_.cached += bytes;
  }

  void release() {
    const std::lock_guard lock(mutex_);
    release_locked();
  }

  MemoryStats stats() {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

  void reset_peak() {
    const std::lock_guard lock(mutex_);
    stats_.peak = stats_.in_use;
  }

 private:
  void release_locked() {
    for (auto& [bytes, list] : free_) {
      for (void* block : list) std::free(block);
      list.clear();
    }
    stats_.cached = 0;
  }

  void* from_system(size_t bytes) {
    ++stats_.system_allocations;
    const bool huge = caching && bytes >= huge_from;
    for (int attempt = 0; attempt < 2; ++attempt) {
      void* block = nullptr;
      if (posix_memalign(&block, huge ? huge_page : cache_line, bytes ? bytes : 1) == 0) {
        if (huge)
          madvise(block, bytes, MADV_HUGEPAGE);  // advice only: failure costs speed, nothing else
        return block;
      }
      release_locked();
    }
    throw OutOfMemory("out of memory: asked for " + std::to_string(bytes) + " bytes with " +
                      std::to_string(stats_.in_use) + " bytes in use by tensors");
  }

  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;  // by class
  MemoryStats stats_;
};

// Never destroyed: tensors in other static objects may return storage after main.
Pool& pool() {
  static Pool* const instance = std::make_unique<Pool>().release();
  return *instance;
}

}  // namespace

std::shared_ptr<void> allocate(size_t bytes) {
  if (current_stream().on_gpu) return allocate_on_gpu(bytes, current_stream());
  const Block block = pool().take(size_class(bytes));
  return {block.start, [size = block.bytes](void* start) { pool().give_back(start, size); }};
}

void set_bytes(void* to, int value, size_t bytes) {
  if (current_stream().on_gpu) return set_bytes_on_gpu(to, value, bytes, current_stream());
  if (bytes) memset(to, value, bytes);
}

void copy_bytes(void* to, const void* from, size_t bytes) {
  if (current_stream().on_gpu) return copy_on_gpu(to, from, bytes, current_stream());
  if (bytes) memcpy(to, from, bytes);
}

MemoryStats memory_stats() { return pool().stats(); }
void reset_memory_peak() { pool().reset_peak(); }
void release_cached_memory() { pool().release(); }

// Not getrusage: its ru_maxrss starts at the size of the process that started this one.
uint64_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::strtoull(line.c_str() + 6, nullptr, 10) << 10;
  return 0;
}

}  // namespace qt
