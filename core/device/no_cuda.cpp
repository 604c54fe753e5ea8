// core/device/no_cuda.cpp -- stands in for core/device/cuda/ in builds without CUDA.
#include "core/base/error.h"
#include "core/device/gpu.h"

namespace qt {
namespace {

[[noreturn]] void refuse() {
  throw InternalError("this build has no CUDA: there is no GPU to work on");
}

}  // namespace

bool built_with_cuda() { return false; }
int gpu_count() { return 0; }
void use_gpu(int) { refuse(); }

GpuStream::GpuStream() { refuse(); }
void GpuStream::synchronize() const { refuse(); }
GpuEvent::GpuEvent(bool) { refuse(); }
void GpuEvent::record(Stream) { refuse(); }
void GpuEvent::hold_back(Stream) const { refuse(); }
bool GpuEvent::reached() const { refuse(); }
void GpuEvent::synchronize() const { refuse(); }
double GpuEvent::seconds_since(const GpuEvent&) const { refuse(); }
std::string gpu_identity() { refuse(); }
GpuGraph::GpuGraph(Stream, const std::function<void()>&) { refuse(); }
void GpuGraph::launch(Stream) const { refuse(); }
bool is_recording(Stream) { return false; }

std::shared_ptr<void> allocate_on_gpu(size_t, Stream) { refuse(); }
std::shared_ptr<void> allocate_pinned(size_t) { refuse(); }
void used_on(const void*, Stream) { refuse(); }
MemoryStats gpu_memory_stats() { return {}; }
void reset_gpu_memory_peak() {}
void release_cached_gpu_memory() {}
size_t gpu_reserved_bytes() { return 0; }
void copy_to_gpu(void*, const void*, size_t, Stream) { refuse(); }
void send_to_gpu(void*, const void*, size_t, Stream) { refuse(); }
void copy_to_host(void*, const void*, size_t, Stream) { refuse(); }
void copy_on_gpu(void*, const void*, size_t, Stream) { refuse(); }
void set_bytes_on_gpu(void*, int, size_t, Stream) { refuse(); }

}  // namespace qt
