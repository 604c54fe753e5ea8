// train/network.h -- what the trainer asks of a whole network: its parts by kind, first weights,
// first steps, its state.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "core/tensor/safetensors.h"
#include "data/loader.h"
#include "layers/model.h"
#include "train/optimizer.h"

namespace qt {

std::vector<NamedParameter> parameters_of(Model& model);
std::vector<BatchNormState*> norms_of(Model& model);

// Parameters, buffers and constants of a network in the host's memory, into that which
// current_stream() works on; floors of steps stay with the host.
void place_here(Model& model);

// Parameters and buffers that have a value: quantizer steps have none before calibration. In the
// host's memory; the network lies where current_stream() works.
NamedTensors saved_state(Model& model);

// Whether every quantizer has a step: false after float training, where none has. CheckpointError
// where some have: the network (what: "network of runs/x") was trained with another quant section.
bool is_quantized(Model& model, const std::string& what);

// The codes that each quantizer's step is made for, by the quantizer's name: "-127..127".
using CodeRanges = std::map<std::string, std::string>;
CodeRanges code_ranges(Model& model);
// CheckpointError where `theirs`, of what, has other codes for a quantizer of `ours`. Empty: not
// known.
void check_code_ranges(const CodeRanges& theirs, const CodeRanges& ours, const std::string& what);

// path: a run folder (its newest checkpoint), a checkpoint folder, or a .safetensors file.
// with_steps: quantizer steps too; all of them must be there, of the same widths (a .safetensors
// file does not tell) and granularity. CheckpointError where there is no such thing or it is of
// another network.
void init_from(Model& model, const std::string& path, bool with_steps);

// Chooses the steps of all quantizers from weights and from `batches` training batches; sets the
// floor of each step to a thousandth of what was chosen. batches = 0: steps that are there already
// (init_from) stay. ConfigError where a quantizer has none in the end. synchronize:
// Pass::synchronize. Returns how many batches there were: at most an epoch's.
int calibrate(Model& model, Loader& loader, int batches, ForwardMode mode,
              Communicator* synchronize = nullptr);

// Tells the quantizers of activations whose observations they share.
void observe_on(Model& model, Communicator& ranks);

// For steps that were not chosen here: those of a checkpoint by another kind of quantizer, which
// had no floor.
void set_missing_floors(Model& model);

// The name of the first norm or bias that is not finite, or quantizer step that is not positive and
// finite (only where quantized: steps are 0 until they are chosen); "" where all are good.
std::string first_bad_parameter(const std::vector<NamedParameter>& parameters, bool quantized);

}  // namespace qt
