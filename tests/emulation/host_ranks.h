// tests/emulation/host_ranks.h -- tests of several processes, started by mpirun: their communicator
// over MPI, and those made of it for emulated GPUs. Every process runs every test.
#pragma once
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "distributed/gpu_communicator.h"
#include "distributed/launch.h"
#include "tests/emulation/emulated_gpu.h"

namespace qt {

// Of all tests; null where the program was not started by mpirun.
inline std::shared_ptr<Communicator>& host_ranks() {
  static std::shared_ptr<Communicator> ranks;
  return ranks;
}

enum class Way { nccl, host_memory };
inline std::string name_of_way(const ::testing::TestParamInfo<Way>& info) {
  return info.param == Way::nccl ? "ByNccl" : "ThroughHostMemory";
}

// For ranks each of which has an emulated GPU of its own; collective.
inline std::unique_ptr<GpuCommunicator> gpu_ranks(Way way) {
  std::unique_ptr<Collectives> collectives;
  if (way == Way::nccl) {
    const CollectivesModule module = load_nccl();
    Collectives::Id id{};
    if (host_ranks()->writes()) id = module.make_id();
    host_ranks()->broadcast(id.data(), id.size(), "test");
    collectives = module.open(id, host_ranks()->rank(), host_ranks()->world(), [] {});
  }
  return std::make_unique<GpuCommunicator>(host_ranks(), std::move(collectives));
}

// Opens the communicator before the first test. Where a test has lost a rank, the process ends
// without MPI's own end, which would wait for it.
class RanksEnvironment : public ::testing::Environment {
 public:
  void SetUp() override {
    constexpr double timeout = 100;
    if (!launcher().empty()) host_ranks() = make_communicator(timeout);
  }
  void TearDown() override {
    if (!host_ranks()) return;
    emulator::reset();
    gpu_ranks(Way::nccl)->close();
  }
};

}  // namespace qt
