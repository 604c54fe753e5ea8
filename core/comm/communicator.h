// core/comm/communicator.h -- what the processes ("ranks") of one training run do together: sums,
// gathers, broadcasts.
//
// Requires: every rank makes the same calls in the same order, from one thread. Ensures: results
// have the same bits on all ranks, and for the same world size the same bits every time, because
// sums are taken in the order of ranks. Where a rank dies, hangs or fails, calls throw PeerError,
// which names rank, step and operation.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"

namespace qt {

// How gradients travel; sums are rounded to it once.
enum class Wire { f32, bf16 };

// A sum under way.
class Pending {
 public:
  virtual ~Pending() = default;
  virtual void wait() = 0;
  // When it was started and when it was complete, seconds of the steady clock; after wait().
  virtual double started() const = 0;
  virtual double finished() const = 0;
  // Seconds that the caller's own work stood still for it; after wait().
  virtual double waited() const = 0;
};

// Work that ranks do together by other means than their communicator's, a GPU's collectives: while
// this lives, the communicator watches over it as over its own operations.
class Watched {
 public:
  virtual ~Watched() = default;
  // PeerError where a rank is lost or has kept the others waiting for too long. To be called while
  // waiting.
  virtual void check() = 0;
};

class Communicator {
 public:
  // How a process that caught an error should end.
  struct Ending {
    ExitCode code;
    bool speaks;  // whether this rank prints its message; it has been said, or others say the same
  };

  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int world() const = 0;
  virtual const char* name() const = 0;

  // values: f32, replaced by the sum over all ranks when wait() returns; not to be touched before.
  // Where current_stream() is on a GPU, they lie there: the sum runs after what the stream has been
  // given so far (distributed/gpu_communicator.h; others take the host's memory only).
  virtual std::unique_ptr<Pending> start_sum(Tensor values, Wire wire, const std::string& what) = 0;
  // all: world * bytes; what each rank gave, in the order of ranks.
  virtual void gather(const void* mine, size_t bytes, void* all, const std::string& what) = 0;
  // Rank 0's bytes for everyone.
  virtual void broadcast(void* bytes, size_t count, const std::string& what) = 0;

  virtual std::unique_ptr<Watched> watch(const std::string& what) = 0;

  // For messages: the step (counted from 1) and what the rank does in it, a string literal.
  virtual void note(int64_t step, const char* activity) = 0;
  // PeerError where a rank is lost. For whoever works long without the others.
  virtual void check() = 0;
  // say(step of note(), message) is called as soon as a rank is lost, whatever the callers are
  // doing: once, from another thread, on the first of the ranks that are left. Launchers kill the
  // rest of a job seconds after they lost a process of it.
  using SayLoss = std::function<void(int64_t step, const std::string& message)>;
  virtual void on_loss(SayLoss say) = 0;
  // Tells the others of this rank's error and hears of theirs. The same error everywhere keeps its
  // exit code; otherwise it is peer_lost. Afterwards the process may only end.
  virtual Ending end_with(ExitCode code, const std::string& message) = 0;
  // Where all ranks are done: waits for them. Without it, and after an error, nothing is waited
  // for.
  virtual void close() = 0;
  // Seconds that a rank may keep the others waiting.
  virtual void set_timeout(double seconds) = 0;
  // Threads for each rank, the same for all, where each host's processors are divided among its
  // ranks; 0: all.
  virtual int fair_threads() const = 0;

  bool alone() const { return world() == 1; }
  bool writes() const { return rank() == 0; }
};

// One process.
std::unique_ptr<Communicator> make_single_communicator();
Communicator& single_communicator();  // for whoever was given none

// ---- made of the above; all collective ----

// Sums over ranks in double, in the order of ranks.
std::vector<double> summed(Communicator& ranks, const std::vector<double>& values,
                           const std::string& what);
std::vector<double> largest(Communicator& ranks, const std::vector<double>& values,
                            const std::string& what);
// Every rank's text, by rank.
std::vector<std::string> gathered(Communicator& ranks, const std::string& text,
                                  const std::string& what);
std::string broadcasted(Communicator& ranks, const std::string& text, const std::string& what);

}  // namespace qt
