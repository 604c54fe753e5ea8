// tests/emulation/runtime_test.cpp -- what the emulated GPU refuses, catches and replays, by CUDA's
// own functions.
#include "tests/emulation/runtime.h"

#include <cuda_runtime_api.h>
#include <gmock/gmock.h>

#include <vector>

#include "core/kernel/device_words.h"
#include "tests/emulation/emulated_gpu.h"

namespace qt {
namespace {

using emulator::Violation;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr int n = build == Build::thread ? 100 : 1000;

__global__ void set_kernel(int* to, int value) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) to[i] = value;
}
__global__ void double_kernel(const int* from, int* to) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) to[i] = 2 * from[i];
}
void set(cudaStream_t s, int* to, int value) {
  kernel::launch(set_kernel, unsigned(n + 99) / 100, 100u, 0, s, to, value);
}
void twice(cudaStream_t s, const int* from, int* to) {
  kernel::launch(double_kernel, unsigned(n + 99) / 100, 100u, 0, s, from, to);
}

// Two streams, memory of the first, and a pinned block.
class Runtime : public EmulatedGpu {
 protected:
  void SetUp() override { make(0); }
  void TearDown() override {
    end();
    EmulatedGpu::TearDown();
  }

  void make(unsigned seed) {
    start(seed);
    EXPECT_EQ(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking), cudaSuccess);
    EXPECT_EQ(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking), cudaSuccess);
    EXPECT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    EXPECT_EQ(cudaEventCreateWithFlags(&back, cudaEventDisableTiming), cudaSuccess);
    for (int** p : {&x, &y}) *p = allocate_ints(a);
    void* memory = nullptr;
    EXPECT_EQ(cudaMallocHost(&memory, n * sizeof(int)), cudaSuccess);
    host = static_cast<int*>(memory);
    EXPECT_EQ(cudaStreamSynchronize(a), cudaSuccess);
  }
  void end() {
    static_cast<void>(cudaFreeAsync(x, a));
    static_cast<void>(cudaFreeAsync(y, a));
    static_cast<void>(cudaFreeHost(host));
    static_cast<void>(cudaEventDestroy(event));
    static_cast<void>(cudaEventDestroy(back));
    static_cast<void>(cudaStreamDestroy(a));
    static_cast<void>(cudaStreamDestroy(b));
  }
  // body() is given many GPUs, each of which orders its work in another way.
  template <class Body>
  void on_all_seeds(Body body) {
    for (unsigned seed = 1; seed < (build == Build::thread ? 7 : 40); ++seed) {
      end();
      make(seed);
      body();
    }
  }
  static int* allocate_ints(cudaStream_t stream) {
    void* memory = nullptr;
    EXPECT_EQ(cudaMallocAsync(&memory, n * sizeof(int), stream), cudaSuccess);
    return static_cast<int*>(memory);
  }
  static constexpr size_t bytes = n * sizeof(int);

  cudaStream_t a = nullptr, b = nullptr;
  cudaEvent_t event = nullptr, back = nullptr;
  int *x = nullptr, *y = nullptr, *host = nullptr;
};

TEST_F(Runtime, WorkRunsInTheStreamsOrder) {
  on_all_seeds([&] {
    set(a, x, 3);
    twice(a, x, y);
    cudaMemcpyAsync(host, y, bytes, cudaMemcpyDeviceToHost, a);
    ASSERT_EQ(cudaStreamSynchronize(a), cudaSuccess);
    EXPECT_EQ(host[0], 6);
    EXPECT_EQ(host[n - 1], 6);
  });
}

TEST_F(Runtime, WorkRunsLate) {
  set(a, x, 3);
  cudaMemcpyAsync(host, x, bytes, cudaMemcpyDeviceToHost, a);
  EXPECT_EQ(host[0], -1) << "the host sees a copy that it did not wait for";
  cudaStreamSynchronize(a);
  EXPECT_EQ(host[0], 3);
}

// The same work with and without the event between the streams: right under every seed, or wrong
// under some.
TEST_F(Runtime, AMissingEventIsSeen) {
  for (const bool has_event : {true, false}) {
    int wrong = 0;
    on_all_seeds([&] {
      set(a, x, 3);
      if (has_event) {
        cudaEventRecord(event, a);
        cudaStreamWaitEvent(b, event, 0);
      }
      twice(b, x, y);
      cudaMemcpyAsync(host, y, bytes, cudaMemcpyDeviceToHost, b);
      cudaStreamSynchronize(b);
      wrong += host[0] != 6;
      cudaStreamSynchronize(a);
    });
    EXPECT_EQ(wrong > 0, !has_event);
  }
}

