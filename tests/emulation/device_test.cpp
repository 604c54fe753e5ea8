// tests/emulation/device_test.cpp -- core/device's CUDA half on the emulated GPU: streams, events,
// memory, copies, graphs, errors.
#include <gmock/gmock.h>

#include <map>
#include <random>

#include "core/base/error.h"
#include "core/kernel/launch.h"
#include "tests/emulation/emulated_gpu.h"

namespace qt {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct Twice {
  QT_HD float operator()(float x) const { return 2 * x; }
};

// y = 2 x on `stream`, whatever stream the memory is of.
void twice(Stream stream, const Tensor& x, Tensor& y) {
  map(stream, 1, x.elements(), Twice{}, in(x.data<float>()), out(y.data<float>()));
}
Tensor twice(Stream stream, const Tensor& x) {
  const UseStream use(stream);
  Tensor y = Tensor::empty(x.shape(), DType::f32);
  twice(stream, x, y);
  return y;
}

class Device : public EmulatedGpu {
 protected:
  // How many of many legal orders of the work give a wrong result.
  template <class Body>
  static int wrong_orders(Body body) {
    int wrong = 0;
    for (unsigned seed = 1; seed < (build == Build::thread ? 7 : 40); ++seed) {
      start(seed);
      const GpuStream main, side;
      const Tensor got = body(main, side);
      main.synchronize();
      side.synchronize();
      wrong += !difference_in_bits(got, Tensor::full(got.shape(), 12)).empty();
    }
    return wrong;
  }
  // Whether some order shows the mistake. AddressSanitizer sees it where memory is read that is not
  // there yet, or not any more, and ends the process.
  template <class Body>
  static void expect_found(bool mistaken, Body body) {
    if (mistaken && build == Build::address) {
      EXPECT_DEATH(wrong_orders(body), "use-after-poison");
      return;
    }
    const int wrong = wrong_orders(body);
    EXPECT_EQ(wrong > 0, mistaken) << wrong << " wrong";
  }
};

TEST_F(Device, TensorsComeBackAsTheyWent) {
  const GpuStream gpu;
  const Tensor x = numbers({3, 5, 7}, 1).with_scale(numbers({7}, 2), -3, 9);
  const Tensor back = to_host(to_gpu(x, gpu.stream()), gpu.stream());
  EXPECT_EQ(difference_in_bits(back, x), "");
  EXPECT_EQ(difference_in_bits(back.step(), x.step()), "");
  EXPECT_EQ(back.lo(), -3);
  EXPECT_EQ(back.hi(), 9);
}

TEST_F(Device, TheHostMayReuseWhatItSentAtOnce) {
  const GpuStream gpu;
  std::vector<Tensor> sent;
  for (int i = 0; i < 5; ++i) {
    const Tensor x = Tensor::full({100}, float(i));
    sent.push_back(to_gpu(x, gpu.stream()));
    Tensor same = x;
    same.data<float>()[0] = -1;
  }
  for (int i = 0; i < 5; ++i)
    EXPECT_EQ(
        difference_in_bits(to_host(sent[size_t(i)], gpu.stream()), Tensor::full({100}, float(i))),
        "");
}

TEST_F(Device, TensorsAreFilledWhereTheyLie) {
  const GpuStream gpu;
  const auto on_gpu = [&](auto make) {
    const UseStream use(gpu.stream());
    return to_host(make(), gpu.stream());
  };
  EXPECT_EQ(
      difference_in_bits(on_gpu([] { return Tensor::full({77}, 2.5f); }), Tensor::full({77}, 2.5f)),
      "");
  EXPECT_EQ(difference_in_bits(on_gpu([] { return Tensor::zeros({77}, DType::i8); }),
                               Tensor::zeros({77}, DType::i8)),
            "");
  EXPECT_EQ(difference_in_bits(on_gpu([] { return Tensor::full({77}, 2.5f).clone(); }),
                               Tensor::full({77}, 2.5f)),
            "");
}

TEST_F(Device, AnEventBetweenTwoStreamsIsNeededAndEnough) {
  for (const bool has_event : {true, false}) {
    expect_found(!has_event, [&](const GpuStream& main, const GpuStream& side) {
      const Tensor x = to_gpu(Tensor::full({50}, 3), main.stream());
      const Tensor y = twice(main.stream(), x);
      if (has_event) {
        GpuEvent written;
        written.record(main.stream());
        written.hold_back(side.stream());
      }
      const Tensor z = twice(side.stream(), y);
      return to_host(z, side.stream());
    });
  }
}

// Memory whose last handle goes while a side stream still reads it: used_on keeps it from the pool.
TEST_F(Device, MemoryUsedOnASideStreamWaitsForIt) {
  for (const bool says_so : {true, false}) {
    expect_found(!says_so, [&](const GpuStream& main, const GpuStream& side) {
      Tensor z;
      {
        const Tensor y = to_gpu(Tensor::full({50}, 6), main.stream());
        GpuEvent written;
        written.record(main.stream());
        written.hold_back(side.stream());
        z = twice(side.stream(), y);
        if (says_so) used_on(y.raw(), side.stream());
      }
      const Tensor other = to_gpu(Tensor::full({50}, 50), main.stream());
      const Tensor result = to_host(z, side.stream());
      to_host(other, main.stream());
      return result;
    });
  }
}

TEST_F(Device, CountsMemory) {
  const GpuStream gpu;
  reset_gpu_memory_peak();
  {
    const auto first = allocate_on_gpu(1000, gpu.stream());
    { const auto second = allocate_on_gpu(500, gpu.stream()); }
    EXPECT_EQ(gpu_memory_stats().in_use, 1000u);
  }
  EXPECT_EQ(gpu_memory_stats().in_use, 0u);
  EXPECT_EQ(gpu_memory_stats().peak, 1500u);
  gpu.synchronize();
}

// As where an exception ends a function that made a stream, and a tape still has its tensors. The
// emulator refuses memory that is freed on a stream that was destroyed.
TEST_F(Device, MemoryKeepsItsStreamAlive) {
  std::shared_ptr<void> memory;
  {
    const GpuStream gpu;
    memory = allocate_on_gpu(1000, gpu.stream());
  }
  memory.reset();
  EXPECT_EQ(gpu_memory_stats().in_use, 0u);
  EXPECT_EQ(emulator::leaks(), "");
}

// On a GPU, pinned memory is freed only when all work has run: what a sum over ranks waits for too.
TEST_F(Device, CopiesToTheHostGoThroughPinnedMemoryThatIsKept) {
  const GpuStream gpu;
  const Tensor few = to_gpu(Tensor::full({10}, 3), gpu.stream()),
               many = to_gpu(Tensor::full({5000}, 4), gpu.stream());
  to_host(few, gpu.stream());
  to_host(many, gpu.stream());
  emulator::fail_allocation(1);
  EXPECT_EQ(difference_in_bits(to_host(many, gpu.stream()), Tensor::full({5000}, 4)), "");
  EXPECT_EQ(difference_in_bits(to_host(few, gpu.stream()), Tensor::full({10}, 3)), "");
  EXPECT_THROW(allocate_pinned(1), OutOfMemory) << "it is the first that was asked for";
}

TEST_F(Device, SaysHowMuchMemoryWasMissing) {
  const GpuStream gpu;
  const auto held = allocate_on_gpu(1000, gpu.stream());
  emulator::fail_allocation(1, 2);
  EXPECT_THAT(
      [&] { allocate_on_gpu(123456, gpu.stream()); },
      ThrowsMessage<OutOfMemory>(HasSubstr("123456 bytes with 1000 bytes of GPU memory in use")));
  EXPECT_THAT([&] { allocate_on_gpu(size_t{1} << 60, gpu.stream()); },
              ::testing::Throws<OutOfMemory>());
  emulator::fail_allocation(1);
  EXPECT_THAT([&] { allocate_pinned(99); },
              ThrowsMessage<OutOfMemory>(HasSubstr("pinned memory: asked for 99")));
  const Tensor x = to_gpu(Tensor::full({10}, 3), gpu.stream());  // the next launch is not blamed
  EXPECT_EQ(
      difference_in_bits(to_host(twice(gpu.stream(), x), gpu.stream()), Tensor::full({10}, 6)), "");
}

TEST_F(Device, GivesBackWhatIsKeptBeforeItIsOutOfMemory) {
  const GpuStream gpu;
  allocate_on_gpu(5000, gpu.stream());
  gpu.synchronize();
  EXPECT_EQ(gpu_reserved_bytes(), 5000u);
  emulator::fail_allocation(1);
  const auto memory = allocate_on_gpu(6000, gpu.stream());
  EXPECT_EQ(gpu_reserved_bytes(), 6000u) << "and not what was kept as well";
  const GpuGraph graph(gpu.stream(), [&] {
    emulator::fail_allocation(1);
    EXPECT_NO_THROW(allocate_on_gpu(10, gpu.stream())) << "a smaller block does";
    emulator::fail_allocation(1, 2);
    EXPECT_THROW(allocate_on_gpu(100000, gpu.stream()), OutOfMemory);
  });
}

TEST_F(Device, ACopyFromTheHostIsNotRecorded) {
  const GpuStream gpu;
  const Tensor there = to_gpu(Tensor::full({10}, 3), gpu.stream());
  const float number = 4;
  EXPECT_THAT(
      [&] {
        const GpuGraph graph(gpu.stream(),
                             [&] { copy_to_gpu(there.raw(), &number, 4, gpu.stream()); });
      },
      ThrowsMessage<InternalError>(HasSubstr("cannot be recorded")));
  EXPECT_EQ(difference_in_bits(to_host(there, gpu.stream()), Tensor::full({10}, 3)), "");
}

TEST_F(Device, NamesALaunchThatIsRefused) {
  const GpuStream gpu;
  const Tensor x = to_gpu(Tensor::full({10}, 3), gpu.stream());
  emulator::refuse_launch(1);
  EXPECT_THAT([&] { twice(gpu.stream(), x); },
              ThrowsMessage<InternalError>(HasSubstr("kernel map: cudaErrorLaunchOutOfResources")));
  twice(gpu.stream(), x);  // and goes on
  gpu.synchronize();
}

TEST_F(Device, ReportsAKernelThatFailedWhereItWaits) {
  {
    const GpuStream gpu;
    const Tensor x = to_gpu(Tensor::full({10}, 3), gpu.stream());
    emulator::break_launch(1);
    const Tensor y = twice(gpu.stream(), x);
    EXPECT_THAT(
        [&] { gpu.synchronize(); },
        ThrowsMessage<InternalError>(HasSubstr("cudaStreamSynchronize: cudaErrorIllegalAddress")));
    EXPECT_THROW(twice(gpu.stream(), x), InternalError);
    EXPECT_THROW(release_cached_gpu_memory(), InternalError);
  }  // handles are given back without a word
  emulator::reset();
}

// ---- graphs ----
TEST_F(Device, AGraphRepeatsWhatItRecorded) {
  for (unsigned seed = 0; seed < 6; ++seed) {
    start(seed);
    const GpuStream gpu;
    const Stream stream = gpu.stream();
    Tensor x = to_gpu(Tensor::full({50}, 1), stream);
    const GpuGraph graph(stream, [&] {
      const Tensor y = twice(stream, x);  // memory of the graph's own
      twice(stream, y, x);
    });
    EXPECT_EQ(difference_in_bits(to_host(x, stream), Tensor::full({50}, 1)), "") << "it ran";
    graph.launch(stream);
    graph.launch(stream);
    EXPECT_EQ(difference_in_bits(to_host(x, stream), Tensor::full({50}, 16)), "");
  }
}

TEST_F(Device, WhatCannotBeRecordedIsAnErrorAndEndsTheRecording) {
  const GpuStream gpu;
  const Tensor x = to_gpu(Tensor::full({50}, 1), gpu.stream());
  EXPECT_THROW(GpuGraph(gpu.stream(), [&] { to_host(x, gpu.stream()); }), InternalError);
  EXPECT_THROW(GpuGraph(gpu.stream(), [&] { gpu.synchronize(); }), InternalError);
  EXPECT_EQ(
      difference_in_bits(to_host(twice(gpu.stream(), x), gpu.stream()), Tensor::full({50}, 2)), "");
}

TEST_F(Device, CountsWhatThePoolAndGraphsKeepAndGivesItBack) {
  const GpuStream gpu;
  release_cached_gpu_memory();
  const auto held = allocate_on_gpu(1000, gpu.stream());
  { const auto passing = allocate_on_gpu(4000, gpu.stream()); }
  EXPECT_EQ(gpu_reserved_bytes(), 5000u);
  const GpuGraph graph(gpu.stream(), [&] {
    const auto early = allocate_on_gpu(200, gpu.stream());
    { const auto passing = allocate_on_gpu(300, gpu.stream()); }
    const auto late = allocate_on_gpu(100, gpu.stream());
  });
  EXPECT_EQ(gpu_reserved_bytes(), 5000u) << "a graph takes its memory when it is launched";
  graph.launch(gpu.stream());
  EXPECT_EQ(gpu_reserved_bytes(), 5000u + 16384u) << "one block";
  release_cached_gpu_memory();
  EXPECT_EQ(gpu_reserved_bytes(), 1000u);
  graph.launch(gpu.stream());
  EXPECT_EQ(gpu_reserved_bytes(), 1000u + 16384u);
  gpu.synchronize();
}

TEST_F(Device, AGraphWithoutRoomSaysSoAndCanBeLaunchedLater) {
  const GpuStream gpu;
  Tensor x = to_gpu(Tensor::full({50}, 1), gpu.stream());
  const GpuGraph graph(gpu.stream(), [&] { twice(gpu.stream(), twice(gpu.stream(), x), x); });
  emulator::fail_graph(1);
  EXPECT_THAT([&] { graph.launch(gpu.stream()); },
              ThrowsMessage<OutOfMemory>(HasSubstr("200 bytes of GPU memory are in use")));
  EXPECT_EQ(difference_in_bits(to_host(x, gpu.stream()), Tensor::full({50}, 1)), "") << "it ran";
  graph.launch(gpu.stream());
  EXPECT_EQ(difference_in_bits(to_host(x, gpu.stream()), Tensor::full({50}, 4)), "");
}

TEST_F(Device, WhatOutlivesARecordingIsAnError) {
  const GpuStream gpu;
  const Tensor x = to_gpu(Tensor::full({50}, 1), gpu.stream());
  Tensor y;
  EXPECT_THAT([&] { GpuGraph(gpu.stream(), [&] { y = twice(gpu.stream(), x); }); },
              ThrowsMessage<InternalError>(HasSubstr("held beyond the recording: 1 tensors")));
  y = Tensor();
  EXPECT_EQ(gpu_memory_stats().in_use, 200u);
}

// ---- the memory of a recording ----
// As many tensors as a step has, of all sizes, given back in any order: parts never overlap, are
// used again, and a few blocks hold them all.
TEST_F(Device, ARecordingDividesFewBlocks) {
  const GpuStream gpu;
  std::mt19937 random(7);
  size_t most = 0, now = 0;
  const GpuGraph graph(gpu.stream(), [&] {
    std::map<const char*, std::pair<std::shared_ptr<void>, size_t>> held;
    for (int i = 0; i < 3000; ++i) {
      if (held.size() > 40 || (!held.empty() && random() % 3 == 0)) {
        auto it = held.begin();
        std::advance(it, long(random() % held.size()));
        now -= it->second.second;
        held.erase(it);
        continue;
      }
      const size_t bytes = size_t{1} << (random() % 16), odd = bytes + random() % bytes;
      auto memory = allocate_on_gpu(odd, gpu.stream());
      const auto* const at = static_cast<const char*>(memory.get());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(at) % 256, 0u);
      const auto next = held.lower_bound(at);
      if (next != held.end()) {
        ASSERT_LE(at + odd, next->first);
      }
      if (next != held.begin()) {
        ASSERT_LE(std::prev(next)->first + std::prev(next)->second.second, at);
      }
      held.emplace(at, std::pair{std::move(memory), odd});
      now += odd;
      most = std::max(most, now);
    }
    held.clear();
  });
  const size_t before = gpu_reserved_bytes();
  graph.launch(gpu.stream());
  gpu.synchronize();
  EXPECT_GE(gpu_reserved_bytes() - before, most);
  EXPECT_LT(gpu_reserved_bytes() - before, 3 * most);
}

// A neighbour that is given back makes room for what is larger than either.
TEST_F(Device, FreePartsOfARecordingBecomeOne) {
  const GpuStream gpu;
  const GpuGraph graph(gpu.stream(), [&] {
    auto whole = allocate_on_gpu(4096, gpu.stream());
    void* const at = whole.get();
    whole.reset();
    std::vector<std::shared_ptr<void>> parts;
    for (int i = 0; i < 4; ++i) parts.push_back(allocate_on_gpu(1000, gpu.stream()));
    EXPECT_EQ(parts[0].get(), at);
    EXPECT_EQ(parts[3].get(), static_cast<char*>(at) + 3072);
    parts[1].reset(), parts[3].reset(), parts[2].reset(), parts[0].reset();
    EXPECT_EQ(allocate_on_gpu(4096, gpu.stream()).get(), at);
  });
  graph.launch(gpu.stream());
  gpu.synchronize();
}

}  // namespace
}  // namespace qt
