// train/agreement.h -- that all ranks are about to train the same network on the same pictures.
#pragma once
#include <map>
#include <string>

#include "core/comm/communicator.h"
#include "data/dataset.h"
#include "train/experiment.h"

namespace qt {

// What has to be the same on all ranks, by name: values of config keys, program, pictures. Keys of
// a rank's own (where its pictures lie, its threads and its device) are not among them.
using RunFacts = std::map<std::string, std::string>;
RunFacts facts_of(const Experiment& experiment, const Dataset& train, const Dataset& test);

// Collective. ConfigError, on all ranks, naming the first fact that differs, two ranks and what
// each has: else they would wait for different things, or train on overlapping parts of different
// orders.
void check_agreement(Communicator& ranks, const RunFacts& facts);

}  // namespace qt
