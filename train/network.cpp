// train/network.cpp -- visits to a network's parameters, and the start of quantization.
#include "train/network.h"

#include <algorithm>
#include <cmath>

#include "core/base/files.h"
#include "core/tensor/transfer.h"
#include "train/checkpoint.h"
#include "train/state.h"

namespace qt {
namespace {

struct StoredWeights {
  NamedTensors tensors;
  CodeRanges codes;
};

StoredWeights weights_of(const LoadedCheckpoint& checkpoint) {
  return {checkpoint.content.tensors("model.safetensors"),
          state_from_json(checkpoint.content.state_json, checkpoint.folder).codes};
}

StoredWeights weights_at(const std::string& path) {
  if (path.ends_with(".safetensors")) return {read_safetensors(path).tensors, {}};
  if (files::exists(path + "/MANIFEST.json")) return weights_of(load_checkpoint(path));
  if (files::is_folder(path + "/checkpoints")) {
    const auto newest = CheckpointStore(path + "/checkpoints", 1, 0).load_newest();
    if (newest) return weights_of(*newest);
  }
  throw CheckpointError("there is no network in '" + path +
                        "'; allowed: a run folder, a checkpoint folder, a .safetensors file");
}

// Of a quantizer's step or its floor (visit_quantizer in layers/layer.cpp).
bool is_of_quantizer(const std::string& name) {
  return name.ends_with("_quant.scale") || name.ends_with("_quant.scale_floor");
}

}  // namespace

std::vector<NamedParameter> parameters_of(Model& model) {
  std::vector<NamedParameter> list;
  Visitor visitor;
  visitor.parameter = [&](const std::string& name, Parameter& parameter) {
    list.push_back({name, &parameter});
  };
  model.visit(visitor);
  return list;
}

std::vector<BatchNormState*> norms_of(Model& model) {
  std::vector<BatchNormState*> list;
  Visitor visitor;
  visitor.norm = [&](const std::string&, BatchNormState& norm) { list.push_back(&norm); };
  model.visit(visitor);
  return list;
}

void place_here(Model& model) {
  Visitor visitor;
  visitor.parameter = [](const std::string&, Parameter& parameter) {
    parameter.set(here(parameter.var.value()));
  };
  visitor.buffer = [](const std::string&, Tensor& tensor) { tensor = here(tensor); };
  visitor.constant = visitor.buffer;
  model.visit(visitor);
}

NamedTensors saved_state(Model& model) {
  NamedTensors list;
  Visitor visitor;
  visitor.parameter = [&](const std::string& name, Parameter& parameter) {
    if (parameter.var.value().defined()) list.emplace_back(name, on_host(parameter.var.value()));
  };
  visitor.buffer = [&](const std::string& name, Tensor& tensor) {
    list.emplace_back(name, on_host(tensor));
  };
  visitor.floor = [&](const std::string& name, Tensor& floor) { list.emplace_back(name, floor); };
  model.visit(visitor);
  return list;
}

bool is_quantized(Model& model, const std::string& what) {
  std::string with, without;
  Visitor visitor;
  visitor.quantizer = [&](const std::string& name, Quantizer& quantizer) {
    if (quantizer.step()) (quantizer.ready() ? with : without) = name;
  };
  model.visit(visitor);
  if (!with.empty() && !without.empty())
    throw CheckpointError("the " + what + " has no step for " + without + ", but one for " + with +
                          ": it was trained with another quant section");
  return !with.empty();
}

CodeRanges code_ranges(Model& model) {
  CodeRanges ranges;
  Visitor visitor;
  visitor.quantizer = [&](const std::string& name, Quantizer& quantizer) {
    if (quantizer.step())
      ranges[name] =
          std::to_string(quantizer.spec().lo()) + ".." + std::to_string(quantizer.spec().hi());
  };
  model.visit(visitor);
  return ranges;
}

void check_code_ranges(const CodeRanges& theirs, const CodeRanges& ours, const std::string& what) {
  for (const auto& [name, range] : theirs) {
    const auto found = ours.find(name);
    if (found != ours.end() && found->second != range)
      throw CheckpointError("the " + what + " has codes " + range + " for " + name +
                            ", this config " + found->second +
                            ": it was trained with another quant section");
  }
}

void init_from(Model& model, const std::string& path, bool with_steps) {
  try {
    StoredWeights stored = weights_at(path);
    // Steps fit the width and granularity they were chosen for.
    if (!with_steps)
      std::erase_if(stored.tensors, [](const auto& entry) { return is_of_quantizer(entry.first); });
    load_state(model, stored.tensors, true);
    if (!with_steps || code_ranges(model).empty()) return;
    if (!is_quantized(model, "network of " + path))
      throw CheckpointError("the network of " + path +
                            " has no quantizer steps, and quant.calibration.batches is 0: nothing "
                            "would choose them");
    check_code_ranges(stored.codes, code_ranges(model), "network of " + path);
  } catch (const CheckpointError& e) {
    throw CheckpointError("train.init_from: " + std::string(e.what()));
  }
}

void observe_on(Model& model, Communicator& ranks) {
  Visitor visitor;
  visitor.quantizer = [&](const std::string& name, Quantizer& quantizer) {
    if (!name.ends_with(".weight_quant")) quantizer.observe_on(&ranks);
  };
  model.visit(visitor);
}

int calibrate(Model& model, Loader& loader, int batches, ForwardMode mode,
              Communicator* synchronize) {
  const Tape::Pause pause;
  loader.start_epoch(0);
  Batch batch;
  int seen = 0;
  for (; seen < batches && loader.next(batch); ++seen)
    model.forward(here(batch.images),
                  {.mode = mode, .calibrate = true, .synchronize = synchronize});
  Visitor visitor;
  visitor.quantizer = [&](const std::string& name, Quantizer& quantizer) {
    if (quantizer.step() && !quantizer.ready())
      throw ConfigError(name + " has no step: " +
                        (batches == 0
                             ? "quant.calibration.batches is 0, and where a run is continued "
                               "train.init_from is not read"
                             : "calibration did not reach it"));
  };
  model.visit(visitor);
  return seen;
}

void set_missing_floors(Model& model) {
  Visitor visitor;
  visitor.quantizer = [](const std::string&, Quantizer& quantizer) {
    Parameter* const step = quantizer.step();
    if (!step || !step->floor.defined() || !quantizer.ready()) return;
    if (!(step->floor.data<float>()[0] > 0))
      step->floor = floor_of_step(on_host(step->var.value()));
  };
  model.visit(visitor);
}

std::string first_bad_parameter(const std::vector<NamedParameter>& parameters, bool quantized) {
  for (const auto& [name, parameter] : parameters) {
    if (parameter->kind == Parameter::Kind::weight || !parameter->var.value().defined()) continue;
    const bool positive = parameter->kind == Parameter::Kind::step;
    if (positive && !quantized) continue;
    for (float value : parameter->var.value().to_vector<float>())
      if (!std::isfinite(value) || (positive && !(value > 0))) return name;
  }
  return "";
}

}  // namespace qt
