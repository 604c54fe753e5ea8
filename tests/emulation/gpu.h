// tests/emulation/gpu.h -- the state of the emulated GPU, for the files that implement its calls.
#pragma once
#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <set>
#include <string>

#include "tests/emulation/device_memory.h"
#include "tests/emulation/runtime.h"
#include "tests/emulation/streams.h"

namespace emulator {

struct Block {  // memory that the host has and has not freed
  size_t bytes = 0;
  std::shared_ptr<Region> region;  // of device memory
  std::shared_ptr<Capture> owner;  // the graph whose node allocates it
};
struct Pinned {
  size_t bytes = 0;
  int pending = 0;  // copies that have not run
  std::unique_ptr<char[]> memory;
};

// Comes at the nth time that it could, and as often as `times` says.
struct Fault {
  int nth = 0, times = 1;
  bool comes_now() {
    if (nth == 0 || --nth > 0) return false;
    nth = --times > 0 ? 1 : 0;
    return true;
  }
};

struct Gpu {
  explicit Gpu(unsigned seed) : streams(seed) {}
  DeviceMemory memory;
  Streams streams;
  std::map<const char*, Block> blocks;
  std::map<const char*, Pinned> pinned;
  std::map<CUevent_st*, std::unique_ptr<CUevent_st>> events;
  std::map<CUgraph_st*, std::unique_ptr<CUgraph_st>> graphs;
  std::map<CUgraphExec_st*, std::unique_ptr<CUgraphExec_st>> execs;
  cudaError_t last = cudaSuccess, sticky = cudaSuccess;
  Fault allocation_to_fail, graph_to_fail;
  Recorded last_recorded;
  int launch_to_refuse = 0, launch_to_break = 0, wait_to_forget = 0;
  Reserve pool;                     // of what streams allocate
  uint64_t reserved_by_graphs = 0;  // they share it, as none runs beside another
  std::string bus;
  bool in_host_function = false;  // which may not call CUDA
};
Gpu& gpu();

// Notes an error for cudaGetLastError and hands it on.
cudaError_t answer(cudaError_t error);
// The checks that every call begins with; other than success, it is the answer.
cudaError_t before_call();
// before_call, and the stream exists. The legacy default stream is refused: it orders all others.
cudaError_t before_call(CUstream_st* stream);
// Runs work; a Violation on the way leaves a GPU with nothing to do.
cudaError_t run(const std::function<void()>& some_work);

// The block of device memory that holds all of [at, at + bytes), or nullptr.
const Block* find_block(const void* at, size_t bytes);
Pinned* find_pinned(const void* at, size_t bytes);

}  // namespace emulator
