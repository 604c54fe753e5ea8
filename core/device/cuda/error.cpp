// core/device/cuda/error.cpp -- error checks of the CUDA runtime.
#include "core/base/error.h"

#include <string>

#include "core/device/cuda/handle.h"

namespace qt {

void check_cuda(cudaError_t status, const std::string& call) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // or the next launch is blamed for it
  throw InternalError("CUDA " + call + ": " + cudaGetErrorString(status));
}

namespace kernel {

// Throws where the launch just made was refused.
void check_launch(const char* kernel) {
  check_cuda(cudaGetLastError(), std::string("kernel ") + kernel);
}

}  // namespace kernel
}  // namespace qt
