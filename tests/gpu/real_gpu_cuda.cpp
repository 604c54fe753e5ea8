// tests/gpu/real_gpu_cuda.cpp -- the GPU under test is the machine's first.
#include <cuda_runtime_api.h>

#include "tests/gpu/on_gpu.h"

namespace qt::gpu_under_test {

std::string missing() { return gpu_count() > 0 ? "" : "no CUDA device"; }
bool is_emulated() { return false; }
int orders() { return 1; }
void start(int) {}
std::string name_of_order(int) { return "on a GPU"; }
std::string leaks() { return ""; }  // in_use of gpu_memory_stats says it
size_t bytes_in_use() {
  size_t free = 0, total = 0;
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? total - free : 0;
}

}  // namespace qt::gpu_under_test
