// train/cli.h -- the command line: which verb, which config, which options.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/base/config.h"
#include "core/comm/communicator.h"
#include "train/run_folder.h"
#include "train/signals.h"

namespace qt {

struct CommandLine {
  std::string verb = "train";
  std::string config;                     // the config file, or RUN for eval and inspect
  std::vector<ConfigOverride> overrides;  // key.path=value
  std::vector<std::string> all;           // as given

  std::string dump_config, explain, list, version;  // "" where not asked for
  bool schema = false, dry_run = false, help = false;
  std::string help_text;

  std::string simulate;          // an accident, train/simulation.h
  std::string resume = "never";  // never, auto, must, or a path
  std::string run_dir = "runs", name, device = "auto";
  std::optional<int64_t> seed, limit_train_batches, overfit_batches, limit;
  std::optional<double> max_seconds;
  bool quiet = false, no_progress = false, deterministic = false;
  int verbose = 0;
  std::string log_format = "text";

  std::string predictions, vectors, engine = "onednn", forward, data_config;  // eval
};

// ConfigError for what cannot be understood.
CommandLine parse_command_line(const std::vector<std::string>& arguments);

// What main needs to know of a run when an exception ends it.
struct CurrentRun {
  std::optional<StopRequests> requests;
  std::shared_ptr<Communicator> ranks = make_single_communicator();
  std::optional<RunFolder> folder;  // of rank 0
  // The folder's run had come to an end, and nothing of it has been continued yet: what ends this
  // process leaves its STATUS.json as it is.
  bool at_rest = false;
  int64_t step = 0;
};

// Finds the other processes where a launcher started this one among several. ConfigError for
// arguments that are not for training: nothing else runs on several.
void join_ranks(const std::vector<std::string>& arguments, CurrentRun& run);

// A line, or several, on standard output at once. CheckpointError where it cannot be written.
void print(const std::string& text);

// The program without main's catching.
ExitCode run_command(const CommandLine& command, CurrentRun& run);

// The verbs: train_verb.cpp, eval_verb.cpp.
ExitCode train_verb(const CommandLine& command, CurrentRun& run);
ExitCode eval_verb(const CommandLine& command);
ExitCode inspect_verb(const CommandLine& command);
ExitCode data_verb(const CommandLine& command);
ExitCode doctor_verb(const CommandLine& command);

}  // namespace qt
