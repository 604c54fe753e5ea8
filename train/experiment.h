// train/experiment.h -- every key of a config file, each declared once, and what the other rooms
// are told from them.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/base/config.h"
#include "data/loader.h"
#include "layers/model.h"
#include "train/optimizer.h"
#include "train/schedule.h"

namespace qt {

struct ModelConfig : Section {
  using Section::Section;
  Key<std::string> name{this, "name", "resnet18", one_of_names(ModelRegistry::names), "network"};
  Key<std::string> stem{
      this, "stem", "cifar", one_of("cifar", "imagenet"),
      "first layers of resnet18, 34 and 50: 3x3 at full size, or 7x7 stride 2 and a max pool"};
  Key<std::vector<int>> hidden{
      this, "hidden", {256}, at_least(1), "widths of the hidden layers of mlp"};
};

struct AugmentationConfig : Section {
  using Section::Section;
  Key<std::string> crop{this, "crop", "padded",
                        one_of("none", "padded", "random", "random_resized"),
                        "how training pictures are cropped"};
  Key<int> crop_padding{this, "crop_padding", 4, range(0, 512),
                        "crop padded: zeros on each side, pixels"};
  Key<bool> flip{this, "flip", true, any(),
                 "mirror training pictures left to right, each with probability 1/2"};
};

struct DataConfig : Section {
  using Section::Section;
  Key<std::string> kind{this, "kind", "generated", one_of_names(dataset_kinds), "data set"};
  Key<std::string> path{this, "path", "", any(),
                        "folder of the data set; ${NAME} is an environment variable"};
  Key<int64_t> seed{this, "seed", 0, at_least(0), "generated: what the pictures are made from"};
  Key<int> image_size{this, "image_size", 0, range(0, 4096),
                      "side of the pictures, pixels; 0: the set's own size"};
  Key<int> resize_size{
      this, "resize_size", 0, range(0, 4096),
      "shorter side before the centre crop; 0: image_size * 8 / 7 rounded down, or "
      "image_size where the pictures have that size"};
  AugmentationConfig augmentation{this, "augmentation", "of training pictures"};
  Key<std::vector<double>> mean{
      this, "mean", {0.5, 0.5, 0.5}, range(0, 1).count(3, 3), "of R, G, B in 0 to 1"};
  Key<std::vector<double>> std{
      this, "std", {0.25, 0.25, 0.25}, range(0.001, 1).count(3, 3), "of R, G, B in 0 to 1"};
  Key<int> workers{this, "workers", 1, range(0, 256),
                   "threads that prepare batches; the batches do not depend on it"};
  Key<int> prefetch{this, "prefetch", 2, range(1, 64), "batches kept ready"};
  Key<std::string> on_error{this, "on_error", "stop", one_of("stop", "skip"),
                            "what to do with an unreadable picture"};
  Key<double> max_bad_fraction{this, "max_bad_fraction", 0.01, range(0, 1),
                               "on_error skip: stop above this share"};
  Key<int64_t> train_images{this, "train_images", 4096, at_least(1),
                            "generated: training pictures"};
  Key<int64_t> test_images{this, "test_images", 1000, at_least(1), "generated: test pictures"};
  Key<std::optional<int64_t>> cache_megabytes{
      this, "cache_megabytes", std::nullopt, range(0, 1 << 24),
      "sets of small pictures up to this size are kept in memory decoded; null: generated sets up "
      "to 1024, folders none"};
  void check(ConfigProblems& problems) const override;
};

struct WeightQuantConfig : Section {
  using Section::Section;
  Key<std::string> kind{this, "kind", "lsq", one_of_names(QuantizerRegistry::names), "quantizer"};
  Key<int> bits{this, "bits", 8, range(2, 8), "width of a code"};
  Key<std::string> granularity{this, "granularity", "channel", one_of("channel", "tensor"),
                               "one step per output channel, or one for the layer"};
  Key<std::string> range_{this, "range", "narrow", one_of("narrow", "full"),
                          "narrow leaves out the lowest code, so that codes are symmetric"};
};

struct ActivationQuantConfig : Section {
  using Section::Section;
  Key<std::string> kind{this, "kind", "lsq", one_of_names(QuantizerRegistry::names), "quantizer"};
  Key<int> bits{this, "bits", 8, range(2, 8), "width of a code"};
  Key<std::string> range_{this, "range", "narrow", one_of("narrow", "full"),
                          "of signed codes, as for weights"};
  Key<bool> unsigned_full{this, "unsigned_full", false, any(),
                          "8 bit after ReLU: 0..255, for backends that have it"};
  Key<double> momentum{this, "momentum", 0.1, range(0, 1),
                       "minmax: share of the newest observation"};
};

struct LayerOverrideConfig : Section {
  using Section::Section;
  WeightQuantConfig weights{this, "weights", "of the layers"};
  ActivationQuantConfig activations{this, "activations", "of what the layers emit"};
};

struct LayerBitsConfig : Section {
  LayerBitsConfig(Section* parent, const std::string& name, const std::string& help,
                  const std::string& bits_help)
      : Section(parent, name, help), bits{this, "bits", 8, range(2, 8), bits_help} {}
  Key<int> bits;
};

struct BatchNormConfig : Section {
  using Section::Section;
  Key<double> freeze_at{this, "freeze_at", 1.0, range(0, 1),
                        "share of the QAT phase after which batch statistics are frozen; 1: never"};
  Key<int> reestimate_batches{
      this, "reestimate_batches", 0, at_least(0),
      "training batches (at most an epoch) from which statistics are measured anew "
      "before an evaluation and when they are frozen; 0: off"};
};

struct CalibrationConfig : Section {
  using Section::Section;
  Key<int> batches{this, "batches", 8, at_least(0),
                   "training batches that choose the first steps; 0: take the checkpoint's"};
};

struct QuantConfig : Section {
  using Section::Section;
  WeightQuantConfig weights{this, "weights", "how weights are quantized"};
  ActivationQuantConfig activations{this, "activations", "how activations are quantized"};
  LayerBitsConfig first_layer{this, "first_layer", "exception for the first convolution",
                              "width of a weight code"};
  LayerBitsConfig last_layer{
      this, "last_layer", "exception for the classifier and its input",
      "width of the classifier's weight codes and of the average pool's output codes"};
  Key<std::string> residual{
      this, "residual", "identity", one_of("identity", "both", "none"),
      "what residual additions read: the block input's codes, two quantized inputs, reals"};
  SectionMap<LayerOverrideConfig> overrides{this, "overrides",
                                            "by layer name pattern (*, ?); a later one wins, and "
                                            "what is not set is as without"};
  BatchNormConfig bn{this, "bn", "batch normalization in the QAT phase"};
  Key<double> step_lr_multiplier{this, "step_lr_multiplier", 1.0, greater_than(0),
                                 "learning rate of steps, relative"};
  Key<std::string> grad_scale_count{
      this, "grad_scale_count", "features", one_of("features", "elements"),
      "LSQ's N for activations: features of one sample, or elements of the batch"};
  CalibrationConfig calibration{this, "calibration",
                                "first steps, between the float and the QAT phase"};
};

struct PhaseConfig : Section {
  PhaseConfig(Section* parent, const std::string& name, int default_epochs, double default_lr,
              const std::string& help)
      : Section(parent, name, help),
        epochs{this, "epochs", default_epochs, range(0, 100000),
               "passes over the training pictures; 0: no such phase"},
        lr{this, "lr", default_lr, greater_than(0), "highest learning rate"},
        weight_decay{this, "weight_decay", std::nullopt, at_least(0),
                     "in place of train.optimizer.weight_decay"},
        schedule{this, "schedule", "learning rate over the phase"} {}
  Key<int> epochs;
  Key<double> lr;
  Key<std::optional<double>> weight_decay;
  ScheduleConfig schedule;
};

struct TrainConfig : Section {
  using Section::Section;
  PhaseConfig float_phase{this, "float", 10, 0.1, "training without quantization, before QAT"};
  PhaseConfig qat_phase{this, "qat", 3, 0.01, "quantization-aware training"};
  Key<std::string> init_from{this, "init_from", "", any(),
                             "start from a run folder, a checkpoint folder or a .safetensors file"};
  Key<int> batch{this, "batch", 128, range(1, 1 << 20), "pictures of one forward pass"};
  Key<int> accumulate{this, "accumulate", 1, range(1, 1 << 16),
                      "forward passes whose gradients make one step"};
  Key<int64_t> seed{this, "seed", 1, at_least(0), "of first weights, order and augmentation"};
  OptimizerConfig optimizer{this, "optimizer", "how gradients change parameters"};
  Key<float> label_smoothing{this, "label_smoothing", 0, half_open(0, 1),
                             "share of the target given to all classes"};
  Key<std::string> forward{
      this, "forward", "int8", one_of("float", "int8", "exact_float", "fake_quant"),
      "arithmetic of the QAT phase; int8 is what is deployed, exact_float gives the same bits"};
  Key<std::string> backward{
      this, "backward", "auto", one_of("auto", "f32", "tf32", "bf16"),
      "precision of backward convolutions; auto: bf16 on a GPU and where the CPU has it natively, "
      "f32 elsewhere; bf16: only there; tf32: GPUs only"};
  Key<std::string> saved{
      this, "saved", "f32", one_of("f32", "f16"),
      "what backward reads of each normalized value: the convolution's sum, or 16 bits, which take "
      "a third less memory"};
  Key<std::string> float_forward{
      this, "float_forward", "auto", one_of("auto", "f32", "tf32", "bf16"),
      "precision of forward convolutions in the float phase; auto: bf16 on a GPU, f32 elsewhere; "
      "bf16: a GPU or a CPU that has it natively; tf32: GPUs only"};
  Key<int> threads{this, "threads", 0, range(0, 4096),
                   "0: one per core, and as the checkpoint says on resume"};
  Key<std::string> on_nan{this, "on_nan", "stop", one_of("stop", "skip"),
                          "what NaN or infinity does: end the run (exit code 5), or leave out the "
                          "step, as if its pictures had not been"};
  void check(ConfigProblems& problems) const override;
};

struct LogConfig : Section {
  using Section::Section;
  Key<int> every{this, "every", 20, at_least(1),
                 "steps between lines of metrics.jsonl and TensorBoard points"};
  Key<int> histograms_every{this, "histograms_every", 1, at_least(0),
                            "epochs between layer statistics; 0: none"};
  Key<double> progress_seconds{this, "progress_seconds", 10, greater_than(0),
                               "between progress lines off a terminal"};
};

struct CheckpointConfig : Section {
  using Section::Section;
  Key<int> every_epochs{this, "every_epochs", 1, at_least(0),
                        "epochs between checkpoints; 0: at phase ends only"};
  Key<int> every_steps{this, "every_steps", 0, at_least(0),
                       "steps between checkpoints; 0: at epoch ends only"};
  Key<int> keep_last{this, "keep_last", 2, at_least(1), "newest checkpoints that stay"};
  Key<int> keep_best{this, "keep_best", 1, at_least(0),
                     "checkpoints with the highest top-1 that stay too"};
};

struct EvalConfig : Section {
  using Section::Section;
  Key<int> every_epochs{this, "every_epochs", 1, at_least(0),
                        "epochs between evaluations; 0: at phase ends only"};
  Key<bool> after_calibration{
      this, "after_calibration", true, any(),
      "evaluate before the first QAT step too, where calibration chose the steps: what "
      "quantization alone costs"};
  Key<std::optional<int64_t>> batch{this, "batch", std::nullopt, range(1, 1 << 20),
                                    "pictures of one forward pass; null: train.batch"};
};

struct DistributedConfig : Section {
  using Section::Section;
  Key<double> timeout{this, "timeout", 120, range(0.001, 1e7),
                      "seconds that a rank may keep the others waiting before the run ends"};
  Key<std::string> wire{this, "wire", "f32", one_of("f32", "bf16"),
                        "how gradients travel; bf16 halves the bytes and rounds"};
  Key<double> bucket_megabytes{
      this, "bucket_megabytes", 25, range(1e-6, 65536),
      "gradients that travel together; a bucket is full when it has as many, the first with 1"};
  Key<bool> sync_batchnorm{this, "sync_batchnorm", false, any(),
                           "batch statistics over all ranks, as one process would take them"};
};

struct Experiment : Section {
  ModelConfig model{this, "model", "the network"};
  DataConfig data{this, "data", "the pictures"};
  QuantConfig quant{this, "quant", "quantization"};
  TrainConfig train{this, "train", "training"};
  LogConfig log{this, "log", "what is written down, and when"};
  CheckpointConfig checkpoint{this, "checkpoint", "when the state is saved"};
  EvalConfig eval{this, "eval", "when the test pictures are looked at"};
  DistributedConfig distributed{this, "distributed", "training on several processes (ranks)"};
  Key<std::string> device{this, "device", "auto", any(),
                          "where it is computed: cpu, cuda (the first GPU), cuda:K; auto: the CPU"};
  void check(ConfigProblems& problems) const override;
};

// XXH3-128 of the whole resolved config.
std::string config_hash(const Experiment& experiment);
// The keys that training depends on, and their values: neither those that say what is written down
// and when, nor those that change how fast it goes.
std::map<std::string, std::string> course_of(const Experiment& experiment);

DatasetSpec dataset_spec(const Experiment& experiment);
LoaderSpec train_loader_spec(const Experiment& experiment);
// eval.batch, else train.batch.
int64_t eval_batch(const Experiment& experiment);
LoaderSpec eval_loader_spec(const Experiment& experiment);

// The network for pictures of this set. ConfigError for pictures that are not square and for a
// pattern of quant.overrides that no layer matches.
std::unique_ptr<Model> build_model(const Experiment& experiment, const Dataset& dataset);

// `auto` is bf16 on a GPU, and looks at the CPU otherwise.
Precision backward_precision(const Experiment& experiment, bool on_gpu);
Precision float_forward_precision(const Experiment& experiment, bool on_gpu);

}  // namespace qt
