// core/device/stream.h -- where work runs: the CPU's threads, or a CUDA stream.
#pragma once

namespace qt {

// A plain value. On the CPU launchers finish before they return; on a CUDA stream they are
// enqueued.
struct Stream {
  void* cuda = nullptr;  // cudaStream_t where on_gpu
  bool on_gpu = false;
};

// The stream of the calling thread; the CPU by default.
inline Stream& current_stream() {
  static thread_local Stream stream;
  return stream;
}

}  // namespace qt
