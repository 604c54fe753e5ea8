// tests/emulation/runtime.cpp -- the emulated GPU: errors, streams, events, launches, host
// functions.
#include "tests/emulation/runtime.h"

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>

#include "tests/emulation/emulator.h"
#include "tests/emulation/gpu.h"
#include "tests/emulation/launching.h"

namespace emulator {
namespace {

std::unique_ptr<Gpu>& instance() {
  static std::unique_ptr<Gpu> gpu = std::make_unique<Gpu>(0);
  return gpu;
}

// Whether the page at an address is mapped: numbers that merely look like an address are not.
bool is_mapped(uint64_t address) {
  unsigned char resident = 0;
  return mincore(reinterpret_cast<void*>(address / 4096 * 4096), 1, &resident) == 0;
}

// Below lie programs that are not position-independent, and two small numbers side by side look as
// if they did. AddressSanitizer maps what it notes of all memory there, and nothing else.
#ifdef EMULATOR_ASAN
constexpr uint64_t first_address = 0x10007fff8000;
#else
constexpr uint64_t first_address = uint64_t{1} << 32;
#endif

std::string describe(const void* address) {
  char text[32];
  snprintf(text, sizeof text, "%p", address);
  return text;
}

// Every aligned word of the arguments that is an address must be one of memory the GPU has. Adds
// those of device memory to `used`.
void check_argument(const Launch& launch, const Launch::Argument& argument, size_t number,
                    std::vector<const void*>& used) {
  for (size_t at = 0; at + 8 <= argument.size; at += 8) {
    uint64_t word = 0;
    memcpy(&word, static_cast<const char*>(argument.bytes) + at, 8);
    if (word < first_address || word >= uint64_t{1} << 47) continue;  // no address of Linux
    const auto* const address = reinterpret_cast<const void*>(word);
    const std::string what =
        launch.kernel + ": argument " + std::to_string(number) + " holds " + describe(address);
    if (gpu().memory.contains(address)) {
      used.push_back(address);
      if (!find_block(address, 0))
        throw Violation(what + ", device memory that is not allocated (any more)");
    } else if (!find_pinned(address, 0) && is_mapped(word)) {
      throw Violation(what + ", an address of host memory, which no GPU can read");
    }
  }
}

bool is_possible(const Launch& l) {
  const uint64_t threads = uint64_t(l.block.x) * l.block.y * l.block.z;
  return threads >= 1 && threads <= 1024 && l.block.z <= 64 && l.grid.x >= 1 && l.grid.y >= 1 &&
         l.grid.z >= 1 && l.grid.x <= 0x7fffffffu && l.grid.y <= 65535 && l.grid.z <= 65535 &&
         l.shared_bytes <= 48 << 10;
}

bool counts_down(int& left) { return left > 0 && --left == 0; }

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Gpu& gpu() { return *instance(); }

void reset(unsigned seed) {
  instance().reset();
  instance() = std::make_unique<Gpu>(seed);
  gpu().bus = "emulated " + std::to_string(getpid());
}

std::string leaks() {
  const Gpu& g = gpu();
  std::string list;
  const auto count = [&](size_t number, const char* what) {
    if (number) list += std::to_string(number) + " " + what + "; ";
  };
  count(g.blocks.size(), "blocks of device memory");
  count(g.pinned.size(), "blocks of pinned memory");
  count(g.streams.count(), "streams");
  count(g.events.size(), "events");
  count(g.graphs.size() + g.execs.size(), "graphs");
  return list;
}

void fail_allocation(int nth, int times) { gpu().allocation_to_fail = {nth, times}; }
void fail_graph(int nth, int times) { gpu().graph_to_fail = {nth, times}; }
void refuse_launch(int nth) { gpu().launch_to_refuse = nth; }
void break_launch(int nth) { gpu().launch_to_break = nth; }
void forget_wait(int nth) { gpu().wait_to_forget = nth; }
void put_gpu_at(const std::string& bus) { gpu().bus = bus; }

Recorded last_recorded() { return gpu().last_recorded; }

cudaError_t answer(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) gpu().last = error;
  return error;
}

cudaError_t before_call() {
  if (gpu().in_host_function)
    throw Violation("a host function calls CUDA, which waits for itself on a GPU");
  return answer(gpu().sticky);
}

cudaError_t before_call(CUstream_st* stream) {
  if (const cudaError_t error = before_call()) return error;
  if (!stream) throw Violation("the legacy default stream is used: it waits for all others");
  return gpu().streams.alive(stream) ? cudaSuccess : answer(cudaErrorInvalidResourceHandle);
}

cudaError_t run(const std::function<void()>& some_work) {
  try {
    const DeviceMemory::Access access(gpu().memory);
    some_work();
  } catch (...) {
    gpu().streams.drop_all();
    for (auto& [address, block] : gpu().pinned) block.pending = 0;
    throw;
  }
  return answer(gpu().sticky);
}

const Block* find_block(const void* at, size_t bytes) {
  const auto& blocks = gpu().blocks;
  const auto* const address = static_cast<const char*>(at);
  auto found = blocks.upper_bound(address);
  if (found == blocks.begin()) return nullptr;
  --found;
  return address + bytes <= found->first + found->second.bytes ? &found->second : nullptr;
}

Pinned* find_pinned(const void* at, size_t bytes) {
  auto& blocks = gpu().pinned;
  const auto* const address = static_cast<const char*>(at);
  auto found = blocks.upper_bound(address);
  if (found == blocks.begin()) return nullptr;
  --found;
  return address + bytes <= found->first + found->second.bytes ? &found->second : nullptr;
}

void enqueue(Launch launch, cudaStream_t stream) {
  Gpu& g = gpu();
  if (before_call(stream)) return;
  if (!is_possible(launch)) return void(answer(cudaErrorInvalidConfiguration));
  if (counts_down(g.launch_to_refuse)) return void(answer(cudaErrorLaunchOutOfResources));
  std::vector<const void*> used;
  for (size_t i = 0; i < launch.arguments.size(); ++i)
    check_argument(launch, launch.arguments[i], i, used);
  launch.arguments.clear();
  // Memory that a graph allocates and frees itself is there whenever the graph runs; other memory
  // may have been freed since the recording.
  std::erase_if(used, [&](const void* at) {
    return !stream->capture || find_block(at, 0)->owner == stream->capture;
  });
  if (stream->capture) ++stream->capture->kernels;
  const bool breaks = counts_down(g.launch_to_break);
  g.streams.enqueue(stream, [launch = std::move(launch), used = std::move(used), breaks] {
    for (const void* at : used)
      if (!find_block(at, 0))
        throw Violation(launch.kernel + ": a graph uses device memory that was freed");
    if (gpu().sticky) return;
    if (breaks)
      gpu().sticky = cudaErrorIllegalAddress;
    else
      run_grid(launch.grid, launch.block, launch.shared_bytes, launch.body);
  });
}

void enqueue_library_work(qt::Stream stream, std::function<void()> work) {
  gpu().streams.enqueue(static_cast<CUstream_st*>(stream.cuda), [work = std::move(work)] {
    if (!gpu().sticky) work();
  });
}

}  // namespace emulator

