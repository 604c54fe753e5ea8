// core/device/stream.h -- where work runs: the CPU's threads, or a CUDA stream.
#pragma once
#include <utility>

namespace qt {

// A plain value. On the CPU launchers finish before they return; on a CUDA stream they are
// enqueued.
struct Stream {
  void* cuda = nullptr;  // cudaStream_t where on_gpu
  bool on_gpu = false;
};

// The stream of the calling thread; the CPU by default. Where it is on a GPU, new tensors lie in
// the GPU's memory.
inline Stream& current_stream() {
  static thread_local Stream stream;
  return stream;
}

// While alive, current_stream() is another.
class UseStream {
 public:
  explicit UseStream(Stream stream) : before_(std::exchange(current_stream(), stream)) {}
  ~UseStream() { current_stream() = before_; }
  UseStream(const UseStream&) = delete;
  UseStream& operator=(const UseStream&) = delete;

 private:
  Stream before_;
};

}  // namespace qt
