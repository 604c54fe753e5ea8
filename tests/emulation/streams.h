// tests/emulation/streams.h -- emulated streams, events and graphs: work is kept, and runs as late
// as is legal, in an order among streams that a seed chooses.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace emulator {

struct Region;
struct Capture;

struct Work {
  std::function<void()> run;     // empty: only waits
  CUstream_st* after = nullptr;  // runs when `after` has done so many
  uint64_t after_count = 0;
  std::function<bool()> ready;  // and not before this says so: it waits for another process
};

// What a captured stream noted: runs after the nodes it depends on.
struct Node {
  std::function<void()> run;
  std::vector<size_t> after;
};

// Bytes of blocks, and what was taken from the driver for them: as long as nobody trims it, the
// most that was ever in use.
struct Reserve {
  uint64_t in_use = 0, reserved = 0;
  void add(uint64_t bytes) {
    in_use += bytes;
    reserved = reserved > in_use ? reserved : in_use;
  }
};

// A recording in progress, or a graph.
struct Capture {
  std::vector<Node> nodes;
  size_t kernels = 0;
  std::set<CUstream_st*> streams;  // that were drawn into it; the first one began it
  CUstream_st* origin = nullptr;
  bool invalid = false, finished = false;
  std::vector<std::shared_ptr<Region>> regions;  // addresses that stay the graph's own
  int allocations = 0;                           // without a free among the nodes
  Reserve memory;                                // of its own
};

}  // namespace emulator

struct CUstream_st {  // NOLINTBEGIN(readability-identifier-naming)
  std::deque<emulator::Work> queue;
  uint64_t issued = 0, done = 0;
  std::shared_ptr<emulator::Capture> capture;
  std::vector<size_t> tails;                             // the nodes that the next one runs after
  std::vector<std::shared_ptr<emulator::Region>> freed;  // by work that has not run yet
};
struct CUevent_st {
  CUstream_st* stream = nullptr;  // nullptr: never recorded
  uint64_t count = 0;
  std::shared_ptr<emulator::Capture> capture;
  std::vector<size_t> nodes;
  bool timed = false;
  std::shared_ptr<double> when = nullptr;  // it was reached, seconds; 0 before
};
struct CUgraph_st {
  std::shared_ptr<emulator::Capture> recording;
};
struct CUgraphExec_st {
  std::shared_ptr<emulator::Capture> recording;
};  // NOLINTEND(readability-identifier-naming)

namespace emulator {

// Streams that were destroyed keep their work until it has run.
class Streams {
 public:
  explicit Streams(unsigned seed);

  CUstream_st* create();
  void destroy(CUstream_st* stream) { alive_.erase(stream); }
  bool alive(CUstream_st* stream) const { return alive_.count(stream) > 0; }
  size_t count() const { return alive_.size(); }

  // To the stream's queue, or to the recording it takes part in.
  void enqueue(CUstream_st* stream, std::function<void()> run);
  // Work that runs only once ready() says that other processes have done their part. Not for
  // recordings.
  void enqueue_when(CUstream_st* stream, std::function<bool()> ready, std::function<void()> run);
  void wait(CUstream_st* stream, const CUevent_st& event);
  // Runs what must have run for the stream's first `count` pieces of work to be done, and whatever
  // else the seed wants to run before.
  void run_until(CUstream_st* stream, uint64_t count);
  void run_all();
  // One piece of work of any stream, if there is one that may run.
  void run_one();
  bool any_may_run() const;
  // After an error: what is left never runs.
  void drop_all();
  bool capturing() const;
  void invalidate_captures();

  // Runs nodes in an order that their dependencies allow.
  void run_nodes(const std::vector<Node>& nodes);

 private:
  enum class Habit { late, random, early };
  CUstream_st* ready_for(CUstream_st* target);  // nullptr: another process has to come first
  CUstream_st* choose(CUstream_st* target);
  void run_head(CUstream_st* stream);

  std::mt19937 random_;
  Habit habit_;
  std::vector<std::unique_ptr<CUstream_st>> all_;
  std::set<CUstream_st*> alive_;
};

}  // namespace emulator
