// distributed/nccl/collectives.cpp -- sums by NCCL, a module of its own: libnccl is loaded by runs
// of several ranks with GPUs, and by no others.
//
// The communicator is non-blocking: a call that is still in progress is asked for again with
// ncclCommGetAsyncError, so that a rank that is lost can end the waiting.
#include "distributed/collectives.h"

#include <nccl.h>

#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

namespace qt {
namespace {

static_assert(std::tuple_size_v<Collectives::Id> == NCCL_UNIQUE_ID_BYTES);

[[noreturn]] void fail(const std::string& call, ncclResult_t result, ncclComm_t comm) {
  std::string text = "NCCL's " + call + " failed: " + ncclGetErrorString(result);
  if (const char* const more = ncclGetLastError(comm); more && *more)
    text += std::string("; ") + more;
  throw PeerError(text);
}

class NcclCollectives : public Collectives {
 public:
  NcclCollectives(const Id& id, int rank, int world, const Patience& patience) {
    ncclUniqueId unique;
    std::memcpy(unique.internal, id.data(), id.size());
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    settle(ncclCommInitRankConfig(&comm_, world, unique, rank, &config), "ncclCommInitRankConfig",
           patience);
  }

  void sum(void* values, int64_t count, Wire wire, Stream stream,
           const Patience& patience) override {
    const ncclDataType_t type = wire == Wire::f32 ? ncclFloat32 : ncclBfloat16;
    settle(ncclAllReduce(values, values, size_t(count), type, ncclSum, comm_,
                         static_cast<cudaStream_t>(stream.cuda)),
           "ncclAllReduce", patience);
  }

  void check() override {
    if (const ncclResult_t state = ask(); state != ncclSuccess && state != ncclInProgress)
      fail("communicator", state, comm_);
  }

  void close(const Patience& patience) override {
    settle(ncclCommFinalize(comm_), "ncclCommFinalize", patience);
    const ncclResult_t result = ncclCommDestroy(std::exchange(comm_, nullptr));
    if (result != ncclSuccess) fail("ncclCommDestroy", result, nullptr);
  }

  void abort() override {
    if (comm_) static_cast<void>(ncclCommAbort(std::exchange(comm_, nullptr)));
  }

 private:
  ncclResult_t ask() const {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t result = ncclCommGetAsyncError(comm_, &state);
    return result == ncclSuccess ? state : result;
  }
  void settle(ncclResult_t result, const char* call, const Patience& patience) const {
    while (result == ncclInProgress) {
      patience();
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      result = ask();
    }
    if (result != ncclSuccess) fail(call, result, comm_);
  }

  ncclComm_t comm_ = nullptr;
};

Collectives::Id make_id() {
  ncclUniqueId unique;
  const ncclResult_t result = ncclGetUniqueId(&unique);
  if (result != ncclSuccess) fail("ncclGetUniqueId", result, nullptr);
  Collectives::Id id;
  std::memcpy(id.data(), unique.internal, id.size());
  return id;
}

std::unique_ptr<Collectives> open(const Collectives::Id& id, int rank, int world,
                                  const Patience& patience) {
  return std::make_unique<NcclCollectives>(id, rank, world, patience);
}

}  // namespace
}  // namespace qt

extern "C" const qt::CollectivesModule& qattrain_collectives() {
  static const qt::CollectivesModule module{qt::make_id, qt::open};
  return module;
}
