// train/state.h -- where a run stands: everything beside tensors that a resumed run needs to go on
// bit for bit.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace qt {

// The next thing to do is step `step` of epoch `epoch` of phase `phase`, all counted from 0.
struct Position {
  int64_t phase = 0, epoch = 0, step = 0;
  int64_t epochs_done = 0, steps_done = 0;  // over all phases
  bool calibrated = false;                  // quantizer steps of this phase have been chosen
};

// Running sums since the last line of metrics.jsonl.
struct Meter {
  double loss = 0;  // summed over images
  int64_t correct = 0, images = 0;
  void add(double loss_now, int64_t correct_now, int64_t images_now) {
    loss += loss_now;
    correct += correct_now;
    images += images_now;
  }
  double mean_loss() const { return images ? loss / double(images) : 0; }
  double top1() const { return images ? 100.0 * double(correct) / double(images) : 0; }
};

// What training and its bits depend on beside the tensors and the position.
struct RunIdentity {
  int64_t seed = 0;
  int world = 1;
  std::string library, config_hash, program_version;
  std::map<std::string, std::string> config;  // Experiment's course_of
  // Of the CPU, and precision of backward convolutions (where ranks differ, of each in their
  // order); what backward reads of normalized values. "": not known.
  std::string isa, backward, saved;
  int64_t steps_per_epoch = 0, training_pictures = 0;  // 0: not known
  std::vector<std::string> phases;                     // in order; empty: not known
};

struct TrainState {
  Position at;
  Meter meter;
  std::optional<double> best_top1;  // of the last phase, percent
  int64_t projections = 0;          // quantizer steps lifted to their floor so far
  int64_t skipped = 0;              // steps left out because something was not finite
  RunIdentity run;
  int threads = 0;
  std::map<std::string, std::string> engines;  // Library::engine_choices
  std::map<std::string, std::string> codes;    // code_ranges, where steps have been chosen
};

std::string to_json(const TrainState& state);
// where names the checkpoint in messages. CheckpointError for anything but what to_json wrote.
TrainState state_from_json(const std::string& text, const std::string& where);

// What keeps a run from going on as that of the checkpoint would have, a sentence for each. Of what
// an early checkpoint does not know nothing is said, and nothing of threads: they can be pinned.
std::vector<std::string> differences(const RunIdentity& checkpoint, const RunIdentity& run);

}  // namespace qt
