// tests/emulation/runtime.h -- what tests ask of the emulated GPU beyond CUDA's own functions.
#pragma once
#include <functional>
#include <string>

#include "core/device/stream.h"

namespace emulator {

// A fresh GPU; the seed chooses which legal order work runs in (seed % 3: as late as possible, any
// order, other streams first). Handles of the one before are no longer valid.
void reset(unsigned seed = 0);

// What was allocated or created and is still there: "" or a list.
std::string leaks();

// The nth allocation from now on fails for lack of memory, and as many as `times` says; 1 is the
// next.
void fail_allocation(int nth, int times = 1);
// Likewise the nth launch of a graph.
void fail_graph(int nth, int times = 1);
// The nth kernel launch from now on is refused at once.
void refuse_launch(int nth);
// The nth kernel launch from now on fails while it runs: an error that every later call returns.
void break_launch(int nth);

// The nth time that a stream is told to wait for an event from now on, it forgets to.
void forget_wait(int nth);

// From now on cuBLASLt has no algorithm for products of codes with fewer rows.
void offer_products_from(int64_t rows);

// The GPU's place among the buses of its machine; without, each process has one of its own.
void put_gpu_at(const std::string& bus);

// What the graph that was recorded last consists of.
struct Recorded {
  size_t nodes = 0, kernels = 0;  // kernels of our own; memory, copies and libraries are nodes too
};
Recorded last_recorded();

// Work of a library on the GPU: runs in the stream's order and may touch device memory.
void enqueue_library_work(qt::Stream stream, std::function<void()> work);

}  // namespace emulator
