// tests/emulation/ranks_test.cpp -- several processes, each on an emulated GPU of its own:
// gradients are summed by the emulated NCCL beside backward, or through host memory. Started by
// mpirun: every process runs every test.
#include <gmock/gmock.h>

#include <thread>

#include "core/kernel/launch.h"
#include "core/ops/ops.h"
#include "distributed/buckets.h"
#include "tests/emulation/host_ranks.h"
#include "tests/emulation/nccl.h"

namespace qt {
namespace {

using ::testing::HasSubstr;

const auto* const environment =
    ::testing::AddGlobalTestEnvironment(std::make_unique<RanksEnvironment>().release());

struct Scaled {
  float factor;
  QT_HD float operator()(float x) const { return factor * x; }
};

Tensor scaled(const Tensor& x, float factor) {
  Tensor y = Tensor::empty(x.shape(), DType::f32);
  map(current_stream(), 1, x.elements(), Scaled{factor}, in(x.data<float>()), out(y.data<float>()));
  return y;
}

// How many numbers of a tensor in GPU memory are not `wanted`.
int others_than(float wanted, const Tensor& x, Stream stream) {
  int count = 0;
  for (const float value : to_host(x, stream).to_vector<float>()) count += value != wanted;
  return count;
}

class RanksOnGpus : public EmulatedGpu {
 protected:
  void SetUp() override {
    EmulatedGpu::SetUp();
    if (!host_ranks()) GTEST_SKIP() << "to be started by mpirun";
  }
  // A fresh GPU for every rank, with the same order of work, and the communicator for it.
  static std::unique_ptr<GpuCommunicator> communicator(Way way, unsigned seed) {
    start(seed);
    return gpu_ranks(way);
  }
  static float sum_of_ranks() {
    return float(host_ranks()->world() * (host_ranks()->world() + 1)) / 2;
  }
};

// A chain of parameters, the last of which is done first. Every gradient is made by a kernel from
// the one before: it is (rank + 1) times the parameter's number.
struct Chain {
  std::vector<NamedVar> parameters;
  Chain() {
    for (const int64_t size : {700, 3, 1000, 64})
      parameters.push_back(
          {"p" + std::to_string(parameters.size()), Var(Tensor::full({size}, 1), true)});
  }
  // before_first: called when only the first parameter's gradient is missing.
  void backward(float factor, const std::function<void()>& before_first = {}) const {
    Var total;
    for (size_t k = 0; k < parameters.size(); ++k) {
      const Var p = parameters[k].var;
      std::vector<Var> inputs{p};
      if (total.defined()) inputs.push_back(total);
      const float slope = float(k + 1) * factor;
      total = record(Tensor::full({1}, 0), inputs,
                     [p, slope, before_first, before = total](const Tensor& dy) {
                       if (!before.defined() && before_first) before_first();
                       p.add_grad(scaled(Tensor::full({p.value().elements()}, 1), slope));
                       if (before.defined()) before.add_grad(scaled(dy, 1));
                     });
    }
    Tape::current().backward(total, Tensor::full({1}, 1));
  }
  // How many gradients are not what they should be, the sum of all ranks'.
  int wrong(float sum, Stream stream) const {
    int count = 0;
    for (size_t k = 0; k < parameters.size(); ++k)
      count += others_than(float(k + 1) * sum, parameters[k].var.grad(), stream);
    return count;
  }
};

constexpr GradientBuckets::Options small_buckets{.bytes = 2000, .first_bytes = 100};

class WaysOfSums : public RanksOnGpus, public ::testing::WithParamInterface<Way> {};
INSTANTIATE_TEST_SUITE_P(, WaysOfSums, ::testing::Values(Way::nccl, Way::host_memory), name_of_way);

TEST_P(WaysOfSums, TensorsInGpuMemoryAreReplacedByTheSum) {
  for (unsigned seed = 0; seed < 6; ++seed) {
    const auto ranks = communicator(GetParam(), seed);
    {
      const GpuStream gpu;
      const UseStream use(gpu.stream());
      std::vector<Tensor> values;
      std::vector<std::unique_ptr<Pending>> sums;
      for (const int64_t count : {1, 1000, 4097}) {
        values.push_back(scaled(Tensor::full({count}, 1), float(ranks->rank() + 1)));
        sums.push_back(ranks->start_sum(values.back(), Wire::f32, "test"));
        EXPECT_EQ(summed(*ranks, {1}, "between")[0], ranks->world());  // another kind of operation
      }
      for (size_t i = values.size(); i-- > 0;) {
        sums[i]->wait();
        EXPECT_EQ(others_than(sum_of_ranks(), values[i], gpu.stream()), 0);
        EXPECT_GE(sums[i]->finished(), sums[i]->started());
        EXPECT_GE(sums[i]->waited(), 0);
      }
    }
    const Tensor on_host = Tensor::full({3}, 1);
    ranks->start_sum(on_host, Wire::f32, "host memory")->wait();
    EXPECT_EQ(on_host.to_vector<float>()[2], float(ranks->world()));
    EXPECT_STREQ(ranks->name(), GetParam() == Way::nccl ? "nccl" : "mpi");
  }
}

TEST_P(WaysOfSums, HalfTheBytesRoundContributions) {
  const auto ranks = communicator(GetParam(), 1);
  const GpuStream gpu;
  const UseStream use(gpu.stream());
  const Tensor values = scaled(Tensor::full({100}, 1.001f), float(ranks->rank() + 1));
  // NCCL rounds after every addition, we after the last.
  float sum = 0;
  for (int r = 0; r < ranks->world(); ++r) {
    sum += float(BFloat16(1.001f * float(r + 1)));
    if (GetParam() == Way::nccl) sum = float(BFloat16(sum));
  }
  ranks->start_sum(values, Wire::bf16, "test")->wait();
  EXPECT_EQ(others_than(float(BFloat16(sum)), values, gpu.stream()), 0);
}

TEST_P(WaysOfSums, BucketsGiveTheSumsOfGradientsInAnyOrderOfWork) {
  for (unsigned seed = 0; seed < 6; ++seed) {
    const auto ranks = communicator(GetParam(), seed);
    const GpuStream gpu;
    const UseStream use(gpu.stream());
    const Chain chain;
    GradientBuckets buckets(chain.parameters, *ranks, small_buckets);
    EXPECT_GE(buckets.buckets(), 3u);
    for (int step = 0; step < 2; ++step) {
      for (const NamedVar& p : chain.parameters) p.var.clear_grad();
      buckets.arm();
      chain.backward(float(ranks->rank() + 1));
      buckets.finish();
      EXPECT_EQ(chain.wrong(sum_of_ranks(), gpu.stream()), 0) << "seed " << seed;
    }
    EXPECT_GT(buckets.seconds_on_the_way(), 0);
  }
}

// Every wait of one stream for another is needed: where it is forgotten, gradients are wrong in
// some order of work. All ranks forget the same one.
TEST_P(WaysOfSums, AForgottenEventBetweenTheStreamsIsSeen) {
  // The sum, or the copy to the host, of each bucket waits for backward; through host memory, what
  // follows waits for the copies back, of which the last one ends all.
  std::vector<int> waits{1, 2, 3};
  if (GetParam() == Way::host_memory) waits.push_back(6);
  for (const int forgotten : waits) {
    double wrong = 0;
    // Few are enough where the other rank is at work; where it has to wait for a core, sums come
    // late.
    for (unsigned seed = 0; seed < 100 && wrong == 0; ++seed) {
      const auto ranks = communicator(GetParam(), seed);
      const GpuStream gpu;
      const UseStream use(gpu.stream());
      const Chain chain;
      GradientBuckets buckets(chain.parameters, *ranks, small_buckets);
      ASSERT_EQ(buckets.buckets(), 3u);
      emulator::forget_wait(forgotten);
      buckets.arm();
      chain.backward(float(ranks->rank() + 1));
      buckets.finish();
      wrong = summed(*ranks, {double(chain.wrong(sum_of_ranks(), gpu.stream()))}, "test")[0];
    }
    EXPECT_GT(wrong, 0) << "wait " << forgotten << " is not needed";
  }
}

// While backward goes on the sums of the buckets that are ready run: nothing waits for them after
// it. Other work of the GPU runs while events are asked for.
TEST_F(RanksOnGpus, BucketsAreSummedWhileBackwardGoesOn) {
  const auto ranks = communicator(Way::nccl, 1);
  const GpuStream gpu;
  const UseStream use(gpu.stream());
  const Chain chain;
  // The first parameter alone is in the last bucket, which is summed after backward.
  const std::vector<NamedVar> early(chain.parameters.begin() + 1, chain.parameters.end());
  GradientBuckets buckets(early, *ranks, {.bytes = 100, .first_bytes = 100});
  buckets.arm();
  chain.backward(float(ranks->rank() + 1), [&] {
    const GpuEvent event;
    for (int round = 0; round < 10; ++round) {  // in each, one more half of a sum at least
      for (int i = 0; i < 100; ++i) event.reached();
      summed(*ranks, {1}, "test");
    }
  });
  buckets.finish();
  EXPECT_GT(buckets.seconds_on_the_way(), 0);
  EXPECT_EQ(buckets.seconds_waited(), 0);
}

TEST_F(RanksOnGpus, NcclIsTakenWhereEveryRankHasAGpuOfItsOwn) {
  const auto forward = [](std::shared_ptr<Communicator> to) {  // with_gpus owns what it is given
    return std::make_unique<GpuCommunicator>(std::move(to), nullptr);
  };
  {
    const auto ranks = with_gpus(forward(host_ranks()));
    EXPECT_STREQ(ranks->name(), "nccl");
  }
  emulator::put_gpu_at("0000:01:00.0");  // the same for all
  {
    const auto ranks = with_gpus(forward(host_ranks()));
    EXPECT_STREQ(ranks->name(), "mpi");
    const GpuStream gpu;
    const UseStream use(gpu.stream());
    const Tensor values = Tensor::full({10}, 2);
    ranks->start_sum(values, Wire::f32, "test")->wait();
    EXPECT_EQ(to_host(values, gpu.stream()).to_vector<float>()[9], float(2 * ranks->world()));
  }
  EXPECT_EQ(local_rank(*host_ranks()), host_ranks()->rank());
}

// The last test of a process: nothing goes on after it. ctest looks for the text.
TEST_F(RanksOnGpus, LostRankIsNamed) {
  const auto ranks = communicator(Way::nccl, 0);
  ranks->note(12, "backward");
  ranks->set_timeout(3);
  std::string text;
  {
    const GpuStream gpu;
    const UseStream use(gpu.stream());
    const Tensor values = Tensor::full({10}, 2);
    if (ranks->rank() == 1) {
      std::this_thread::sleep_for(std::chrono::seconds(15));
      _exit(0);
    }
    try {
      ranks->start_sum(values, Wire::f32, "the sum of gradients (bucket 1 of 2)")->wait();
    } catch (const PeerError& e) {
      text = e.what();
    }
  }
  EXPECT_THAT(text, HasSubstr("rank 1 of"));
  EXPECT_THAT(text, HasSubstr("step 12, backward"));
  EXPECT_THAT(text, HasSubstr("the sum of gradients (bucket 1 of 2)"));
  if (!HasFailure() && ranks->writes()) printf("named: %s\n", text.c_str());
  fflush(stdout);
  ranks->end_with(ExitCode::peer_lost, text);
  _exit(0);
}

// NCCL itself says that another rank failed.
TEST_F(RanksOnGpus, LostConnectionOfNcclIsAnError) {
  const auto ranks = communicator(Way::nccl, 0);
  std::string text;
  {
    const GpuStream gpu;
    const UseStream use(gpu.stream());
    const Tensor values = Tensor::full({10}, 2);
    auto sum = ranks->start_sum(values, Wire::f32, "the sum of gradients");
    emulator::break_collectives();
    try {
      sum->wait();
    } catch (const PeerError& e) {
      text = e.what();
    }
  }
  EXPECT_THAT(text, HasSubstr("NCCL"));
  EXPECT_THAT(text, HasSubstr("remote process exited"));
  EXPECT_EQ(ranks->end_with(ExitCode::peer_lost, text).code, ExitCode::peer_lost);
  if (!HasFailure() && ranks->writes()) printf("named: %s\n", text.c_str());
  fflush(stdout);
  _exit(0);
}

}  // namespace
}  // namespace qt
