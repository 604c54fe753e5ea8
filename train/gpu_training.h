// train/gpu_training.h -- training steps on a GPU: recorded once as a CUDA graph and replayed, and
// never waited for within.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "distributed/buckets.h"
#include "layers/model.h"
#include "train/gpu_input.h"
#include "train/optimizer.h"
#include "train/replica.h"
#include "train/step_kernels.h"
#include "train/step_state.h"

namespace qt {

// What one step gave.
struct StepResult {
  struct Part {       // one forward pass; with several ranks the whole step of all ranks
    double loss = 0;  // summed over its pictures
    int64_t correct = 0, images = 0;
  };
  std::vector<Part> parts;
  std::string bad;     // what was not finite, so that the step changed nothing; "": nothing
  int64_t lifted = 0;  // elements of quantizer steps lifted to their floor
};

struct GpuTrainingOptions {
  ForwardMode mode = ForwardMode::int8;
  Precision float_forward = Precision::f32;
  Precision backward = Precision::bf16;
  bool keep_16_bits = false;
  int accumulate = 1;
  float label_smoothing = 0;
  int eager_steps = 3;  // before one is recorded: libraries choose their kernels, memory is found
  bool record = true;
  std::function<void(const std::string&)> say = [](const std::string&) {};
  // With several ranks, whose gradients go through these buckets. synchronize: Pass::synchronize.
  // note: what the step is doing, for messages.
  Communicator* ranks = nullptr;
  GradientBuckets* buckets = nullptr;
  Communicator* synchronize = nullptr;
  std::function<void(const char*)> note = [](const char*) {};
};

// One phase of training. Model, optimizer and loader outlive it, lie in the memory of the stream
// that is current when it is made, and all calls are made while it is current.
//
// A step reads pictures and rates from addresses that stay, works in memory that the graph has for
// itself, and ends by copying what it made to the addresses of StepState, unless something was not
// finite. Loss, hits and that verdict are noted on the GPU until read().
//
// With several ranks nothing is recorded: buckets of gradients are sent by the host while backward
// runs, to a stream of their own or through host memory, and a wait for another rank has to be one
// that the host can give up, which a recorded sum is not. A step launches its kernels one by one,
// waits for the sums, and all ranks agree on what it gave before the update.
class GpuTraining {
 public:
  GpuTraining(Model& model, Optimizer& optimizer, Loader& loader,
              const GpuTrainingOptions& options);

  void start_epoch(int epoch, int64_t first_batch) { input_.start_epoch(epoch, first_batch); }
  // Enqueues the next step; how many pictures it takes. With several ranks: what all of them agreed
  // on, stop being this rank's reason to stop after the step.
  StepEnd step(double lr, const std::string& stop = "");
  // read() must come before the next step().
  bool is_full() const;
  // The steps since the last call, in order. Waits for them.
  std::vector<StepResult> read();

  bool replays() const { return graph_.has_value(); }
  const std::string& cannot_record() const { return cannot_record_; }  // why; "" where it can

 private:
  void take_batches();
  void body();
  StepEnd body_of_ranks(const std::string& stop);
  StepEnd of_this_rank(const std::vector<CheckedTensor>& watched, const std::string& stop) const;
  Var forward(const GpuBatch& batch, std::vector<CheckedTensor>& watched);
  void backward(const Var& loss, const GpuBatch& batch) const;
  void update(std::vector<CheckedTensor>& watched);
  void watch_gradients(std::vector<CheckedTensor>& watched) const;
  void watch_parameters(std::vector<CheckedTensor>& watched) const;
  void record();
  bool replay();
  std::vector<bool> frozen() const;
  std::vector<Shape> extents() const;

  Model& model_;
  Optimizer& optimizer_;
  GpuTrainingOptions options_;
  std::vector<NamedParameter> parameters_;
  std::vector<BatchNormState*> norms_;
  Stream stream_;
  GpuInput input_;
  StepState state_;
  std::vector<GpuBatch> batches_;  // of one step

  // Notes on the GPU: a column for each forward pass since read(), of its loss and hits, and with
  // the last one of a step its verdict and lifted steps.
  Tensor losses_, hits_, verdicts_, lifted_, position_;
  std::vector<int64_t> images_;             // of each column
  std::vector<StepEnd> ends_;               // with several ranks, of each step since read()
  std::vector<std::string> watched_names_;  // what a verdict numbers

  int steps_like_this_ = 0;  // eager ones with these extents and frozen statistics
  std::vector<bool> frozen_;
  std::vector<Shape> extents_;
  std::optional<GpuGraph> graph_;
  bool has_replayed_ = false;  // the graph was launched once
  std::string cannot_record_;
};

}  // namespace qt
