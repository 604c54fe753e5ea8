// train/training_steps.h -- the steps of one phase of training, wherever they are computed.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "distributed/buckets.h"
#include "layers/model.h"
#include "train/replica.h"

namespace qt {

// What one step gave.
struct StepResult {
  struct Part {       // one forward pass; with several ranks the whole step of all ranks
    double loss = 0;  // summed over its pictures
    int64_t correct = 0, images = 0;
  };
  std::vector<Part> parts;
  std::string bad;     // what was not finite, so that the step does not count; "": nothing
  int64_t lifted = 0;  // elements of quantizer steps lifted to their floor
};

struct StepOptions {
  ForwardMode mode = ForwardMode::int8;
  Precision float_forward = Precision::f32;
  Precision backward = Precision::f32;
  bool keep_16_bits = false;
  int accumulate = 1;  // forward passes of a step
  float label_smoothing = 0;
  // A step that was not finite leaves everything as it was, so that the next one may follow. On a
  // GPU always; without it a CPU leaves the network as that step made it.
  bool takes_back = false;
  std::function<void(const std::string&)> say = [](const std::string&) {};
  // note: what the step is doing, for messages.
  std::function<void(const char*)> note = [](const char*) {};
  // With several ranks, whose gradients go through these buckets. synchronize: Pass::synchronize.
  Communicator* ranks = nullptr;
  GradientBuckets* buckets = nullptr;
  Communicator* synchronize = nullptr;
  // Of a GPU: steps before one is recorded, in which libraries choose their kernels and memory is
  // found; whether one is recorded.
  int eager_steps = 3;
  bool record = true;
};

// How many pictures a rank has of a batch of all ranks.
struct BatchShare {
  int64_t pictures = 0, of_all_ranks = 0;
};
Pass training_pass(const StepOptions& options, const BatchShare& share, Health& health);
// The gradient of the loss (the mean over this rank's pictures): the rank's share of the mean over
// all ranks, and the batch's of the step's. f32 [1], where current_stream() works.
Tensor loss_gradient(const StepOptions& options, const BatchShare& share);

// Model, optimizer and loader outlive it, lie in the memory of the stream that is current when it
// is made, and all calls are made while it is current.
class TrainingSteps {
 public:
  virtual ~TrainingSteps() = default;
  virtual void start_epoch(int epoch, int64_t first_batch) = 0;
  // The next step, or enqueues it. Of the result `images` alone holds: how many pictures it takes.
  // With several ranks: what all of them agreed on, stop being asked at the step's end for this
  // rank's reason to stop after it.
  virtual StepEnd step(double lr, const std::function<std::string()>& stop) = 0;
  // read() must come before the next step().
  virtual bool is_full() const = 0;
  // The steps since the last call, in order. Waits for them.
  virtual std::vector<StepResult> read() = 0;
  // Whether the next step is one that was recorded.
  virtual bool replays() const { return false; }
};

}  // namespace qt