// The other way round: the first stream writes anew what the second still reads.
TEST_F(Runtime, AMissingEventBackIsSeen) {
  for (const bool has_event : {true, false}) {
    int wrong = 0;
    on_all_seeds([&] {
      set(a, x, 3);
      cudaEventRecord(event, a);
      cudaStreamWaitEvent(b, event, 0);
      twice(b, x, y);
      if (has_event) {
        cudaEventRecord(back, b);
        cudaStreamWaitEvent(a, back, 0);
      }
      set(a, x, 100);
      cudaMemcpyAsync(host, y, bytes, cudaMemcpyDeviceToHost, b);
      cudaDeviceSynchronize();
      wrong += host[0] != 6;
    });
    EXPECT_EQ(wrong > 0, !has_event);
  }
}

// Memory freed on its own stream while another one still reads it is handed out again, or poisoned.
TEST_F(Runtime, FreeingWhatAnotherStreamUsesIsSeen) {
  for (const bool waits : {true, false}) {
    int wrong = 0;
    const auto run = [&] {
      int* const early = allocate_ints(a);
      set(a, early, 3);
      cudaEventRecord(event, a);
      cudaStreamWaitEvent(b, event, 0);
      twice(b, early, y);
      if (waits) {
        cudaEventRecord(back, b);
        cudaStreamWaitEvent(a, back, 0);
      }
      cudaFreeAsync(early, a);
      int* const late = allocate_ints(a);
      EXPECT_EQ(late, early) << "the pool has no reason to keep it";
      set(a, late, 50);
      cudaFreeAsync(late, a);
      cudaMemcpyAsync(host, y, bytes, cudaMemcpyDeviceToHost, b);
      cudaDeviceSynchronize();
      wrong += host[0] != 6;
    };
    if (!waits && build == Build::address) {  // it sees the very reading
      EXPECT_DEATH(on_all_seeds(run), "use-after-poison");
      continue;
    }
    on_all_seeds(run);
    EXPECT_EQ(wrong > 0, !waits);
  }
}

TEST_F(Runtime, FreshMemoryIsPoisoned) {
  int* const fresh = allocate_ints(a);
  cudaMemcpyAsync(host, fresh, bytes, cudaMemcpyDeviceToHost, a);
  cudaStreamSynchronize(a);
  EXPECT_EQ(host[n - 1], -1);
  set(a, fresh, 5);
  cudaFreeAsync(fresh, a);
  int* const again = allocate_ints(a);
  cudaMemcpyAsync(host, again, bytes, cudaMemcpyDeviceToHost, a);
  cudaStreamSynchronize(a);
  EXPECT_EQ(host[n - 1], -1) << "what was freed can be read";
  cudaFreeAsync(again, a);
}

TEST_F(Runtime, RefusesACopyThatIsNotPinned) {
  std::vector<int> pageable(n);
  EXPECT_THAT([&] { cudaMemcpyAsync(x, pageable.data(), bytes, cudaMemcpyHostToDevice, a); },
              ThrowsMessage<Violation>(HasSubstr("pinned")));
  EXPECT_THAT([&] { cudaMemcpyAsync(pageable.data(), x, bytes, cudaMemcpyDeviceToHost, a); },
              ThrowsMessage<Violation>(HasSubstr("pinned")));
  EXPECT_THAT(
      [&] { cudaMemcpyAsync(x, host, bytes + 4, cudaMemcpyHostToDevice, a); },
      ThrowsMessage<Violation>(HasSubstr(std::to_string(bytes + 4) + " bytes of device memory")));
  EXPECT_THAT([&] { cudaMemcpyAsync(x + 1, y, bytes, cudaMemcpyDeviceToDevice, a); },
              ThrowsMessage<Violation>(HasSubstr("device memory")));
}

TEST_F(Runtime, RefusesAKernelThatIsGivenHostMemory) {
  std::vector<int> pageable(n);
  EXPECT_THAT([&] { set(a, pageable.data(), 1); },
              ThrowsMessage<Violation>(HasSubstr("argument 0 holds")));
  set(a, host, 7);  // pinned memory can be reached
  cudaStreamSynchronize(a);
  EXPECT_EQ(host[0], 7);
}

TEST_F(Runtime, RefusesAKernelThatIsGivenFreedMemory) {
  int* const freed = allocate_ints(a);
  cudaFreeAsync(freed, a);
  EXPECT_THAT([&] { set(a, freed, 1); }, ThrowsMessage<Violation>(HasSubstr("not allocated")));
  EXPECT_THAT([&] { cudaFreeAsync(freed, a); },
              ThrowsMessage<Violation>(HasSubstr("not allocated")));
}

