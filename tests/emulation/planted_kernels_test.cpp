// tests/emulation/planted_kernels_test.cpp -- the emulator finds a mistake of each kind in a
// kernel: in the plain build by wrong bits or a Violation, in the sanitizers' builds by their
// reports.
#include "tests/emulation/planted_kernels.h"

#include <gmock/gmock.h>

#include <functional>
#include <ostream>
#include <vector>

#include "tests/emulation/emulated_gpu.h"

#if defined(__SANITIZE_THREAD__)
// A race ends the process, so that a test can expect it.
extern "C" const char* __tsan_default_options() { return "halt_on_error=1"; }
#endif

namespace qt {
namespace {

using planted::Bug;
using Body = std::function<void(Stream, const std::vector<Tensor>&, Tensor&)>;

// What a kernel did, as text: "" where all bits are right in all thread orders.
std::string outcome(const std::vector<Tensor>& inputs, const Tensor& wanted, const Body& body) {
  for (const emulator::Order order : all_orders) {
    // ThreadSanitizer finds a race in whatever order the threads run.
    if (build == Build::thread && order != emulator::Order::descending) continue;
    emulator::set_order(order, 3);
    const GpuStream gpu;
    std::vector<Tensor> in;
    for (const Tensor& t : inputs) in.push_back(to_gpu(t, gpu.stream()));
    try {
      Tensor got;
      {
        const UseStream use(gpu.stream());
        Tensor y = Tensor::empty(wanted.shape(), DType::f32);
        body(gpu.stream(), in, y);
        got = to_host(y, gpu.stream());
      }
      in.clear();
      gpu.synchronize();
      const std::string wrong = difference_in_bits(got, wanted);
      if (!wrong.empty()) return std::string("wrong bits, ") + name_of(order) + ": " + wrong;
    } catch (const emulator::Violation& e) {
      return e.what();
    }
  }
  return "";
}

template <class At>
Tensor host_tensor(const Shape& shape, At at) {
  Tensor t = Tensor::empty(shape, DType::f32);
  for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] = at(i);
  return t;
}

// Four channels are aligned for vectors, three are not.
template <Bug bug>
std::string run_map() {
  const int64_t n = 602;
  constexpr bool misaligned = bug == Bug::misaligned_channels;
  const int channels = misaligned ? 3 : 4;
  const Tensor x = numbers({n}, 1);
  // As long as the vectors reach, and periodic, so that alignment is all that is wrong.
  Tensor a = numbers({misaligned ? 2 * channels : channels}, 2);
  for (int c = channels; c < a.dim(0); ++c) a.data<float>()[c] = a.data<float>()[c - channels];
  const Tensor wanted = host_tensor(
      {n}, [&](int64_t i) { return x.data<float>()[i] * a.data<float>()[i % channels]; });
  return outcome({x, a}, wanted, [=](Stream s, const std::vector<Tensor>& in, Tensor& y) {
    planted::map<bug>(s, n, channels, in[0].data<float>(), in[1].data<float>(), y.data<float>());
  });
}

template <Bug bug>
std::string run_columns() {
  const int rows = 8, channels = 40;
  const Tensor x = numbers({rows, channels}, 1);
  const auto at = [&](int64_t r, int64_t c) { return x.data<float>()[r * channels + c]; };
  const Tensor wanted = host_tensor({channels}, [&](int64_t c) {
    return ((at(0, c) + at(4, c)) + (at(2, c) + at(6, c))) +
           ((at(1, c) + at(5, c)) + (at(3, c) + at(7, c)));
  });
  return outcome({x}, wanted, [=](Stream s, const std::vector<Tensor>& in, Tensor& y) {
    planted::sum_columns<bug>(s, rows, channels, in[0].data<float>(), y.data<float>());
  });
}

template <Bug bug>
std::string run_rows() {  // whole numbers: exact in any order
  const int rows = 9, channels = 256;
  const Tensor x = host_tensor({rows, channels}, [](int64_t i) { return float(i * 7 % 23); });
  const Tensor wanted = host_tensor({rows}, [&](int64_t r) {
    float sum = 0;
    for (int c = 0; c < channels; ++c) sum += x.data<float>()[r * channels + c];
    return sum;
  });
  return outcome({x}, wanted, [=](Stream s, const std::vector<Tensor>& in, Tensor& y) {
    planted::sum_rows<bug>(s, rows, channels, in[0].data<float>(), y.data<float>());
  });
}

template <Bug bug>
std::string run_transpose() {
  const int rows = 40, columns = 37;
  const Tensor x = numbers({rows, columns}, 1);
  const Tensor wanted = host_tensor(
      {columns, rows}, [&](int64_t i) { return x.data<float>()[i % rows * columns + i / rows]; });
  return outcome({x}, wanted, [=](Stream s, const std::vector<Tensor>& in, Tensor& y) {
    planted::transpose<bug>(s, rows, columns, in[0].data<float>(), y.data<float>());
  });
}

template <Bug bug>
std::string run_warp_tree() {
  const Tensor x = host_tensor({32}, [](int64_t i) { return float(i); });
  return outcome({x}, Tensor::full({1}, 496),
                 [](Stream s, const std::vector<Tensor>& in, Tensor& y) {
                   planted::warp_tree<bug>(s, in[0].data<float>(), y.data<float>());
                 });
}

// What each build must say; "" where it cannot see this mistake.
struct Planted {
  const char* name;
  std::string (*run)();
  const char *plain, *address, *thread;
  const char* wanted() const {
    return build == Build::plain ? plain : build == Build::address ? address : thread;
  }
};
std::ostream& operator<<(std::ostream& to, const Planted& p) { return to << p.name; }

constexpr const char *overrun = "use-after-poison|buffer-overflow|out of bounds",
                     *race = "data race";

// All of them, each seen by one build at least.
const std::vector<Planted>& all_planted() {
  static const std::vector<Planted> all{
      Planted{"ReadsPastTheEnd", run_map<Bug::reads_past_the_end>, "", overrun, ""},
      Planted{"WritesPastTheEnd", run_map<Bug::writes_past_the_end>, "past the end", overrun, ""},
      Planted{"MisalignedChannels", run_map<Bug::misaligned_channels>, "", "misaligned", ""},
      Planted{"ForgetsTheLastElement", run_map<Bug::forgets_the_last_element>, "is -?nan", "", ""},
      Planted{"TwoBlocksWriteOneAddress", run_map<Bug::two_blocks_write_one_address>, "", "", race},
      Planted{"ReturnsBeforeTheBarrier", run_columns<Bug::returns_before_the_barrier>,
              "planted_kernels.h:[0-9]+: block \\(1, 0\\), thread .*have returned", "", ""},
      Planted{"NoBarrierBeforeTheTree", run_columns<Bug::no_barrier_before_the_tree>, "wrong bits",
              "", race},
      Planted{"DivergentBarrier", run_columns<Bug::divergent_barrier>,
              "threads wait at this __syncthreads", "", ""},
      Planted{"SharedArrayOverrun", run_columns<Bug::shared_array_overrun>, "wrong bits", overrun,
              ""},
      Planted{"NoBarrierInTheTree", run_columns<Bug::no_barrier_in_the_tree>, "wrong bits", "",
              race},
      Planted{"MaskNamesAbsentLanes", run_rows<Bug::mask_names_absent_lanes>,
              "hangs: not all lanes|came from line|came with another mask|has returned", "", ""},
      Planted{"ReadsALaneOutsideTheMask", run_rows<Bug::reads_a_lane_outside_the_mask>,
              "which the mask does not name", "", ""},
      Planted{"NextRowOverwritesSharedMemory", run_rows<Bug::next_row_overwrites_shared_memory>, "",
              "", race},
      Planted{"WrongBound", run_transpose<Bug::wrong_bound>, "wrong bits", "", ""},
      Planted{"TooLittleDynamicMemory", run_transpose<Bug::too_little_dynamic_memory>, "", overrun,
              ""},
      Planted{"ReliesOnLockstep", run_warp_tree<Bug::relies_on_lockstep>, "wrong bits", "", race}};
  return all;
}

std::vector<Planted> seen_here() {
  std::vector<Planted> seen;
  for (const Planted& p : all_planted())
    if (*p.wanted()) seen.push_back(p);
  return seen;
}

class PlantedKernels : public EmulatedGpu, public ::testing::WithParamInterface<Planted> {};

TEST_P(PlantedKernels, AreFound) {
  const Planted& p = GetParam();
  const std::string said = build == Build::plain ? p.run() : "";
  if (build == Build::plain)
    EXPECT_THAT(said, ::testing::ContainsRegex(p.wanted()));
  else
    EXPECT_DEATH(fputs((p.run() + "\n").c_str(), stderr), p.wanted());
}

INSTANTIATE_TEST_SUITE_P(Kernels, PlantedKernels, ::testing::ValuesIn(seen_here()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(PlantedMistakes, AreAllForSomeBuildToFind) {
  for (const Planted& p : all_planted()) EXPECT_TRUE(*p.plain || *p.address || *p.thread) << p.name;
}

// The same kernels without a mistake: nothing is found, in any build.
class KernelsWithoutMistakes : public EmulatedGpu {};
TEST_F(KernelsWithoutMistakes, AreRight) {
  EXPECT_EQ(run_map<Bug::none>(), "");
  EXPECT_EQ(run_columns<Bug::none>(), "");
  EXPECT_EQ(run_rows<Bug::none>(), "");
  EXPECT_EQ(run_transpose<Bug::none>(), "");
  EXPECT_EQ(run_warp_tree<Bug::none>(), "");
}

// Sums by atomics would depend on luck.
template <class T>
concept HasAtomicAdd = requires(T* to, T v) {
  atomicAdd(to, v);
};
static_assert(HasAtomicAdd<int> && !HasAtomicAdd<float> && !HasAtomicAdd<double>);

}  // namespace
}  // namespace qt
