// core/device/memory.h -- the caching memory pool every tensor's storage comes from.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace qt {

struct MemoryStats {
  size_t in_use = 0;                // bytes held by live tensors, rounded to size classes
  size_t peak = 0;                  // highest in_use since the start or reset_memory_peak()
  size_t cached = 0;                // bytes kept for reuse
  uint64_t system_allocations = 0;  // times the operating system was asked for memory
};

// At least `bytes` bytes, 64-byte aligned (2 MiB from 4 MiB up, on huge pages), uninitialized;
// returned to the pool with the last handle. Zero bytes give a valid handle. OutOfMemory names the
// size and what is in use. Thread safe. Under AddressSanitizer nothing is cached and the block is
// exactly `bytes` long.
//
// Where current_stream() is on a GPU, the block lies in the GPU's memory instead, in the order of
// that stream (core/device/gpu.h).
std::shared_ptr<void> allocate(size_t bytes);

// memset and memcpy within the memory that current_stream() works on; enqueued where it is on a
// GPU.
void set_bytes(void* to, int value, size_t bytes);
void copy_bytes(void* to, const void* from, size_t bytes);

MemoryStats memory_stats();
void reset_memory_peak();
void release_cached_memory();

// The highest resident size of the whole process so far, libraries and files included; 0 where the
// system does not tell.
uint64_t peak_resident_bytes();

}  // namespace qt
