// train/gpu_training.h -- training steps on a GPU: recorded once as a CUDA graph and replayed, and
// never waited for within.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "train/gpu_input.h"
#include "train/optimizer.h"
#include "train/step_kernels.h"
#include "train/step_state.h"
#include "train/training_steps.h"

namespace qt {

// A step reads pictures and rates from addresses that stay, works in memory that the graph has for
// itself, and ends by copying what it made to the addresses of StepState, unless something was not
// finite. Loss, hits and that verdict are noted on the GPU until read().
//
// With several ranks nothing is recorded: buckets of gradients are sent by the host while backward
// runs, to a stream of their own or through host memory, and a wait for another rank has to be one
// that the host can give up, which a recorded sum is not. A step launches its kernels one by one,
// waits for the sums, and all ranks agree on what it gave before the update.
class GpuTraining : public TrainingSteps {
 public:
  GpuTraining(Model& model, Optimizer& optimizer, Loader& loader, const StepOptions& options);

  void start_epoch(int epoch, int64_t first_batch) override {
    input_.start_epoch(epoch, first_batch);
  }
  StepEnd step(double lr, const std::function<std::string()>& stop) override;
  bool is_full() const override;
  std::vector<StepResult> read() override;
  bool replays() const override { return graph_.has_value(); }
  const std::string& cannot_record() const { return cannot_record_; }  // why; "" where it can

 private:
  void take_batches();
  void body();
  StepEnd body_of_ranks(const std::function<std::string()>& stop);
  StepEnd of_this_rank(const std::vector<CheckedTensor>& watched) const;
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
  StepOptions options_;
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
