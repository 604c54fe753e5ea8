// train/replica.h -- what keeps the copies of a network on several ranks one network. With one rank
// nothing here does anything.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/comm/communicator.h"
#include "layers/model.h"
#include "train/checkpoint.h"

namespace qt {

// work() on rank 0; where it throws an Error, every rank throws the same.
void by_writer(Communicator& ranks, const std::string& what, const std::function<void()>& work);

// Rank 0's for everyone.
void share_checkpoint(Communicator& ranks, std::optional<LoadedCheckpoint>& checkpoint);
void share_state(Communicator& ranks, Model& model);

// What ranks bring to the end of a step, and agree on.
struct StepEnd {
  double loss = 0;  // summed over images
  int64_t correct = 0, images = 0;
  std::string bad;   // what is not finite; "": nothing. Of the lowest rank that has something.
  std::string stop;  // why to stop after this step; "": nobody asked
};
StepEnd agreed(Communicator& ranks, const StepEnd& mine);
// A rank's reason to stop ("": none), the lowest rank's that has one; asked for by all of them.
std::string agreed_reason(Communicator& ranks, const std::string& mine);

// The running statistics of all batch normalizations, replaced by their average over ranks: start()
// when forward has updated them, finish() before anyone reads them. In between backward goes on.
class StatisticsAverage {
 public:
  StatisticsAverage(const std::vector<BatchNormState*>& norms, Communicator& ranks)
      : norms_(norms), ranks_(ranks) {}
  void start();
  void finish();

 private:
  std::vector<BatchNormState*> norms_;
  Communicator& ranks_;
  Tensor values_;
  std::unique_ptr<Pending> pending_;
};

// Compares a hash of every tensor with the other ranks'. PeerError, the same on all ranks, naming
// the first tensor that differs and who has another one than rank 0.
void check_same(Communicator& ranks, const NamedTensors& state, int64_t step);
// One bit of the first number is another one afterwards, as after an error of memory: to see that
// check_same finds it.
void flip_a_bit(Parameter& parameter);

}  // namespace qt
