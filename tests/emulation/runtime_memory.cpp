// tests/emulation/runtime_memory.cpp -- the emulated GPU: allocation, copies, graphs.
#include <algorithm>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "tests/emulation/emulator.h"
#include "tests/emulation/gpu.h"
#include "tests/emulation/runtime.h"

using namespace emulator;

namespace {

bool fails_now() { return gpu().allocation_to_fail.comes_now(); }

// Memory freed on the same stream can be used anew although the work before has not run yet.
std::shared_ptr<Region> region_for(CUstream_st* stream, size_t bytes) {
  if (!stream->capture)
    for (auto it = stream->freed.begin(); it != stream->freed.end(); ++it)
      if ((*it)->capacity >= bytes && (*it)->capacity <= 2 * bytes + 4096) {
        auto region = *it;
        stream->freed.erase(it);
        return region;
      }
  return gpu().memory.take(bytes);
}

// Runs where the stream's work has come to the free.
void end_use(CUstream_st* stream, const std::shared_ptr<Region>& region, size_t bytes) {
  gpu().memory.end(*region, bytes);
  --region->ends;
  const auto at = std::find(stream->freed.begin(), stream->freed.end(), region);
  if (region->ends > 0 || at == stream->freed.end()) return;  // its stream has taken it again
  stream->freed.erase(at);
  gpu().memory.give_back(region);
}

cudaError_t check_copy(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const auto device = [&](const void* at, const char* what) {
    if (!find_block(at, bytes))
      throw Violation(std::string("cudaMemcpyAsync: ") + what + " is not " + std::to_string(bytes) +
                      " bytes of device memory that is allocated");
  };
  const auto pinned = [&](const void* at, const char* what) {
    if (!find_pinned(at, bytes))
      throw Violation(std::string("cudaMemcpyAsync: ") + what + " is not " + std::to_string(bytes) +
                      " bytes of pinned memory");
  };
  switch (kind) {
    case cudaMemcpyHostToDevice: device(to, "the destination"), pinned(from, "the source"); break;
    case cudaMemcpyDeviceToHost: pinned(to, "the destination"), device(from, "the source"); break;
    case cudaMemcpyDeviceToDevice: device(to, "the destination"), device(from, "the source"); break;
    default: return answer(cudaErrorNotSupported);
  }
  return cudaSuccess;
}

}  // namespace

extern "C" {  // NOLINTBEGIN(readability-identifier-naming)

cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = before_call(stream)) return error;
  auto region = fails_now() ? nullptr : region_for(stream, bytes);
  if (!region) return answer(cudaErrorMemoryAllocation);
  *memory = region->start;
  const auto& capture = stream->capture;
  if (capture) {
    capture->regions.push_back(region);
    ++capture->allocations;
  }
  (capture ? capture->memory : gpu().pool).add(bytes);
  gpu().blocks[region->start] = {bytes, region, capture};
  gpu().streams.enqueue(stream, [region, bytes] { gpu().memory.begin(*region, bytes); });
  return cudaSuccess;
}

cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  if (!memory) return cudaSuccess;
  if (const cudaError_t error = before_call(stream)) return error;
  const auto found = gpu().blocks.find(static_cast<char*>(memory));
  if (found == gpu().blocks.end())
    throw Violation("cudaFreeAsync of memory that is not allocated (any more)");
  const Block block = found->second;
  if (stream->capture && block.owner != stream->capture)
    throw Violation("cudaFreeAsync in a capture, of memory that the capture did not allocate");
  gpu().blocks.erase(found);
  if (stream->capture) --stream->capture->allocations;
  (block.owner ? block.owner->memory : gpu().pool).in_use -= block.bytes;
  if (!stream->capture && !block.owner) stream->freed.push_back(block.region);
  ++block.region->ends;
  gpu().streams.enqueue(stream, [stream, region = block.region, bytes = block.bytes] {
    end_use(stream, region, bytes);
  });
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  if (const cudaError_t error = before_call()) return error;
  if (gpu().streams.capturing()) {
    gpu().streams.invalidate_captures();
    return answer(cudaErrorStreamCaptureUnsupported);
  }
  if (fails_now()) return answer(cudaErrorMemoryAllocation);
  Pinned block{.bytes = bytes, .memory = std::make_unique<char[]>(bytes + 1)};
  memset(block.memory.get(), 0xff, bytes);
  *memory = block.memory.get();
  gpu().pinned.emplace(block.memory.get(), std::move(block));
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory) {
  const auto found = gpu().pinned.find(static_cast<char*>(memory));
  if (found == gpu().pinned.end()) return answer(cudaErrorInvalidValue);
  if (found->second.pending)
    throw Violation("cudaFreeHost of memory that a copy still reads or writes");
  gpu().pinned.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (const cudaError_t error = before_call(stream)) return error;
  if (bytes == 0) return cudaSuccess;
  if (const cudaError_t error = check_copy(to, from, bytes, kind)) return error;
  const void* const host_address = kind == cudaMemcpyHostToDevice ? from : to;
  Pinned* const host =
      kind == cudaMemcpyDeviceToDevice ? nullptr : find_pinned(host_address, bytes);
  const bool counted = host && !stream->capture;  // a graph's copies happen again and again
  if (counted) ++host->pending;
  gpu().streams.enqueue(stream, [to, from, bytes, host, host_address, counted] {
    if (counted) --host->pending;
    if (!counted && host && find_pinned(host_address, bytes) != host)
      throw Violation("a graph copies from or to pinned memory that was freed");
    if (!gpu().sticky) memcpy(to, from, bytes);
  });
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = before_call(stream)) return error;
  if (!find_block(to, bytes))
    throw Violation("cudaMemsetAsync: not " + std::to_string(bytes) +
                    " bytes of device memory that is allocated");
  gpu().streams.enqueue(stream, [to, value, bytes] {
    if (!gpu().sticky) memset(to, value, bytes);
  });
  return cudaSuccess;
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = reinterpret_cast<cudaMemPool_t>(&gpu());
  return before_call();
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr attribute, void*) {
  return answer(attribute == cudaMemPoolAttrReleaseThreshold ? cudaSuccess : cudaErrorNotSupported);
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr attribute, void* value) {
  if (attribute != cudaMemPoolAttrReservedMemCurrent) return answer(cudaErrorNotSupported);
  *static_cast<uint64_t*>(value) = gpu().pool.reserved;
  return before_call();
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) {
  gpu().pool.reserved = gpu().pool.in_use;
  return before_call();
}
cudaError_t cudaDeviceGetGraphMemAttribute(int, cudaGraphMemAttributeType attribute, void* value) {
  if (attribute != cudaGraphMemAttrReservedMemCurrent) return answer(cudaErrorNotSupported);
  *static_cast<uint64_t*>(value) = gpu().reserved_by_graphs;
  return before_call();
}
cudaError_t cudaDeviceGraphMemTrim(int) {
  gpu().reserved_by_graphs = 0;  // whoever asks has waited for all graphs
  return before_call();
}

