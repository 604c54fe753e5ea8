// distributed/collectives.h -- sums over ranks in GPU memory: the little that a communicator asks
// of NCCL.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <memory>

#include "core/base/error.h"
#include "core/comm/communicator.h"
#include "core/device/stream.h"

namespace qt {

// Called again and again while a call has to wait; what it throws ends the waiting.
using Patience = std::function<void()>;

// Requires: the same calls in the same order on every rank, each rank on a GPU of its own.
class Collectives {
 public:
  using Id = std::array<char, 128>;  // of one group of ranks; made by one of them

  virtual ~Collectives() = default;
  // values: `count` f32 (Wire::f32) or bf16 (Wire::bf16) in GPU memory, replaced by their sums over
  // ranks in the order of the stream. The order of additions is NCCL's own.
  virtual void sum(void* values, int64_t count, Wire wire, Stream stream,
                   const Patience& patience) = 0;
  // PeerError where something has gone wrong since, here or on another rank.
  virtual void check() = 0;
  // Waits for all ranks to do the same.
  virtual void close(const Patience& patience) = 0;
  // Gives up what is under way. May hang.
  virtual void abort() = 0;
};

// What a module offers.
struct CollectivesModule {
  Collectives::Id (*make_id)();
  // Waits for all ranks.
  std::unique_ptr<Collectives> (*open)(const Collectives::Id& id, int rank, int world,
                                       const Patience& patience);
};

// distributed/nccl.cpp, or distributed/no_nccl.cpp in builds without NCCL. ConfigError where it
// cannot be used. The module stays loaded.
CollectivesModule load_nccl();
// "module PATH" or why there is none.
std::string nccl_description();

}  // namespace qt
