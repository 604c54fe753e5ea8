// scripts/bench/kernels/step_bench.cpp -- the bare step: forward, loss, backward and update on one
// batch that is held, without loader, log or metrics. What scripts/bench/epoch compares `qattrain`
// with.
//
//   build/cpu/step_bench STEPS CONFIG [key.path=value ...]
//
// The QAT phase of the config, or the float phase where train.qat.epochs is 0. Prints one line of
// JSON: pictures a second over STEPS steps, after a tenth as many to warm up, ms of each step, and
// the last loss.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "core/ops/ops.h"
#include "train/network.h"
#include "train/threads.h"
#include "train/trainer.h"

namespace qt {
namespace {

using Clock = std::chrono::steady_clock;

struct Bare {
  Experiment experiment;
  std::shared_ptr<const Dataset> set;
  std::unique_ptr<Model> model;
  std::vector<NamedParameter> parameters;
  std::unique_ptr<Optimizer> optimizer;
  ForwardMode mode;
  Precision backward;
  Batch batch;

  Bare(const std::string& config, const std::vector<std::string>& overrides) {
    load_config(experiment, config, overrides);
    pin_threads(experiment.train.threads);
    set = make_dataset(dataset_spec(experiment), Split::train);
    model = build_model(experiment, *set);
    parameters = parameters_of(*model);
    mode = plan(experiment).back().mode;
    backward = backward_precision(experiment, false);
    Loader loader(set, train_loader_spec(experiment));
    if (mode != ForwardMode::float32)
      calibrate(*model, loader, experiment.quant.calibration.batches, mode);
    set_missing_floors(*model);
    const OptimizerConfig& c = experiment.train.optimizer;
    optimizer = make_optimizer({.kind = c.kind,
                                .momentum = c.momentum,
                                .nesterov = c.nesterov,
                                .weight_decay = c.weight_decay,
                                .step_lr_multiplier = experiment.quant.step_lr_multiplier},
                               parameters);
    loader.start_epoch(0);
    loader.next(batch);
  }

  double step() {
    const Pass pass{.mode = mode,
                    .training = true,
                    .backward = backward,
                    .keep_16_bits = std::string(experiment.train.saved) == "f16"};
    const Var logits = model->forward(batch.images, pass);
    const Var loss = softmax_cross_entropy(logits, batch.labels, experiment.train.label_smoothing);
    Tape::current().backward(loss, Tensor::full({1}, 1));
    optimizer->step(1e-3);
    return loss.value().data<float>()[0];
  }
};

void run(int steps, const std::string& config, const std::vector<std::string>& overrides) {
  Bare bare(config, overrides);
  const int warm_up = (steps + 9) / 10;
  double loss = 0, seconds = 0;
  std::string ms;
  for (int i = 0; i < warm_up + steps; ++i) {
    const auto began = Clock::now();
    loss = bare.step();
    const double took = std::chrono::duration<double>(Clock::now() - began).count();
    if (i < warm_up) continue;
    seconds += took;
    ms += (ms.empty() ? "" : ",") + std::to_string(1e3 * took);
  }
  if (!std::isfinite(loss)) throw DivergenceError("the loss of the bare step is not finite");
  std::printf("{\"images_per_second\":%.3f,\"loss\":%.4f,\"ms\":[%s]}\n",
              double(steps) * double(bare.batch.labels.elements()) / seconds, loss, ms.c_str());
}

}  // namespace
}  // namespace qt

int main(int argc, char** argv) {
  if (argc < 3 || std::atoi(argv[1]) < 1) {
    std::fputs("usage: step_bench STEPS CONFIG [key.path=value ...]\n", stderr);
    return 2;
  }
  try {
    qt::run(std::atoi(argv[1]), argv[2], {argv + 3, argv + argc});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "step_bench: %s\n", e.what());
    return 1;
  }
  return 0;
}
