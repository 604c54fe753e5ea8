// train/evaluate.h -- how good a network is on the test pictures.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/comm/communicator.h"
#include "core/tensor/safetensors.h"
#include "data/loader.h"
#include "deploy/program.h"
#include "layers/model.h"

namespace qt {

struct Evaluation {
  double loss = 0;  // mean cross entropy
  double top1 = 0;  // percent
  // Percent of pictures whose class is among the five of the greatest logits; where there are more
  // than ten classes.
  std::optional<double> top5 = {};
  int64_t images = 0;
  std::string stopped_by = {};  // why it ended early: the numbers are of nothing whole
  // Pictures a second, without the first batch where there are more: in the network alone, and with
  // the waiting for pictures.
  double network_rate = 0, rate = 0;
};

// What `eval --predictions` writes: logits f32 [N, classes] and labels i64 [N] in the order of the
// data set.
struct Predictions {
  std::vector<float> logits;
  std::vector<int64_t> labels;
  NamedTensors tensors() const;
};

// Logits f32 [n, classes] of u8 images [n, h, w, 3].
using LogitsOf = std::function<Tensor(const Tensor& images)>;

struct EvaluateOptions {
  LoaderSpec loader;
  std::optional<int64_t> limit = {};  // look at the first pictures only
  Predictions* predictions = nullptr;
  // Asked before every batch: why to end early, "" to go on; the same on all ranks.
  std::function<std::string()> stop = {};
  // A batch that is smaller than one before is filled up with pictures whose logits are dropped: a
  // GPU compiles its kernels for one number of pictures, and what a picture's logits are does not
  // depend on its batch.
  bool fill_batches = false;
  // Each rank looks at its part of every batch; the result is of all pictures, on all ranks. Not
  // with limit or predictions.
  Communicator* ranks = nullptr;
};
Evaluation evaluate(const std::shared_ptr<const Dataset>& dataset, const LogitsOf& logits_of,
                    const EvaluateOptions& options);

// Logits of pictures in the host's memory, and in it; computed where current_stream() works at the
// call, where the network lies. Running statistics, no tape.
LogitsOf logits_of_model(Model& model, ForwardMode mode);
// The integer program, which lies in the host's memory, on the library's kernels.
LogitsOf logits_of_program(const Program& program, CodePath path);

// Replaces the running statistics of every batch normalization by the average over `batches`
// training batches (cumulative; Wu and Johnson 2021, arXiv 2105.07576), variances too: the plain
// average of unbiased ones; frozen ones and the steps of all quantizers stay. The order of pictures
// depends on `epoch` only.
struct ReestimateOptions {
  ForwardMode mode = ForwardMode::int8;
  int epoch = 0, batches = 1;
  Communicator* synchronize = nullptr;     // Pass::synchronize
  std::function<std::string()> stop = {};  // EvaluateOptions::stop
};
// Why it ended early, with statistics of the batches so far (where there was one); "": it did not.
std::string reestimate_statistics(Model& model, Loader& loader, const ReestimateOptions& options);

}  // namespace qt
