// train/train_verb.cpp -- `qattrain CONFIG`: the run folder, the trainer and the last line.
#include <cstdio>
#include <filesystem>

#include "core/base/log.h"
#include "core/device/cpu.h"
#include "distributed/gpu_communicator.h"
#include "train/cli.h"
#include "train/trainer.h"
#include "train/version.h"

namespace qt {
namespace {

namespace fs = std::filesystem;

struct Place {
  RunRequest request;
  std::string checkpoint;  // a folder to continue from; "": the newest
};

// "smoke" of configs/smoke.yaml; what a shell calls a pipe (/dev/fd/63) says nothing.
std::string name_of_config(const std::string& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored) ? fs::path(path).stem().string() : "run";
}

// That --name and --run-dir, where given, mean the run that --resume=FOLDER continues.
void check_names_it(const CommandLine& command, const fs::path& run) {
  const auto same = [](const fs::path& a, const fs::path& b) {
    return fs::weakly_canonical(fs::absolute(a)) == fs::weakly_canonical(b);
  };
  const bool dir_given = command.run_dir != CommandLine().run_dir;
  const std::string name = command.name.empty() ? run.filename().string() : command.name;
  const fs::path given = fs::path(command.run_dir) / name;
  if ((dir_given || !command.name.empty()) && !same(given, run))
    throw ConfigError("--resume=" + command.resume + " goes on in " + run.string() +
                      "; --run-dir and --name mean " + given.string() +
                      ". For a new run from its weights: train.init_from");
}

// From --run-dir, --name and --resume.
Place place_of(const CommandLine& command) {
  Place place;
  place.request.dir = command.run_dir;
  place.request.name = command.name.empty() ? name_of_config(command.config) : command.name;
  place.request.name_given = !command.name.empty();
  if (command.resume == "never") return place;
  if (command.resume == "auto" || command.resume == "must") {
    place.request.resume = command.resume == "auto" ? Resume::automatic : Resume::must;
    return place;
  }
  fs::path path = fs::absolute(command.resume).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (files::exists((path / "MANIFEST.json").string())) {
    place.checkpoint = path.string();
    path = path.parent_path().parent_path();
  }
  if (!files::exists((path / "checkpoints").string()))
    throw CheckpointError(
        "--resume: there is no run or checkpoint in '" + command.resume +
        "'; allowed: auto, never, must, or the path of a run or checkpoint folder");
  place.request = {
      .dir = path.parent_path().string(), .name = path.filename().string(), .resume = Resume::must};
  check_names_it(command, path);
  return place;
}

// The config with what the command line says; its text as given.
std::string load_experiment(const CommandLine& command, Experiment& experiment) {
  const std::string text = load_config(experiment, command.config, command.overrides);
  if (command.seed) experiment.train.seed.set(*command.seed, "--seed");
  if (command.device != "auto") experiment.device.set(command.device, "--device");
  return text;
}

std::optional<LoadedCheckpoint> checkpoint_of(const RunFolder& folder, const Place& place,
                                              const CheckpointConfig& config) {
  if (!folder.resumed()) return {};
  if (!place.checkpoint.empty()) return load_checkpoint(place.checkpoint);
  auto newest =
      CheckpointStore(folder.checkpoints(), config.keep_last, config.keep_best).load_newest();
  if (!newest && place.request.resume == Resume::must)
    throw CheckpointError("there is no checkpoint in " + folder.checkpoints() + " (--resume=must)");
  return newest;
}

void write_run_files(const RunFolder& folder, const CommandLine& command,
                     const std::string& config_text, const Experiment& experiment,
                     const Trainer& trainer, const Communicator& ranks) {
  std::vector<std::string> overrides;
  for (const ConfigOverride& item : command.overrides) overrides.push_back(item.text);
  folder.write_config(dump(experiment), config_text, overrides);
  folder.write_environment(command.all, {{"version", version_number},
                                         {"git", version_commit},
                                         {"compiler", __VERSION__},
                                         {"device", trainer.device()},
                                         {"isa", name_of(cpu_isa())},
                                         {"processes", std::to_string(ranks.world())},
                                         {"communicator", ranks.name()},
                                         {"library", trainer.library()},
                                         {"run", trainer.summary()}});
}

RunStatus running_at(int64_t step) {
  return {.state = RunState::running, .step = step, .exit_code = {}, .message = ""};
}

RunStatus ended(const Trainer& trainer, bool stopped) {
  return {.state = stopped ? RunState::stopped : RunState::done,
          .step = trainer.steps_done(),
          .exit_code = int(stopped ? ExitCode::stopped : ExitCode::done),
          .message = stopped ? trainer.stop_reason() : ""};
}

// What STATUS.json says of the run until it goes on.
void take_status(CurrentRun& run) {
  const std::optional<RunStatus> status = run.folder->status();
  if (!status) return;
  run.step = status->step;
  run.at_rest = status->state == RunState::done || status->state == RunState::stopped;
}

std::string last_line(const Trainer& trainer, const RunFolder& folder) {
  std::array<char, 128> text{};
  std::snprintf(text.data(), text.size(), "%s top-1 %.2f %%", trainer.what_was_evaluated().c_str(),
                trainer.last_evaluation()->top1);
  std::string line = text.data();
  if (trainer.best_top1()) {
    std::snprintf(text.data(), text.size(), " (best %.2f %%)", *trainer.best_top1());
    line += text.data();
  }
  return line + ", " + std::to_string(trainer.last_evaluation()->images) + " pictures; " +
         folder.path();
}

// With several ranks on GPUs: this one's, and run.ranks becomes the communicator for them. Null:
// the trainer's own choice.
std::shared_ptr<const Device> device_of_rank(const std::string& name, CurrentRun& run) {
  if (run.ranks->alone() || !is_gpu_name(name)) return nullptr;
  auto device = open_device(gpu_of_rank(name, local_rank(*run.ranks)));
  run.ranks = with_gpus(run.ranks);
  return device;
}

std::optional<Simulation> simulation_of(const CommandLine& command, const Communicator& ranks) {
  if (command.simulate.empty()) return {};
  const Simulation simulation = simulation_from(command.simulate);
  if (ranks.alone())
    throw ConfigError("--simulate: there is one process; accidents are for runs of several");
  return simulation;
}

// Printed, and written into the run folder where there is one, while the launcher lets this process
// live.
void say_losses(Communicator& ranks, const RunFolder* folder) {
  ranks.on_loss([folder](int64_t step, const std::string& message) {
    log::error(message);
    log::flush();
    try {
      if (folder)
        folder->write_status({.state = RunState::failed,
                              .step = std::max<int64_t>(0, step - 1),
                              .exit_code = int(ExitCode::peer_lost),
                              .message = message});
    } catch (const Error&) {
      // It has been printed.
    }
  });
}

}  // namespace