// ---- graphs ----
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (const cudaError_t error = before_call(stream)) return error;
  if (mode == cudaStreamCaptureModeRelaxed) return answer(cudaErrorNotSupported);
  if (stream->capture) return answer(cudaErrorInvalidValue);
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = stream;
  stream->capture->streams = {stream};
  stream->tails.clear();
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  if (const cudaError_t error = before_call(stream)) return error;
  *status = !stream->capture           ? cudaStreamCaptureStatusNone
            : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                       : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

// Whether every node is one that the origin's last nodes wait for, at some remove.
static bool is_joined(const Capture& capture) {
  std::vector<bool> reached(capture.nodes.size());
  std::vector<size_t> open = capture.origin->tails;
  while (!open.empty()) {
    const size_t node = open.back();
    open.pop_back();
    if (reached[node]) continue;
    reached[node] = true;
    open.insert(open.end(), capture.nodes[node].after.begin(), capture.nodes[node].after.end());
  }
  for (const CUstream_st* stream : capture.streams)
    for (const size_t node : stream->tails)
      if (!reached[node]) return false;
  return true;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (const cudaError_t error = before_call(stream)) return error;
  const auto capture = stream->capture;
  if (!capture || capture->origin != stream) return answer(cudaErrorInvalidValue);
  const bool joined = is_joined(*capture);
  capture->finished = true;
  for (CUstream_st* s : capture->streams) {
    s->capture = nullptr;
    s->tails.clear();
  }
  *graph = nullptr;
  gpu().last_recorded = {capture->nodes.size(), capture->kernels};
  if (capture->invalid) return answer(cudaErrorStreamCaptureInvalidated);
  if (!joined) return answer(cudaErrorStreamCaptureUnjoined);
  auto made = std::make_unique<CUgraph_st>(CUgraph_st{capture});
  *graph = made.get();
  gpu().graphs.emplace(*graph, std::move(made));
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags) {
  if (const cudaError_t error = before_call()) return error;
  if (flags) return answer(cudaErrorNotSupported);
  if (!gpu().graphs.count(graph)) return answer(cudaErrorInvalidValue);
  auto made = std::make_unique<CUgraphExec_st>(CUgraphExec_st{graph->recording});
  *exec = made.get();
  gpu().execs.emplace(*exec, std::move(made));
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (const cudaError_t error = before_call(stream)) return error;
  if (!gpu().execs.count(exec)) return answer(cudaErrorInvalidValue);
  if (stream->capture || exec->recording->allocations > 0) {
    // Emulated graphs free what they allocate: what outlives one would be handed out twice.
    return answer(cudaErrorNotSupported);
  }
  if (gpu().graph_to_fail.comes_now()) return answer(cudaErrorMemoryAllocation);
  gpu().reserved_by_graphs = std::max(gpu().reserved_by_graphs, exec->recording->memory.reserved);
  gpu().streams.enqueue(
      stream, [recording = exec->recording] { gpu().streams.run_nodes(recording->nodes); });
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return gpu().graphs.erase(graph) ? cudaSuccess : answer(cudaErrorInvalidValue);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  return gpu().execs.erase(exec) ? cudaSuccess : answer(cudaErrorInvalidValue);
}

}  // extern "C" NOLINTEND(readability-identifier-naming)
