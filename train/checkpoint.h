// train/checkpoint.h -- checkpoint folders that no crash spoils: saves, verified loads, rotation.
//
//   checkpoints/step-00012000/   model.safetensors optim.safetensors ... state.json MANIFEST.json
//   checkpoints/last             the name of the newest one
//
// A save fills step-N.tmp/, the manifest (sizes and XXH3-128 of all files, and of itself) last, and
// renames. Whatever moment the process dies at, the previous checkpoint or the new one is there
// complete.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor/safetensors.h"

namespace qt {

struct Checkpoint {
  std::map<std::string, NamedTensors> files;  // file name ("model.safetensors") -> tensors
  std::string state_json;                     // state.json: counters, generator keys, choices

  // CheckpointError, naming the file, where it is not among `files`.
  const NamedTensors& tensors(const std::string& file) const;
};

struct LoadedCheckpoint {
  int64_t step = 0;
  std::optional<double> score;
  std::string folder;
  Checkpoint content;
  std::vector<int64_t> passed_over = {};  // newer ones that load_newest() could not use
};

class CheckpointStore {
 public:
  // Keeps the `keep_last` (>= 1) newest checkpoints and, independently, the `keep_best` with the
  // highest score (the newer of two equal ones). Touches nothing on disk.
  CheckpointStore(const std::string& folder, int keep_last, int keep_best);

  // Makes the folder and tries that it can be written and has room for `bytes`: to be called before
  // the first step, so that a full or read-only disk shows at once. CheckpointError otherwise.
  void prepare(uint64_t bytes = 0) const;

  // Saves, then moves `last`, then removes what rotation no longer keeps. Replaces a checkpoint of
  // the same step. The score (higher is better; NaN counts as none) is for the best-K list, to
  // which belong checkpoints after step `rivals_after` alone: scores of earlier ones are of
  // something else. Returns the folder's path. On CheckpointError (full disk, no permission, ...)
  // all earlier checkpoints are as before.
  std::string save(int64_t step, const Checkpoint& content, std::optional<double> score = {},
                   int64_t rivals_after = -1) const;

  // The newest that verifies; a warning for each newer one that does not. Nothing where there is no
  // checkpoint; CheckpointError where there are some but none verifies.
  std::optional<LoadedCheckpoint> load_newest() const;

  // Renames the folder to step-N.unreadable (-2, ... where that is taken) and returns its new path:
  // what could not be read may be whole, on a disk that failed for a moment or in the format of a
  // newer program.
  std::string set_aside(int64_t step) const;

  // Removes the checkpoints after `step`: the branch that a run which resumed at `step` gives up,
  // so that the numbering stays in order.
  void discard_after(int64_t step) const;

  std::vector<int64_t> steps() const;         // rising; damaged ones included
  std::optional<std::string> best() const;    // folder of the highest score
  std::string folder_of(int64_t step) const;  // <folder>/step-00012000

 private:
  struct Entry;
  std::vector<Entry> entries() const;
  void remove(const std::string& path) const;
  void remove_leftovers() const;
  void rotate(int64_t saved, int64_t rivals_after) const;

  std::string folder_;
  int keep_last_, keep_best_;
};

// One checkpoint folder, every file verified against the manifest. CheckpointError names the file
// and the cause.
LoadedCheckpoint load_checkpoint(const std::string& folder);

}  // namespace qt
