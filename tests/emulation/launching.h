// tests/emulation/launching.h -- how a kernel launch reaches the emulated runtime.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace emulator {

struct Launch {
  std::string kernel{};  // its signature, for messages
  dim3 grid{}, block{};
  size_t shared_bytes = 0;
  std::function<void()> body{};  // one CUDA thread
  struct Argument {
    const void* bytes;
    size_t size;
  };
  std::vector<Argument> arguments{};  // looked at during the call only
};

// Sets the last error where CUDA would refuse the launch; throws Violation where an argument holds
// an address of the host's memory, which no GPU can read.
void enqueue(Launch launch, cudaStream_t stream);

}  // namespace emulator