using namespace emulator;

extern "C" {  // NOLINTBEGIN(readability-identifier-naming)

cudaError_t cudaGetLastError() {
  const cudaError_t last = std::exchange(gpu().last, gpu().sticky);
  return last;
}
cudaError_t cudaPeekAtLastError() { return gpu().last; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorLaunchOutOfResources: return "cudaErrorLaunchOutOfResources";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureUnjoined: return "cudaErrorStreamCaptureUnjoined";
    case cudaErrorStreamCaptureIsolation: return "cudaErrorStreamCaptureIsolation";
    default: return "an error the emulator does not know";
  }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return before_call();
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  if (const cudaError_t error = before_call()) return error;
  if (device != 0 || length < int(gpu().bus.size()) + 1) return answer(cudaErrorInvalidValue);
  memcpy(text, gpu().bus.c_str(), gpu().bus.size() + 1);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return answer(device == 0 ? cudaSuccess : cudaErrorInvalidValue);
}

// Forbidden while any stream is captured.
static cudaError_t before_waiting() {
  if (const cudaError_t error = before_call()) return error;
  if (!gpu().streams.capturing()) return cudaSuccess;
  gpu().streams.invalidate_captures();
  return answer(cudaErrorStreamCaptureUnsupported);
}

cudaError_t cudaDeviceSynchronize() {
  if (const cudaError_t error = before_waiting()) return error;
  return run([] { gpu().streams.run_all(); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (const cudaError_t error = before_call()) return error;
  if (flags != cudaStreamNonBlocking)
    throw Violation("a stream that is not cudaStreamNonBlocking waits for the default stream");
  *stream = gpu().streams.create();
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (!gpu().streams.alive(stream)) return answer(cudaErrorInvalidResourceHandle);
  gpu().streams.destroy(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t error = before_call(stream)) return error;
  if (const cudaError_t error = before_waiting()) return error;
  return run([stream] { gpu().streams.run_until(stream, stream->issued); });
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (const cudaError_t error = before_call(stream)) return error;
  if (const cudaError_t error = before_waiting()) return error;
  const bool ready = stream->done == stream->issued;
  if (const cudaError_t error = run([] { gpu().streams.run_one(); })) return error;
  return ready ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (const cudaError_t error = before_call(stream)) return error;
  if (!gpu().events.count(event)) return answer(cudaErrorInvalidResourceHandle);
  if (counts_down(gpu().wait_to_forget)) return cudaSuccess;
  // Work outside a recording cannot be waited for inside, and no two recordings may mix.
  if (stream->capture && stream->capture != event->capture) {
    if (!event->capture && !event->stream) return cudaSuccess;
    stream->capture->invalid = true;
    return answer(cudaErrorStreamCaptureIsolation);
  }
  if (event->capture && event->capture->finished) return answer(cudaErrorStreamCaptureIsolation);
  gpu().streams.wait(stream, *event);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (const cudaError_t error = before_call()) return error;
  auto made = std::make_unique<CUevent_st>();
  made->timed = !(flags & cudaEventDisableTiming);
  *event = made.get();
  gpu().events.emplace(*event, std::move(made));
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return gpu().events.erase(event) ? cudaSuccess : answer(cudaErrorInvalidResourceHandle);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (const cudaError_t error = before_call(stream)) return error;
  if (!gpu().events.count(event)) return answer(cudaErrorInvalidResourceHandle);
  auto when = std::make_shared<double>(0);
  if (event->timed && !stream->capture)
    gpu().streams.enqueue(stream, [when] { *when = seconds_now(); });
  *event = {stream, stream->issued, stream->capture, stream->tails, event->timed, when};
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (const cudaError_t error = before_call()) return error;
  for (CUevent_st* const event : {begin, end}) {
    if (!gpu().events.count(event) || !event->timed || !event->stream || event->capture)
      return answer(cudaErrorInvalidResourceHandle);
    if (*event->when == 0) return cudaErrorNotReady;
  }
  *milliseconds = float((*end->when - *begin->when) * 1e3);
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (const cudaError_t error = before_waiting()) return error;
  if (!gpu().events.count(event)) return answer(cudaErrorInvalidResourceHandle);
  if (event->capture) return answer(cudaErrorStreamCaptureUnsupported);
  if (!event->stream) return cudaSuccess;
  return run([event] { gpu().streams.run_until(event->stream, event->count); });
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (const cudaError_t error = before_waiting()) return error;
  if (!gpu().events.count(event)) return answer(cudaErrorInvalidResourceHandle);
  if (event->capture) return answer(cudaErrorStreamCaptureUnsupported);
  const bool reached = !event->stream || event->stream->done >= event->count;
  if (!gpu().streams.any_may_run()) return reached ? cudaSuccess : cudaErrorNotReady;
  if (const cudaError_t error = run([] { gpu().streams.run_one(); })) return error;
  return reached ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  if (const cudaError_t error = before_call(stream)) return error;
  gpu().streams.enqueue(stream, [function, data] {
    const DeviceMemory::NoAccess no_access(gpu().memory);
    gpu().in_host_function = true;
    struct Leave {
      ~Leave() { gpu().in_host_function = false; }
    } leave;
    function(data);
  });
  return cudaSuccess;
}

}  // extern "C" NOLINTEND(readability-identifier-naming)
