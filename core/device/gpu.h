// core/device/gpu.h -- an NVIDIA GPU as host code sees it: streams, events, memory, copies,
// recorded graphs. Includes nothing of CUDA's. In a build without CUDA every call throws
// InternalError.
//
// Errors of CUDA are InternalError and name the call; OutOfMemory names size and memory in use.
// Destructors never throw and never wait.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "core/device/memory.h"
#include "core/device/stream.h"

namespace qt {

// Whether this build can work on a GPU at all.
bool built_with_cuda();
// How many GPUs the driver shows; 0 without CUDA and without a driver.
int gpu_count();
// The GPU, numbered from 0, that the calling thread works on from now on; 0 unless told. To be
// called before anything else here.
void use_gpu(int number);

// An owned stream, which waits for no other unless told to.
class GpuStream {
 public:
  GpuStream();
  Stream stream() const { return {handle_.get(), true}; }
  void synchronize() const;  // until everything enqueued has run

 private:
  std::shared_ptr<void> handle_;
};

// A mark in a stream; a timed one notes when it was reached.
class GpuEvent {
 public:
  GpuEvent() : GpuEvent(false) {}
  explicit GpuEvent(bool timed);
  void record(Stream stream);           // after what the stream has been given so far
  void hold_back(Stream stream) const;  // what it is given from now on runs after the mark
  bool reached() const;
  void synchronize() const;
  double seconds_since(const GpuEvent& earlier) const;  // both timed, and reached

 private:
  std::shared_ptr<void> handle_;
};

// The place of the calling thread's GPU on its machine's buses: no two GPUs of a machine have the
// same. The parts of a GPU that was divided have, for they cannot be told apart by it.
std::string gpu_identity();

// ---- memory ----
// At least `bytes` of GPU memory in the order of `stream`: uninitialized for what is enqueued there
// from now on, and the pool's again, with the last handle, after what has been enqueued there by
// then. The pool is CUDA's own, told to keep what it has. A GpuStream lives as long as memory of it
// (what an exception leaves on a tape is freed later); another stream must outlive its memory.
// OutOfMemory where there is not enough even when what is kept has been given back.
std::shared_ptr<void> allocate_on_gpu(size_t bytes, Stream stream);
// For memory of allocate_on_gpu outside of recordings (a tensor's raw()) that `user`, not the
// stream it was allocated on, was given work with: the pool gets it only after what `user` has been
// given so far.
void used_on(const void* memory, Stream user);
// Page-locked host memory. Its owner keeps it until the copies from and to it have run.
std::shared_ptr<void> allocate_pinned(size_t bytes);
// GPU memory; cached and system_allocations are CUDA's own business and stay 0.
MemoryStats gpu_memory_stats();
void reset_gpu_memory_peak();
// What the pool, recorded graphs that do not run, and copies in either direction keep for reuse.
// Waits for all work.
void release_cached_gpu_memory();
// Bytes that the driver has given to the pool and to recorded graphs, in use or kept; 0 without
// CUDA. Graphs work in memory of their own: what the pool keeps is of no use to them.
size_t gpu_reserved_bytes();

// ---- copies and fills, in the order of the stream ----
// Through pinned memory: `from` may change once the call returns.
void copy_to_gpu(void* to, const void* from, size_t bytes, Stream stream);
// From memory of allocate_pinned, which must stay as it is until the copy has run.
void send_to_gpu(void* to, const void* pinned, size_t bytes, Stream stream);
// Returns when `to` is filled.
void copy_to_host(void* to, const void* from, size_t bytes, Stream stream);
void copy_on_gpu(void* to, const void* from, size_t bytes, Stream stream);
void set_bytes_on_gpu(void* to, int value, size_t bytes, Stream stream);

// ---- graphs ----
// What `work` enqueues on a stream, recorded without running, to be launched many times. The memory
// that work allocates on that stream, of the graph's own, must be given back within it; copies to
// the host, and from memory that is not pinned, cannot be recorded.
class GpuGraph {
 public:
  GpuGraph(Stream stream, const std::function<void()>& work);
  // OutOfMemory where there is no room for what the work allocates; nothing has run then.
  void launch(Stream stream) const;

 private:
  std::shared_ptr<void> handle_;
};
// Whether what is enqueued on the stream now becomes part of a graph.
bool is_recording(Stream stream);

}  // namespace qt
