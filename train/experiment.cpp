// train/experiment.cpp -- rules that span several keys, and the specs of the other rooms made from
// a config.
#include "train/experiment.h"

#include <fnmatch.h>

#include <algorithm>
#include <set>

#include "core/base/config_value.h"
#include "core/base/files.h"
#include "core/device/cpu.h"
#include "train/device.h"

namespace qt {
namespace {

// What an override says about weights and activations: only keys that were set.
void apply(const WeightQuantConfig& from, QuantSpec& spec, bool all) {
  if (all || from.kind.is_set()) spec.kind = from.kind;
  if (all || from.bits.is_set()) spec.bits = from.bits;
  if (all || from.granularity.is_set()) spec.per_channel = from.granularity == "channel";
  if (all || from.range_.is_set()) spec.narrow = from.range_ == "narrow";
}

void apply(const ActivationQuantConfig& from, QuantSpec& spec, bool all) {
  if (all || from.kind.is_set()) spec.kind = from.kind;
  if (all || from.bits.is_set()) spec.bits = from.bits;
  if (all || from.range_.is_set()) spec.narrow = from.range_ == "narrow";
  if (all || from.unsigned_full.is_set()) spec.unsigned_full = from.unsigned_full;
  if (all || from.momentum.is_set()) spec.momentum = from.momentum;
}

ResidualPolicy residual_policy(const std::string& name) {
  if (name == "both") return ResidualPolicy::both;
  return name == "none" ? ResidualPolicy::none : ResidualPolicy::identity;
}

// What building a network asked of the overrides, by pattern.
struct AskedOverrides {
  std::vector<std::string> names;              // of layers
  std::set<std::string> weights, activations;  // patterns that fit some layer which has these
  std::vector<std::string> of_weights, of_activations;  // names of the layers that have these
};

// asked outlives the building of the network.
QuantPolicy quant_policy(const QuantConfig& config, const std::shared_ptr<AskedOverrides>& asked) {
  QuantPolicy policy;
  apply(config.weights, policy.weights, true);
  apply(config.activations, policy.activations, true);
  policy.activations.count_elements = config.grad_scale_count == "elements";
  policy.first_layer_bits = config.first_layer.bits;
  policy.last_layer_bits = config.last_layer.bits;
  policy.residual = residual_policy(config.residual);
  policy.overrides = [&config, asked](const std::string& name, QuantSpec* weights,
                                      QuantSpec* activations) {
    asked->names.push_back(name);
    if (weights) asked->of_weights.push_back(name);
    if (activations) asked->of_activations.push_back(name);
    for (const auto& [pattern, section] : config.overrides) {
      if (fnmatch(pattern.c_str(), name.c_str(), 0) != 0) continue;
      if (weights) asked->weights.insert(pattern), apply(section.weights, *weights, false);
      if (activations)
        asked->activations.insert(pattern), apply(section.activations, *activations, false);
    }
  };
  return policy;
}

[[noreturn]] void refuse_pattern(const std::string& pattern,
                                 const std::vector<std::string>& layers) {
  // "*.conv9" is near to "*.conv1", not to any layer's whole name.
  std::vector<std::string> candidates = layers;
  const size_t star = pattern.rfind('*');
  for (const std::string& layer : layers)
    for (size_t dot = layer.find('.'); star != std::string::npos && dot != std::string::npos;
         dot = layer.find('.', dot + 1))
      candidates.push_back("*" + layer.substr(dot));
  const std::string near = nearest(pattern, candidates);
  throw ConfigError("quant.overrides: no layer matches '" + pattern + "'" +
                    (near.empty() ? "" : "; did you mean '" + near + "'?") +
                    "; layers: " + join(layers));
}

std::array<double, 3> triple(const std::vector<double>& list) {
  return {list.at(0), list.at(1), list.at(2)};
}

// ConfigError for a pattern that says nothing of any layer.
void check_overrides(const QuantConfig& config, const AskedOverrides& asked) {
  const auto refuse = [](const std::string& pattern, const char* what,
                         const std::vector<std::string>& layers) {
    throw ConfigError("quant.overrides: '" + pattern + "' sets " + what +
                      ", but no layer that it matches quantizes " + what +
                      "; layers that do: " + join(layers));
  };
  for (const auto& [pattern, section] : config.overrides) {
    const bool weights = asked.weights.count(pattern),
               activations = asked.activations.count(pattern);
    if (!weights && !activations) refuse_pattern(pattern, asked.names);
    if (section.weights.is_set() && !weights) refuse(pattern, "weights", asked.of_weights);
    if (section.activations.is_set() && !activations)
      refuse(pattern, "activations", asked.of_activations);
  }
}

}  // namespace

void DataConfig::check(ConfigProblems& problems) const {
  if (resize_size != 0 && resize_size < image_size)
    problems.add(resize_size, "a shorter side of " + std::to_string(resize_size) +
                                  " is less than the " + std::to_string(image_size) +
                                  " pixels of data.image_size that are cropped from it");
  if (kind != "generated" && path->empty())
    problems.add(path, "data.kind " + kind.get() + " needs the folder of the data set");
}

void TrainConfig::check(ConfigProblems& problems) const {
  if (float_phase.epochs == 0 && qat_phase.epochs == 0)
    problems.add(qat_phase.epochs, "both phases have 0 epochs: nothing would be trained");
  if (forward == "float" && qat_phase.epochs > 0)
    problems.add(forward,
                 "QAT needs int8, exact_float or fake_quant; for float training alone set "
                 "train.qat.epochs to 0");
}

void Experiment::check(ConfigProblems& problems) const {
  if (!is_device_name(device))
    problems.add(device, "no such device: " + device.get() + "; allowed: auto, cpu, cuda, cuda:K");
  const auto fits_int8 = [&](const Key<bool>& unsigned_full) {
    if (unsigned_full)
      problems.add(unsigned_full,
                   "codes 0..255 are for backends that have them; this build's engines hold codes "
                   "in int8 (0..127)");
  };
  fits_int8(quant.activations.unsigned_full);
  const bool has_steps = quant.weights.kind != "none" || quant.activations.kind != "none";
  if (has_steps && train.qat_phase.epochs > 0 && quant.calibration.batches == 0 &&
      train.init_from->empty())
    problems.add(quant.calibration.batches,
                 "0 takes the steps of train.init_from, which is not set: nothing would choose the "
                 "first steps of QAT");
  const bool integers = train.qat_phase.epochs > 0 && train.forward != "fake_quant";
  const auto needs_codes = [&](const Key<std::string>& kind) {
    if (integers && kind == "none")
      problems.add(kind, "train.forward " + train.forward.get() +
                             " multiplies codes; 'none' needs train.forward=fake_quant");
  };
  needs_codes(quant.weights.kind);
  needs_codes(quant.activations.kind);
  for (const auto& [pattern, section] : quant.overrides) {
    needs_codes(section.weights.kind);
    needs_codes(section.activations.kind);
    fits_int8(section.activations.unsigned_full);
  }
}

std::string config_hash(const Experiment& experiment) { return files::hash_of(dump(experiment)); }

std::map<std::string, std::string> course_of(const Experiment& experiment) {
  std::map<std::string, std::string> values = values_of(experiment);
  std::vector<std::string> without{
      "log.",          "checkpoint.",           "device",
      "data.workers",  "data.prefetch",         "data.cache_megabytes",
      "train.threads", "distributed.timeout",   "distributed.bucket_megabytes",
      "eval.batch",    "eval.after_calibration"};
  if (experiment.quant.bn.reestimate_batches == 0) without.emplace_back("eval.");
  std::erase_if(values, [&](const auto& entry) {
    return std::any_of(without.begin(), without.end(),
                       [&](const std::string& start) { return entry.first.starts_with(start); });
  });
  return values;
}

DatasetSpec dataset_spec(const Experiment& experiment) {
  const DataConfig& data = experiment.data;
  DatasetSpec spec;
  spec.kind = data.kind;
  spec.path = data.path;
  spec.seed = uint64_t(data.seed.get());
  spec.image_size = data.image_size;
  spec.resize_size = data.resize_size;
  spec.train_images = data.train_images;
  spec.test_images = data.test_images;
  spec.on_error = on_error_from(data.on_error);
  spec.max_bad_fraction = data.max_bad_fraction;
  if (const auto megabytes = data.cache_megabytes.get()) spec.cache_bytes = *megabytes << 20;
  return spec;
}

LoaderSpec train_loader_spec(const Experiment& experiment) {
  const DataConfig& data = experiment.data;
  LoaderSpec spec;
  spec.batch = experiment.train.batch;
  spec.shuffle = true;
  spec.drop_last = true;
  spec.seed = uint64_t(experiment.train.seed.get());
  spec.augment.crop = crop_from(data.augmentation.crop);
  spec.augment.crop_padding = data.augmentation.crop_padding;
  spec.augment.flip = data.augmentation.flip;
  spec.workers = data.workers;
  spec.prefetch = data.prefetch;
  return spec;
}

int64_t eval_batch(const Experiment& experiment) {
  return experiment.eval.batch.get().value_or(experiment.train.batch);
}

LoaderSpec eval_loader_spec(const Experiment& experiment) {
  LoaderSpec spec;
  spec.batch = eval_batch(experiment);
  spec.workers = experiment.data.workers;
  spec.prefetch = experiment.data.prefetch;
  return spec;
}

std::unique_ptr<Model> build_model(const Experiment& experiment, const Dataset& dataset) {
  if (dataset.height() != dataset.width())
    throw ConfigError("the pictures are " + std::to_string(dataset.height()) + " x " +
                      std::to_string(dataset.width()) +
                      "; networks take square ones: set data.image_size");
  const auto asked = std::make_shared<AskedOverrides>();
  ModelSpec spec;
  spec.name = experiment.model.name;
  spec.image_size = dataset.height();
  spec.classes = int64_t(dataset.classes().size());
  spec.stem = experiment.model.stem;
  spec.hidden.assign(experiment.model.hidden->begin(), experiment.model.hidden->end());
  spec.mean = triple(experiment.data.mean);
  spec.std = triple(experiment.data.std);
  spec.seed = uint64_t(experiment.train.seed.get());
  spec.quant = quant_policy(experiment.quant, asked);
  std::unique_ptr<Model> model = make_model(spec);
  check_overrides(experiment.quant, *asked);
  if (experiment.train.qat_phase.epochs > 0) check_accumulators(*model);
  return model;
}

namespace {

Precision precision_from(const std::string& name) {
  return name == "bf16" ? Precision::bf16 : name == "tf32" ? Precision::tf32 : Precision::f32;
}

}  // namespace

Precision backward_precision(const Experiment& experiment, bool on_gpu) {
  const std::string& name = experiment.train.backward;
  if (name == "auto") return on_gpu || cpu_has(Isa::avx512_bf16) ? Precision::bf16 : Precision::f32;
  return precision_from(name);
}

Precision float_forward_precision(const Experiment& experiment, bool on_gpu) {
  const std::string& name = experiment.train.float_forward;
  if (name == "auto") return on_gpu ? Precision::bf16 : Precision::f32;
  return precision_from(name);
}

}  // namespace qt