TEST_F(Runtime, RefusesTheDefaultStream) {
  EXPECT_THAT([&] { set(nullptr, x, 1); }, ThrowsMessage<Violation>(HasSubstr("default stream")));
}

TEST_F(Runtime, HostCodeThatTouchesDeviceMemoryDies) {
  set(a, x, 1);
  cudaStreamSynchronize(a);
  EXPECT_DEATH(printf("%d", x[0]), "host code touched the memory of the emulated device|SEGV");
}

TEST_F(Runtime, RefusesToFreePinnedMemoryThatACopyUses) {
  cudaMemcpyAsync(x, host, bytes, cudaMemcpyHostToDevice, a);
  EXPECT_THAT([&] { cudaFreeHost(host); }, ThrowsMessage<Violation>(HasSubstr("still reads")));
  cudaStreamSynchronize(a);
}

TEST_F(Runtime, HostFunctionsRunInOrderAndMayNotCallCuda) {
  int seen = 0;
  set(a, host, 9);
  std::pair<int*, int*> places{host, &seen};
  cudaLaunchHostFunc(
      a,
      [](void* data) {
        const auto& [from, to] = *static_cast<std::pair<int*, int*>*>(data);
        *to = *from;
      },
      &places);
  EXPECT_EQ(seen, 0);
  cudaStreamSynchronize(a);
  EXPECT_EQ(seen, 9);
  cudaLaunchHostFunc(
      a, [](void*) { cudaDeviceSynchronize(); }, nullptr);
  EXPECT_THAT([&] { cudaStreamSynchronize(a); },
              ThrowsMessage<Violation>(HasSubstr("host function calls CUDA")));
}

TEST_F(Runtime, QueriesComeTrueAtLast) {
  on_all_seeds([&] {
    set(a, x, 1);
    cudaEventRecord(event, a);
    EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
    int asked = 0;
    while (cudaEventQuery(event) == cudaErrorNotReady) ASSERT_LT(++asked, 100);
    EXPECT_EQ(cudaStreamQuery(a), cudaSuccess);
  });
}

TEST_F(Runtime, RefusesImpossibleLaunches) {
  for (const auto& [grid, block, shared] : std::vector<std::tuple<dim3, dim3, size_t>>{
           {0u, 32u, 0}, {1u, 1025u, 0}, {dim3(1, 70000), 32u, 0}, {1u, 32u, 50000}}) {
    kernel::launch(set_kernel, grid, block, shared, a, x, 1);
    EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "the error is asked for once";
  }
}

// ---- graphs ----
TEST_F(Runtime, AGraphIsRecordedAndReplayed) {
  on_all_seeds([&] {
    set(a, x, 1);
    cudaStreamSynchronize(a);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    ASSERT_EQ(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal), cudaSuccess);
    int* const inner = allocate_ints(a);
    twice(a, x, inner);
    cudaEventRecord(event, a);  // a second branch, which comes back
    cudaStreamWaitEvent(b, event, 0);
    twice(b, inner, y);
    cudaEventRecord(back, b);
    cudaStreamWaitEvent(a, back, 0);
    cudaMemcpyAsync(x, inner, bytes, cudaMemcpyDeviceToDevice, a);
    cudaFreeAsync(inner, a);
    ASSERT_EQ(cudaStreamEndCapture(a, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    cudaGraphDestroy(graph);
    for (int launches = 0; launches < 3; ++launches)
      ASSERT_EQ(cudaGraphLaunch(exec, a), cudaSuccess);
    cudaMemcpyAsync(host, y, bytes, cudaMemcpyDeviceToHost, a);
    ASSERT_EQ(cudaStreamSynchronize(a), cudaSuccess);
    EXPECT_EQ(host[5], 16);  // x is 1, 2, 4 before the launches, y four times that
    cudaGraphExecDestroy(exec);
  });
}

// Two nodes of a graph without an edge between them run in any order.
TEST_F(Runtime, AMissingEdgeInAGraphIsSeen) {
  for (const bool has_event : {true, false}) {
    int wrong = 0;
    on_all_seeds([&] {
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t exec = nullptr;
      cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal);
      cudaEventRecord(event, a);
      cudaStreamWaitEvent(b, event, 0);
      set(a, x, 3);
      if (has_event) {
        cudaEventRecord(event, a);
        cudaStreamWaitEvent(b, event, 0);
      }
      twice(b, x, y);
      cudaEventRecord(back, b);
      cudaStreamWaitEvent(a, back, 0);
      ASSERT_EQ(cudaStreamEndCapture(a, &graph), cudaSuccess);
      ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
      cudaGraphLaunch(exec, a);
      cudaMemcpyAsync(host, y, bytes, cudaMemcpyDeviceToHost, a);
      cudaStreamSynchronize(a);
      wrong += host[0] != 6;
      cudaGraphExecDestroy(exec);
      cudaGraphDestroy(graph);
    });
    EXPECT_EQ(wrong > 0, !has_event);
  }
}

