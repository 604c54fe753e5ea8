// distributed/peers.h -- what a rank knows of the others: heartbeats, failures, and who keeps the
// job waiting.
#pragma once
#include <array>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "distributed/operations.h"

namespace qt {

// Who a rank is; sent once, at the start.
struct Identity {
  int64_t process = 0;
  std::array<char, 64> host{};
  uint64_t process_space = 0;             // the namespace in which `process` counts
  std::array<uint64_t, 16> processors{};  // that it may run on, as bits
};
Identity own_identity();
// How many threads each rank may have: the processors that the ranks of a host may use together,
// divided among them. The same for all ranks, that of the fullest host: the others would wait for
// it, and resumed runs need one number.
int fair_threads(const std::vector<Identity>& all);

// What ranks tell each other beside their work, about once a second and where they fail.
struct Notice {
  enum class Kind : int32_t { alive, failed };
  Kind kind = Kind::alive;
  int32_t exit_code = 0;
  int32_t lost = -1;  // of a failure that is the loss of a rank: which
  int64_t step = 0;
  uint64_t operations = 0;  // started so far
  std::array<char, 48> activity{};
  std::array<char, 400> message{};  // of a failure
};

// Of the communicator's thread only.
class Peers {
 public:
  static constexpr int tag = 0;
  explicit Peers(Transport& transport);
  void introduce(const std::vector<Identity>& identities) { identities_ = identities; }

  // Takes what has come in; sends `notice` to whoever has taken the last one. True where something
  // came.
  bool poll();
  void send(const Notice& notice);
  // Sends it once to everyone; true when all who live have taken it. To be called until then.
  bool tell_all(const Notice& notice);

  // "rank 2 of 4 failed at step 12, reading pictures: ..."; the first failure heard of.
  std::string failure() const;
  // Where that failure is itself the loss of a rank: which.
  std::optional<int> lost() const;
  std::optional<int> exit_code_of(int rank) const;
  // The first peer on this host whose process is gone, -1 where there is none.
  int gone() const;
  bool is_gone(int rank) const;
  bool is_silent(int rank) const;  // not heard of for several heartbeats
  void set_timeout(std::chrono::duration<double> timeout);
  void forgive(Clock::time_point now, Clock::duration time);  // before now; nobody could be heard

  // "rank 2 of 4 (process 123 on host a), last at step 12, backward, is lost: its process is gone".
  std::string describe(int rank, const std::string& what_happened) const;
  // Which rank holds up an operation that misses messages of these ranks, and how.
  std::string diagnosis(const std::vector<int>& missing, double seconds,
                        const std::string& operation) const;
  // Of the ranks whose messages are missing, or of all: the one that is meant.
  int culprit(const std::vector<int>& missing) const;

 private:
  struct Peer {
    Notice last, incoming, outgoing;
    Transport::TransferPointer receiving, sending;
    bool told = false;
    Clock::time_point heard = Clock::now();
  };
  Transport& transport_;
  std::vector<Identity> identities_;
  std::map<int, Peer> peers_;
  int first_failed_ = -1;
  std::chrono::duration<double> silence_ = std::chrono::seconds(10);
};

}  // namespace qt
