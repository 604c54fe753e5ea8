// train/gpu_training.h -- training steps on a GPU: recorded once as a CUDA graph and replayed, and
// never waited for within.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "layers/model.h"
#include "train/gpu_input.h"
#include "train/optimizer.h"
#include "train/step_kernels.h"
#include "train/step_state.h"

namespace qt {

// What one step gave.
struct StepResult {
  struct Part {  // one forward pass
    double loss = 0;
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
  int accumulate = 1;
  float label_smoothing = 0;
  int eager_steps = 3;  // before one is recorded: libraries choose their kernels, memory is found
  bool record = true;
  std::function<void(const std::string&)> say = [](const std::string&) {};
};

// One phase of training. Model, optimizer and loader outlive it, lie in the memory of the stream
// that is current when it is made, and all calls are made while it is current.
//
// A step reads pictures and rates from addresses that stay, works in memory that the graph has for
// itself, and ends by copying what it made to the addresses of StepState, unless something was not
// finite. Loss, hits and that verdict are noted on the GPU until read().
class GpuTraining {
 public:
  GpuTraining(Model& model, Optimizer& optimizer, Loader& loader,
              const GpuTrainingOptions& options);

  void start_epoch(int epoch, int64_t first_batch) { input_.start_epoch(epoch, first_batch); }
  // Enqueues the next step; how many pictures it takes.
  int64_t step(double lr);
  // read() must come before the next step().
  bool is_full() const;
  // The steps since the last call, in order. Waits for them.
  std::vector<StepResult> read();

  bool replays() const { return graph_.has_value(); }
  const std::string& cannot_record() const { return cannot_record_; }  // why; "" where it can

 private:
  void take_batches();
  void body();
  void forward_and_backward(const GpuBatch& batch, std::vector<CheckedTensor>& watched);
  void watch_gradients(std::vector<CheckedTensor>& watched) const;
  void watch_parameters(std::vector<CheckedTensor>& watched) const;
  void record();
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
  std::vector<std::string> watched_names_;  // what a verdict numbers

  int steps_like_this_ = 0;  // eager ones with these extents and frozen statistics
  std::vector<bool> frozen_;
  std::vector<Shape> extents_;
  std::optional<GpuGraph> graph_;
  std::string cannot_record_;
};

}  // namespace qt
