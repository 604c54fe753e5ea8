// core/device/cuda.cpp -- error checks of the CUDA runtime; built with CUDA only.
#include <cuda_runtime_api.h>

#include <string>

#include "core/base/error.h"

namespace qt::kernel {

// Throws where the launch just made was refused.
void check_launch(const char* kernel) {
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    throw InternalError(std::string("CUDA kernel ") + kernel + ": " + cudaGetErrorString(error));
}

}  // namespace qt::kernel