ExitCode train_verb(const CommandLine& command, CurrentRun& run) {
  if (!run.requests) run.requests.emplace();
  if (command.max_seconds) run.requests->allow(*command.max_seconds);
  const StopRequests& requests = *run.requests;
  Experiment experiment;
  const std::string config_text = load_experiment(command, experiment);
  run.ranks->set_timeout(experiment.distributed.timeout);
  if (!command.dump_config.empty()) {
    if (!run.ranks->writes()) return ExitCode::done;
    print(
        dump(experiment, command.dump_config == "minimal" ? DumpStyle::minimal : DumpStyle::full));
    return ExitCode::done;
  }
  const Place place = place_of(command);
  const std::optional<Simulation> simulation = simulation_of(command, *run.ranks);
  say_losses(*run.ranks, nullptr);
  meet(simulation, *run.ranks, Simulation::Place::init);
  const auto device = device_of_rank(experiment.device, run);
  Communicator& ranks = *run.ranks;
  Trainer trainer(experiment, {.limit_train_batches = command.limit_train_batches,
                               .overfit_batches = command.overfit_batches,
                               .show_progress = !command.quiet && !command.no_progress &&
                                                command.log_format != "json",
                               .ranks = &ranks,
                               .simulation = simulation,
                               .device = device,
                               .steps_done = &run.step});
  if (command.dry_run) {
    if (ranks.writes()) print(trainer.summary());
    return ExitCode::done;
  }
  std::optional<LoadedCheckpoint> checkpoint;
  by_writer(ranks, "opening the run folder", [&] {
    const RunFolder& folder = run.folder.emplace(RunFolder::create(place.request));
    say_losses(ranks, &folder);
    if (!folder.resumed()) {
      folder.write_status(running_at(0));
      write_run_files(folder, command, config_text, experiment, trainer, ranks);
    }
    take_status(run);
    checkpoint = checkpoint_of(folder, place, experiment.checkpoint);
  });
  share_checkpoint(ranks, checkpoint);
  trainer.open(run.folder ? &*run.folder : nullptr, checkpoint);
  // A config that the checkpoint does not fit must not replace the one it fits.
  by_writer(ranks, "the run's files", [&] {
    if (!run.folder->resumed() || trainer.is_complete()) return;
    run.at_rest = false;
    run.folder->write_status(running_at(trainer.steps_done()));
    write_run_files(*run.folder, command, config_text, experiment, trainer, ranks);
  });
  const bool stopped = trainer.run(requests) == Trainer::Outcome::stopped;
  by_writer(ranks, "the run's end", [&] {
    run.folder->write_status(ended(trainer, stopped));
    run.at_rest = true;  // whoever can no longer be told of it
  });
  if (!stopped && run.folder) print(last_line(trainer, *run.folder));
  return stopped ? ExitCode::stopped : ExitCode::done;
}

}  // namespace qt
