// core/device/cuda/stream.cpp -- streams, events and graphs of CUDA.
#include <array>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "core/base/error.h"
#include "core/device/cuda/arena.h"
#include "core/device/cuda/handle.h"
#include "core/device/gpu.h"

namespace qt {
namespace {

// The streams that live. Never destroyed: tensors in static objects may return storage after main.
class Streams {
 public:
  static Streams& all() {
    static Streams* const instance = std::make_unique<Streams>().release();
    return *instance;
  }
  std::shared_ptr<void> add(cudaStream_t stream) {
    const std::shared_ptr<void> handle = owned(stream, [](cudaStream_t s) {
      all().forget(s);
      return cudaStreamDestroy(s);
    });
    const std::lock_guard lock(mutex_);
    streams_[stream] = handle;
    return handle;
  }
  std::shared_ptr<void> find(cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    const auto found = streams_.find(stream);
    return found == streams_.end() ? nullptr : found->second.lock();
  }

 private:
  void forget(cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    streams_.erase(stream);
  }
  std::mutex mutex_;
  std::unordered_map<cudaStream_t, std::weak_ptr<void>> streams_;
};

}  // namespace

std::shared_ptr<void> shared(cudaStream_t stream) {
  const std::shared_ptr<void> owner = Streams::all().find(stream);
  return {owner, stream};  // of nobody's where that is null
}

GpuStream::GpuStream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  handle_ = Streams::all().add(stream);
}

void GpuStream::synchronize() const {
  check_cuda(cudaStreamSynchronize(as<cudaStream_t>(handle_)), "cudaStreamSynchronize");
}

GpuEvent::GpuEvent(bool timed) {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, timed ? 0 : cudaEventDisableTiming),
             "cudaEventCreate");
  handle_ = owned(event, cudaEventDestroy);
}

void GpuEvent::record(Stream stream) {
  check_cuda(cudaEventRecord(as<cudaEvent_t>(handle_), handle(stream)), "cudaEventRecord");
}

void GpuEvent::hold_back(Stream stream) const {
  check_cuda(cudaStreamWaitEvent(handle(stream), as<cudaEvent_t>(handle_), 0),
             "cudaStreamWaitEvent");
}

bool GpuEvent::reached() const {
  const cudaError_t status = cudaEventQuery(as<cudaEvent_t>(handle_));
  if (status == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());  // no error, and the next launch is not to be told of it
    return false;
  }
  check_cuda(status, "cudaEventQuery");
  return true;
}

void GpuEvent::synchronize() const {
  check_cuda(cudaEventSynchronize(as<cudaEvent_t>(handle_)), "cudaEventSynchronize");
}

double GpuEvent::seconds_since(const GpuEvent& earlier) const {
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, as<cudaEvent_t>(earlier.handle_),
                                  as<cudaEvent_t>(handle_)),
             "cudaEventElapsedTime");
  return double(milliseconds) / 1e3;
}

std::string gpu_identity() {
  int number = 0;
  std::array<char, 64> text{};
  check_cuda(cudaGetDevice(&number), "cudaGetDevice");
  check_cuda(cudaDeviceGetPCIBusId(text.data(), int(text.size()), number), "cudaDeviceGetPCIBusId");
  return text.data();
}

bool is_recording(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(handle(stream), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

namespace {

// Allocations of this thread come from the arena, whose blocks the recording frees at its end.
class WhileRecording {
 public:
  explicit WhileRecording(std::shared_ptr<Arena> arena)
      : before_(std::exchange(Arena::current(), std::move(arena))) {}
  ~WhileRecording() { std::exchange(Arena::current(), std::move(before_))->finish(); }
  WhileRecording(const WhileRecording&) = delete;
  WhileRecording& operator=(const WhileRecording&) = delete;

 private:
  std::shared_ptr<Arena> before_;
};

}  // namespace

GpuGraph::GpuGraph(Stream stream, const std::function<void()>& work) {
  // Other threads, those of a library too, may allocate and ask for events meanwhile; this one may
  // not.
  check_cuda(cudaStreamBeginCapture(handle(stream), cudaStreamCaptureModeThreadLocal),
             "cudaStreamBeginCapture");
  cudaGraph_t recorded = nullptr;
  const auto arena = std::make_shared<Arena>(handle(stream));
  try {
    const WhileRecording recording(arena);
    work();
    QT_CHECK(arena->parts_out() == 0,
             "memory that was allocated while a graph was recorded is "
             "held beyond the recording: " +
                 std::to_string(arena->parts_out()) + " tensors");
  } catch (...) {
    if (cudaStreamEndCapture(handle(stream), &recorded) == cudaSuccess)
      static_cast<void>(cudaGraphDestroy(recorded));
    static_cast<void>(cudaGetLastError());
    throw;
  }
  check_cuda(cudaStreamEndCapture(handle(stream), &recorded), "cudaStreamEndCapture");
  const auto graph = owned(recorded, cudaGraphDestroy);
  cudaGraphExec_t exec = nullptr;
  check_cuda(cudaGraphInstantiate(&exec, recorded, 0), "cudaGraphInstantiate");
  handle_ = owned(exec, cudaGraphExecDestroy);
}

void GpuGraph::launch(Stream stream) const {
  const cudaError_t status = cudaGraphLaunch(as<cudaGraphExec_t>(handle_), handle(stream));
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    throw OutOfMemory("out of GPU memory: a recorded graph found no room for what it works in; " +
                      std::to_string(gpu_memory_stats().in_use) +
                      " bytes of GPU memory are in use by tensors");
  }
  check_cuda(status, "cudaGraphLaunch");
}

}  // namespace qt
