// distributed/operations.h -- sum, gather and broadcast as state machines over messages, advanced
// without blocking.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/comm/communicator.h"
#include "distributed/transport.h"

namespace qt {

using Clock = std::chrono::steady_clock;

// Owns or holds everything that messages read and write: where a job fails in the middle,
// operations are kept until the process ends, and no late message lands in memory that was given
// away.
class Operation {
 public:
  Operation(const std::string& what, int tag) : what_(what), tag_(tag) {}
  virtual ~Operation() = default;

  virtual void start(Transport& transport) = 0;
  // Does what can be done; true once complete.
  virtual bool advance(Transport& transport);
  // Ranks of whom a message is still to come; where there are none, those who have not taken
  // theirs.
  virtual std::vector<int> missing() const;
  // Called once, after completion and while the caller waits: hands the result over.
  virtual void deliver() {}
  const std::string& what() const { return what_; }

  Clock::time_point started, finished;  // in the hands of the communicator
  bool complete = false;

 protected:
  // What follows when all messages of a phase are there; false where that was the last one.
  virtual bool next_phase(Transport&) { return false; }
  void send(Transport& transport, int to, const void* bytes, size_t count);
  void receive(Transport& transport, int from, void* bytes, size_t count);
  int tag() const { return tag_; }

 private:
  struct Message {
    int peer;
    bool incoming;
    Transport::TransferPointer transfer;
  };
  std::string what_;
  int tag_;
  std::vector<Message> messages_;  // of this phase, not done
};

// The sum of f32 values over ranks. Rank r adds the r-th part: contributions in the order of ranks,
// in double, rounded once; then everyone gets all parts. 2 (world-1)/world of the bytes leave each
// rank.
class SumOperation : public Operation {
 public:
  SumOperation(const std::string& what, int tag, Tensor values, Wire wire)
      : Operation(what, tag), values_(std::move(values)), wire_(wire) {}
  void start(Transport& transport) override;

 protected:
  bool next_phase(Transport& transport) override;

 private:
  struct Part {
    int64_t begin, count;
  };
  Part part_of(int rank, int world) const;
  size_t width() const { return wire_ == Wire::f32 ? 4 : 2; }
  char* on_wire(int64_t element);
  void add_contributions(int rank, int world);
  void unpack();

  Tensor values_;
  Wire wire_;
  int phase_ = 0;
  std::vector<BFloat16> halves_;             // wire bf16: values as they travel
  std::vector<std::vector<char>> received_;  // by rank: its contribution to this rank's part
};

class GatherOperation : public Operation {
 public:
  GatherOperation(const std::string& what, int tag, const void* mine, size_t bytes, void* all)
      : Operation(what, tag),
        bytes_(bytes),
        mine_(static_cast<const char*>(mine), static_cast<const char*>(mine) + bytes),
        target_(all) {}
  void start(Transport& transport) override;
  void deliver() override;

 private:
  size_t bytes_;
  std::vector<char> mine_, all_;
  void* target_;
};

// Work that goes on elsewhere: complete when its owner says so. Whose part is missing is not known,
// so it may be anyone's.
class OutsideOperation : public Operation {
 public:
  using Operation::Operation;
  void start(Transport& transport) override;
  bool advance(Transport&) override { return over_; }
  std::vector<int> missing() const override { return others_; }
  void end() { over_ = true; }

 private:
  std::vector<int> others_;
  std::atomic<bool> over_ = false;
};

// From rank 0.
class BroadcastOperation : public Operation {
 public:
  BroadcastOperation(const std::string& what, int tag, void* bytes, size_t count)
      : Operation(what, tag),
        bytes_(static_cast<const char*>(bytes), static_cast<const char*>(bytes) + count),
        target_(bytes) {}
  void start(Transport& transport) override;
  void deliver() override;

 private:
  std::vector<char> bytes_;
  void* target_;
};

}  // namespace qt