TEST_F(Runtime, WhatCannotBeCapturedEndsTheCapture) {
  cudaGraph_t graph = nullptr;
  const auto forbidden = [&](auto call) {
    ASSERT_EQ(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal), cudaSuccess);
    EXPECT_EQ(call(), cudaErrorStreamCaptureUnsupported);
    cudaStreamCaptureStatus status{};
    cudaStreamIsCapturing(a, &status);
    EXPECT_EQ(status, cudaStreamCaptureStatusInvalidated);
    EXPECT_EQ(cudaStreamEndCapture(a, &graph), cudaErrorStreamCaptureInvalidated);
  };
  void* memory = nullptr;
  forbidden([&] { return cudaStreamSynchronize(a); });
  forbidden([&] { return cudaStreamSynchronize(b); });
  forbidden([&] { return cudaDeviceSynchronize(); });
  forbidden([&] { return cudaEventQuery(event); });
  forbidden([&] { return cudaMallocHost(&memory, 4); });
  cudaGetLastError();
}

TEST_F(Runtime, ABranchThatDoesNotComeBackIsNoGraph) {
  cudaGraph_t graph = nullptr;
  cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal);
  cudaEventRecord(event, a);
  cudaStreamWaitEvent(b, event, 0);
  set(b, x, 3);
  EXPECT_EQ(cudaStreamEndCapture(a, &graph), cudaErrorStreamCaptureUnjoined);
  set(b, x, 4);  // outside again
  EXPECT_EQ(cudaStreamSynchronize(b), cudaSuccess);
}

TEST_F(Runtime, WorkFromOutsideCannotBeWaitedForInACapture) {
  set(b, x, 3);
  cudaEventRecord(event, b);
  cudaGraph_t graph = nullptr;
  cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal);
  EXPECT_EQ(cudaStreamWaitEvent(a, event, 0), cudaErrorStreamCaptureIsolation);
  EXPECT_EQ(cudaStreamEndCapture(a, &graph), cudaErrorStreamCaptureInvalidated);
  cudaStreamSynchronize(b);
}

TEST_F(Runtime, AGraphThatUsesFreedMemoryIsSeen) {
  int* const early = allocate_ints(a);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal);
  set(a, early, 3);
  cudaStreamEndCapture(a, &graph);
  cudaGraphInstantiate(&exec, graph, 0);
  cudaFreeAsync(early, a);
  cudaGraphLaunch(exec, a);
  EXPECT_THAT([&] { cudaStreamSynchronize(a); },
              ThrowsMessage<Violation>(HasSubstr("memory that was freed")));
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

TEST_F(Runtime, RefusesToFreeInACaptureWhatItDidNotAllocate) {
  int* const early = allocate_ints(a);
  cudaGraph_t graph = nullptr;
  cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal);
  EXPECT_THAT([&] { cudaFreeAsync(early, a); },
              ThrowsMessage<Violation>(HasSubstr("that the capture did not allocate")));
  EXPECT_EQ(cudaStreamEndCapture(a, &graph), cudaSuccess);
  EXPECT_EQ(cudaFreeAsync(early, a), cudaSuccess) << "it is there as before";
  cudaGraphDestroy(graph);
}

// ---- faults ----
TEST_F(Runtime, FaultsComeWhereTheyAreAskedFor) {
  void* memory = nullptr;
  emulator::fail_allocation(2);
  int* const first = allocate_ints(a);
  EXPECT_EQ(cudaMallocAsync(&memory, 4, a), cudaErrorMemoryAllocation);
  cudaGetLastError();
  cudaFreeAsync(first, a);
  emulator::refuse_launch(1);
  set(a, x, 1);
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchOutOfResources);
  EXPECT_EQ(cudaStreamSynchronize(a), cudaSuccess);
}

TEST_F(Runtime, AFailureOnTheGpuStays) {
  emulator::break_launch(1);
  set(a, x, 1);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "launches do not wait";
  EXPECT_EQ(cudaStreamSynchronize(a), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  void* memory = nullptr;
  EXPECT_EQ(cudaMallocAsync(&memory, 4, a), cudaErrorIllegalAddress);
  end();
  make(0);
}

}  // namespace
}  // namespace qt
