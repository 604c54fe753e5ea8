// core/device/cuda/handle.h -- error checks and ownership of CUDA's handles.
#pragma once
#include <cuda_runtime_api.h>

#include <memory>
#include <string>

#include "core/base/error.h"
#include "core/device/stream.h"

namespace qt {

// InternalError that names the call where it failed.
void check_cuda(cudaError_t status, const std::string& call);

// A handle that destroy() ends with its last owner. Errors there are not reported: they are those
// of earlier work, which the next call reports.
template <class Handle, class Destroy>
std::shared_ptr<void> owned(Handle handle, Destroy destroy) {
  return {static_cast<void*>(handle),
          [destroy](void* h) { static_cast<void>(destroy(static_cast<Handle>(h))); }};
}

template <class Handle>
Handle as(const std::shared_ptr<void>& handle) {
  return static_cast<Handle>(handle.get());
}

// The stream, for what must not outlive it: a GpuStream lives as long; one of others is not owned.
std::shared_ptr<void> shared(cudaStream_t stream);

inline cudaStream_t handle(Stream stream) {
  QT_CHECK(stream.on_gpu, "a GPU's stream is needed, the CPU's was given");
  return static_cast<cudaStream_t>(stream.cuda);
}

}  // namespace qt
