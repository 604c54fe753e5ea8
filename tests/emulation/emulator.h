// tests/emulation/emulator.h -- executes CUDA kernels on the CPU: one fiber per CUDA thread, blocks
// one after another, and an error where CUDA would hang or be undefined.
//
// A thread runs until it waits or returns. In `ascending` order thread i finishes each stretch
// between two barriers before thread i + 1 starts it, in `descending` order the reverse: a result
// that hangs on a missing barrier differs between the two. Under -fsanitize=thread every CUDA
// thread is a thread to the sanitizer and only barriers order them: races in shared and in global
// memory, between threads and between blocks, are reported. Under -fsanitize=address,undefined so
// are accesses outside a buffer or shared array and misaligned vectors.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>

inline uint3 threadIdx, blockIdx;  // of the CUDA thread that runs
inline dim3 blockDim, gridDim;

namespace emulator {

// What CUDA would not report, or only as a wrong result: names file, line, block and thread.
struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Where a CUDA thread waits: std::source_location, which clang has from version 15 on.
class Site {
 public:
  static constexpr Site current(const char* file = __builtin_FILE(),
                                unsigned line = __builtin_LINE()) {
    Site here;
    here.file_ = file;
    here.line_ = line;
    return here;
  }
  constexpr const char* file_name() const { return file_; }
  constexpr unsigned line() const { return line_; }

 private:
  const char* file_ = "";
  unsigned line_ = 0;
};

enum class Order { ascending, descending, shuffled };

// The order in which threads and blocks run, from now on.
void set_order(Order order, unsigned seed = 1);

// Runs a grid to its end; body is one CUDA thread. Throws Violation.
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

// What a CUDA thread calls.
void barrier(Site where);
void sync_warp(unsigned mask, Site where);
unsigned ballot(unsigned mask, bool vote, Site where);
// The value of lane `from`; of the caller's own where `from` lies outside its group of `width`.
uint64_t read_lane(unsigned mask, uint64_t value, int from, int width, Site where);
int lane();
// The block's array `key`: born as NaN, exactly this long.
void* shared_memory(const void* key, size_t bytes);
void* dynamic_shared_memory();

}  // namespace emulator
