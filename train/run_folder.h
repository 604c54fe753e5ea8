// train/run_folder.h -- runs/<name>/: who may write there, and what every run leaves behind.
//
//   config.yaml (resolved), config.orig.yaml, overrides.txt, env.json, log.txt, STATUS.json,
//   metrics.jsonl, events.out.tfevents.*, checkpoints/, export/
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/files.h"

namespace qt {

enum class Resume {
  never,      // an existing folder is refused, or a new name found
  automatic,  // continue where there is something to continue, start otherwise
  must,       // there has to be something to continue
};

struct RunRequest {
  std::string dir = "runs";
  std::string name;
  bool name_given = true;  // by the user; a derived name is suffixed -2, -3, ... where it is taken
  Resume resume = Resume::never;
};

enum class RunState { running, done, stopped, failed };

struct RunStatus {
  RunState state = RunState::running;
  int64_t step = 0;
  std::optional<int> exit_code;
  std::string message;  // the error, where there is one
};

// Holds the lock on a run folder: one process writes there at a time.
class RunFolder {
 public:
  // Makes the folder with checkpoints/, locks it and starts log.txt. ConfigError where the name is
  // unusable, taken (never), missing (must) or in use by another process, CheckpointError where the
  // system refuses (full or read-only disk, permission, a file in the way). With a derived name
  // automatic and must continue the youngest of name, name-2, ....
  static RunFolder create(const RunRequest& request);

  const std::string& path() const { return path_; }
  const std::string& name() const { return name_; }
  bool resumed() const { return resumed_; }  // the folder was there before
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::string checkpoints() const { return file("checkpoints"); }

  void write_config(const std::string& resolved, const std::string& original,
                    const std::vector<std::string>& overrides) const;
  // env.json: the command line as a list, then host, process, start time, then the given pairs
  // (git, device, library versions, ...) in their order.
  void write_environment(const std::vector<std::string>& command_line,
                         const std::vector<std::pair<std::string, std::string>>& pairs) const;
  void write_status(const RunStatus& status) const;  // replaced atomically
  // State and step as STATUS.json has them; nothing where it is missing or says something else.
  std::optional<RunStatus> status() const;

 private:
  RunFolder(const std::string& path, const std::string& name, bool resumed)
      : path_(path), name_(name), resumed_(resumed) {}
  std::string path_, name_;
  bool resumed_ = false;
  files::Lock lock_;
};

}  // namespace qt
