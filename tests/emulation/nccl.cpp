// tests/emulation/nccl.cpp -- NCCL's few calls in use, between processes of one machine: each has
// an emulated GPU, sums are work on its streams, and values travel through shared memory. Calls on
// a communicator are often in progress for a while, as those of a non-blocking one are.
#include "tests/emulation/nccl.h"

#include <fcntl.h>
#include <nccl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor/dtype.h"
#include "tests/emulation/emulator.h"
#include "tests/emulation/gpu.h"

namespace emulator {
namespace {

constexpr int most_ranks = 8;
constexpr size_t most_bytes = size_t{4} << 20;

// What the processes of a communicator share; all zero at first. Sums are numbered from 1.
struct Shared {
  struct Rank {
    std::atomic<uint64_t> posted, taken;
    size_t count;
    ncclDataType_t type;
    char values[most_bytes];
  };
  std::atomic<int> arrived, finalized, aborted;
  Rank ranks[most_ranks];
};

Shared* open_shared(const char* name, bool create) {
  const int file = shm_open(name, create ? O_CREAT | O_EXCL | O_RDWR : O_RDWR, 0600);
  if (file < 0) return nullptr;
  void* memory = MAP_FAILED;
  if (!create || ftruncate(file, sizeof(Shared)) == 0)
    memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  return memory == MAP_FAILED ? nullptr : static_cast<Shared*>(memory);
}

bool is_broken = false;

}  // namespace

void break_collectives() { is_broken = true; }

}  // namespace emulator

struct ncclComm {  // NOLINT(readability-identifier-naming)
  enum class State { starting, working, finalizing, finalized };
  int rank = 0, ranks = 1;
  std::string name;
  emulator::Shared* shared = nullptr;
  State state = State::starting;
  int polls_left = 3;  // until the call in progress is over
  uint64_t sums = 0;
};

namespace emulator {
namespace {

template <class T>
void add(const Shared& shared, int ranks, size_t count, void* to) {
  T* const sums = static_cast<T*>(to);
  for (size_t i = 0; i < count; ++i) {
    float sum = 0;
    for (int r = 0; r < ranks; ++r)
      sum = float(T(sum + float(reinterpret_cast<const T*>(shared.ranks[r].values)[i])));
    sums[i] = T(sum);
  }
}

bool all_have(const ncclComm& comm, std::atomic<uint64_t> Shared::Rank::*what, uint64_t number) {
  for (int r = 0; r < comm.ranks; ++r)
    if ((comm.shared->ranks[r].*what).load() < number) return false;
  return true;
}

// Two pieces of work: bringing this rank's values once all have taken those before, and taking the
// sum once all have brought theirs.
void enqueue_sum(ncclComm_t comm, const void* from, void* to, size_t count, ncclDataType_t type,
                 cudaStream_t stream) {
  const uint64_t number = ++comm->sums;
  const size_t bytes = count * (type == ncclFloat32 ? 4 : 2);
  Shared* const shared = comm->shared;
  Shared::Rank& mine = shared->ranks[comm->rank];
  const ncclComm about = *comm;  // the communicator may be gone when the work runs
  gpu().streams.enqueue_when(
      stream, [about, number] { return all_have(about, &Shared::Rank::taken, number - 1); },
      [&mine, from, bytes, count, type, number] {
        memcpy(mine.values, from, bytes);
        mine.count = count, mine.type = type;
        mine.posted = number;
      });
  gpu().streams.enqueue_when(
      stream, [about, number] { return all_have(about, &Shared::Rank::posted, number); },
      [about, &mine, to, count, type, number] {
        for (int r = 0; r < about.ranks; ++r)
          if (about.shared->ranks[r].count != count || about.shared->ranks[r].type != type)
            throw Violation("ncclAllReduce: ranks sum " + std::to_string(count) + " and " +
                            std::to_string(about.shared->ranks[r].count) + " values");
        if (type == ncclFloat32)
          add<float>(*about.shared, about.ranks, count, to);
        else
          add<qt::BFloat16>(*about.shared, about.ranks, count, to);
        mine.taken = number;
      });
}

bool is_working(ncclComm_t comm) {
  return comm->state == ncclComm::State::working && comm->polls_left == 0;
}

}  // namespace
}  // namespace emulator

using namespace emulator;

extern "C" {  // NOLINTBEGIN(readability-identifier-naming)

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int number = 0;
  *id = {};
  snprintf(id->internal, sizeof id->internal, "/emulated_nccl_%d_%d", int(getpid()), number++);
  Shared* const shared = open_shared(id->internal, true);
  if (!shared) return ncclSystemError;
  munmap(shared, sizeof(Shared));
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->magic != 0xcafebeef || ranks > most_ranks || rank < 0 || rank >= ranks)
    return ncclInvalidArgument;
  if (config->blocking != 0)
    throw Violation("a communicator that is blocking: its calls cannot time out");
  Shared* const shared = open_shared(id.internal, false);
  if (!shared) return ncclSystemError;
  *comm = std::make_unique<ncclComm>().release();
  (*comm)->rank = rank, (*comm)->ranks = ranks;
  (*comm)->name = id.internal, (*comm)->shared = shared;
  ++shared->arrived;
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  using State = ncclComm::State;
  *error = ncclRemoteError;
  if (is_broken || comm->shared->aborted) return ncclSuccess;
  *error = ncclInProgress;
  if (comm->polls_left > 0) --comm->polls_left;
  if (comm->polls_left > 0) return ncclSuccess;
  if (comm->state == State::starting) {
    if (comm->shared->arrived < comm->ranks) return ncclSuccess;
    if (comm->rank == 0) shm_unlink(comm->name.c_str());
    comm->state = State::working;
  } else if (comm->state == State::finalizing) {
    if (comm->shared->finalized < comm->ranks) return ncclSuccess;
    comm->state = State::finalized;
  }
  *error = ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  if (!is_working(comm)) return ncclInvalidUsage;
  const size_t bytes = count * (type == ncclFloat32 ? 4 : 2);
  if (operation != ncclSum || (type != ncclFloat32 && type != ncclBfloat16) ||
      !find_block(from, bytes) || !find_block(to, bytes) || bytes > most_bytes)
    return ncclInvalidArgument;
  if (before_call(stream)) return ncclUnhandledCudaError;
  if (stream->capture) return ncclInvalidUsage;
  enqueue_sum(comm, from, to, count, type, stream);
  if (comm->sums % 2 == 0) return ncclSuccess;
  comm->polls_left = 2;
  return ncclInProgress;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  if (!is_working(comm)) return ncclInvalidUsage;
  comm->state = ncclComm::State::finalizing;
  comm->polls_left = 2;
  ++comm->shared->finalized;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm->state != ncclComm::State::finalized) return ncclInvalidUsage;
  const std::unique_ptr<ncclComm> owner(comm);
  munmap(owner->shared, sizeof(Shared));
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const std::unique_ptr<ncclComm> owner(comm);
  owner->shared->aborted = 1;
  shm_unlink(owner->name.c_str());
  munmap(owner->shared, sizeof(Shared));
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "operation in progress";
    default: return "an error of the emulated NCCL";
  }
}
const char* ncclGetLastError(ncclComm_t) { return ""; }

}  // extern "C" NOLINTEND(readability-identifier-naming)
