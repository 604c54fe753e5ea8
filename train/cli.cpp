// train/cli.cpp -- reading the command line, and the questions that need no run.
#include "train/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "core/base/config_value.h"
#include "core/base/files.h"
#include "core/base/log.h"
#include "deploy/engine.h"
#include "distributed/launch.h"
#include "train/device.h"
#include "train/experiment.h"
#include "train/signals.h"
#include "train/version.h"

namespace qt {
namespace {

const std::vector<std::string> verbs = {"train", "eval", "inspect", "data", "doctor"};

const char* const footer =
    "Verbs: qattrain CONFIG trains; eval RUN, inspect RUN, data CONFIG, doctor (--help after "
    "each).\n"
    "Exit codes: 0 done; 1 internal error; 2 usage or config; 3 data; 4 run folder, checkpoint or "
    "model\n"
    "file, or an output that cannot be written; 5 NaN or divergence; 6 out of memory or threads; 7 "
    "peer\n"
    "lost; 75 stopped on request after a good checkpoint.\n"
    "`qattrain --explain KEY` explains a config key, `--explain all` lists them.";

void add_common(CLI::App& app, CommandLine& command) {
  app.add_flag("--quiet", command.quiet, "warnings and errors only");
  app.add_flag("-v,--verbose", command.verbose, "more");
  app.add_option("--log-format", command.log_format, "text or json (one object a line)")
      ->check(CLI::IsMember({"text", "json"}));
  app.add_option("--device", command.device,
                 "auto, cpu, cuda or cuda:K; auto: as the config says, else the CPU")
      ->capture_default_str();
  app.add_flag("--deterministic", command.deterministic,
               "accepted for completeness: runs always are");
}

// CLI11's own checks take a number that fits 64 bits for granted, and print limits of 300 digits.
CLI::Validator whole_number(int64_t least) {
  const auto check = [least](const std::string& text) -> std::string {
    int64_t value = 0;
    const char* const end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data(), end, value);
    if (error == std::errc() && at == end && value >= least) return "";
    return "got '" + text + "', want an integer from " + std::to_string(least) + " to " +
           std::to_string(INT64_MAX);
  };
  return CLI::Validator(check, "INTEGER");
}

void add_train(CLI::App& app, CommandLine& command, std::string& max_time) {
  app.add_option("--dump-config", command.dump_config,
                 "print the resolved config (full or minimal) and end")
      ->check(CLI::IsMember({"full", "minimal"}));
  app.add_flag("--schema", command.schema, "print the JSON Schema of config files and end");
  app.add_option("--explain", command.explain,
                 "print what a config key means and end; all: every key");
  app.add_option("--list", command.list,
                 "print what is known of a kind and end: models, datasets, quantizers, optimizers, "
                 "schedules, engines");
  app.add_flag("--dry-run", command.dry_run,
               "read config and data, build the network, write nothing");
  app.add_option("--resume", command.resume, "auto, never, must, or a run or checkpoint folder")
      ->capture_default_str();
  app.add_option("--run-dir", command.run_dir, "where run folders are made")->capture_default_str();
  app.add_option("--name", command.name, "of the run folder; the config's name where not given");
  app.add_option("--seed", command.seed, "train.seed")->check(whole_number(0));
  app.add_option("--max-time", max_time, "stop with a checkpoint after so long: 3h50m, 90s");
  app.add_option("--limit-train-batches", command.limit_train_batches,
                 "batches of an epoch, at most")
      ->check(whole_number(1));
  app.add_option("--overfit-batches", command.overfit_batches,
                 "train on the first batches only, not augmented")
      ->check(whole_number(1));
  app.add_flag("--no-progress", command.no_progress, "no progress line");
  app.add_option("--simulate", command.simulate,
                 "an accident of the last of several processes, for example rank_killed@step=100");
}

void add_eval(CLI::App& app, CommandLine& command) {
  app.add_option("--predictions", command.predictions,
                 "write logits and labels to this .safetensors file");
  app.add_option("--vectors", command.vectors,
                 "write some pictures, the codes of every layer of the integer program and the "
                 "logits to this .safetensors file");
  app.add_option("--engine", command.engine, "onednn or reference (plain loops)")
      ->check(CLI::IsMember(EngineRegistry::names()))
      ->capture_default_str();
  app.add_option("--forward", command.forward, "int8 or exact_float; the same bits")
      ->check(CLI::IsMember({"int8", "exact_float"}));
  app.add_option("--limit", command.limit, "look at the first pictures only")
      ->check(whole_number(1));
}

// What stands for a value that is left out, "": it may not be. CLI11 would take the next argument,
// whatever it is.
std::string usual_value(const std::string& option) {
  return option == "--dump-config" ? "full" : option == "--version" ? "short" : "";
}
bool is_value_of(const std::string& option, const std::string& argument) {
  return argument == usual_value(option) ||
         argument == (option == "--version" ? "full" : "minimal");
}

// Whether the argument behind this one is its value, whatever it looks like.
bool takes_next(const CLI::App& app, const std::string& argument) {
  if (!argument.starts_with('-')) return false;
  const CLI::Option* const option = app.get_option_no_throw(argument);
  return option && option->get_items_expected_max() > 0;
}

bool is_override(const std::string& argument) {
  const size_t equals = argument.find('=');
  return equals != std::string::npos && equals > 0 && argument[0] != '-' &&
         argument.substr(0, equals).find_first_of("/@") == std::string::npos;
}

// What is no override, for CLI11; command.overrides receives the others.
std::vector<std::string> take_overrides(const CLI::App& app, size_t first, CommandLine& command) {
  std::vector<std::string> rest;
  bool is_value = false;
  for (size_t i = first; i < command.all.size(); ++i) {
    const std::string& text = command.all[i];
    if (!is_value && is_override(text)) {
      command.overrides.push_back({text, int(i)});
      continue;
    }
    rest.push_back(text);
    is_value = !is_value && takes_next(app, text);
    if (!is_value || usual_value(text).empty()) continue;
    is_value = i + 1 < command.all.size() && is_value_of(text, command.all[i + 1]);
    if (!is_value) rest.back() += "=" + usual_value(text);
  }
  return rest;
}

std::string described(const std::string& verb) {
  if (verb == "eval")
    return "Accuracy of RUN: a run folder, a checkpoint folder or a model.qat file";
  if (verb == "inspect")
    return "Layers, bits and steps of RUN: a run folder, a checkpoint folder or a model.qat file";
  if (verb == "data") return "Reads every picture of a config's data set and counts";
  if (verb == "doctor") return "What this machine and this build have";
  return "Trains a network with quantization";
}

std::vector<std::string> names_of_kind(const std::string& kind) {
  if (kind == "models") return ModelRegistry::names();
  if (kind == "datasets") return dataset_kinds();
  if (kind == "quantizers") return QuantizerRegistry::names();
  if (kind == "optimizers") return OptimizerRegistry::names();
  if (kind == "schedules") return ScheduleRegistry::names();
  if (kind == "engines") return EngineRegistry::names();
  throw ConfigError("--list: unknown kind '" + kind +
                    "'; known: models, datasets, quantizers, optimizers, schedules, engines");
}

std::string version_text(const std::string& style) {
  std::string text = std::string("qattrain ") + version_number + " (" + version_commit + ")\n";
  if (style == "full")
    text += std::string("compiler: ") + __VERSION__ + "\nCUDA: " + cuda_description() + "\n";
  return text;
}

bool is_question(const CommandLine& command) {
  return command.help || command.schema || !command.version.empty() || !command.explain.empty() ||
         !command.list.empty();
}

// Whether a question was asked and answered.
bool answer_question(const CommandLine& command) {
  if (command.help) return print(command.help_text), true;
  if (!command.version.empty()) return print(version_text(command.version)), true;
  if (command.schema) return print(json_schema(Experiment(), "qattrain experiment")), true;
  if (command.explain == "all") return print(describe_markdown(Experiment())), true;
  if (!command.explain.empty()) return print(explain(Experiment(), command.explain)), true;
  if (command.list.empty()) return false;
  for (const std::string& name : names_of_kind(command.list)) print(name);
  return true;
}

// A word that is neither a verb nor a file: what follows it is not worth a message.
void check_first(const std::string& word) {
  if (word.empty() || word.starts_with('-') || word.find_first_of("./=") != std::string::npos ||
      files::exists(word))
    return;
  throw ConfigError("there is no config file '" + word + "', nor is it a verb; verbs: " +
                    join(verbs) + " (--help lists what is allowed)");
}

void check_device(const std::string& device) {
  if (!is_device_name(device))
    throw ConfigError("--device " + device + ": no such device; allowed: auto, cpu, cuda, cuda:K");
}

}  // namespace

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (!text.ends_with('\n')) std::fputc('\n', stdout);
  const bool flushed = std::fflush(stdout) == 0;
  if (!flushed || std::ferror(stdout))
    throw CheckpointError(std::string("standard output cannot be written: ") +
                          std::strerror(errno));
}

void join_ranks(const std::vector<std::string>& arguments, CurrentRun& run) {
  if (launcher().empty()) return;
  const std::string verb = arguments.size() > 1 ? arguments[1] : "train";
  if (verb == "doctor") return;
  if (verb != "train" && std::find(verbs.begin(), verbs.end(), verb) != verbs.end()) {
    if (launched_rank() != 0) std::exit(int(ExitCode::usage));
    throw ConfigError("qattrain " + verb + " is for one process; " + launcher() +
                      " has started several. Only training runs on more than one");
  }
  run.requests.emplace();              // before the MPI library starts its threads
  run.ranks = make_communicator(120);  // until distributed.timeout is known
}

CommandLine parse_command_line(const std::vector<std::string>& arguments) {
  if (arguments.size() > 1 && arguments[1] == "help") {
    std::vector<std::string> question = arguments;
    question.erase(question.begin() + 1);
    question.push_back("--help");
    return parse_command_line(question);
  }
  CommandLine command;
  command.all = arguments;
  const bool names_verb =
      arguments.size() > 1 && std::find(verbs.begin(), verbs.end(), arguments[1]) != verbs.end();
  if (names_verb)
    command.verb = arguments[1];
  else if (arguments.size() > 1)
    check_first(arguments[1]);
  CLI::App app(described(command.verb),
               "qattrain" + (command.verb == "train" ? "" : " " + command.verb));
  app.footer(footer);
  std::string max_time;
  const bool takes_run = command.verb == "eval" || command.verb == "inspect";
  if (command.verb != "doctor")
    app.add_option(takes_run ? "RUN" : "CONFIG", command.config,
                   takes_run ? "run folder, checkpoint folder or model.qat"
                             : "config file; then key.path=value ...");
  add_common(app, command);
  app.add_option("--version", command.version, "short or full")
      ->check(CLI::IsMember({"short", "full"}));
  if (command.verb == "train") add_train(app, command, max_time);
  if (command.verb == "eval") add_eval(app, command);
  if (takes_run)
    app.add_option("--config", command.data_config,
                   "config that names network and data, for what lies outside its run folder");
  std::vector<std::string> rest = take_overrides(app, names_verb ? 2 : 1, command);
  std::reverse(rest.begin(), rest.end());  // CLI11 takes them from the back
  try {
    app.parse(rest);
    if (!max_time.empty()) command.max_seconds = seconds_of(max_time);
  } catch (const CLI::CallForHelp&) {
    command.help = true;
    command.help_text = app.help();
  } catch (const CLI::ParseError& e) {
    throw ConfigError(std::string("command line: ") + e.what() + " (--help lists what is allowed)");
  }
  return command;
}

ExitCode run_command(const CommandLine& command, CurrentRun& run) {
  const bool writes = run.ranks->writes();
  log::configure({.level = command.quiet || !writes ? log::Level::quiet
                           : command.verbose        ? log::Level::verbose
                                                    : log::Level::normal,
                  .json = command.log_format == "json",
                  .prefix = writes ? "" : "rank " + std::to_string(run.ranks->rank()) + ": "});
  if (!writes && is_question(command)) return ExitCode::done;
  if (answer_question(command)) return ExitCode::done;
  check_device(command.device);
  if (command.verb == "doctor") return doctor_verb(command);
  if (command.config.empty()) {
    const bool takes_run = command.verb == "eval" || command.verb == "inspect";
    throw ConfigError(
        "qattrain " + command.verb + ": no " +
        (takes_run ? "run given" : "config file given, for example configs/smoke.yaml"));
  }
  if (command.verb == "eval") return eval_verb(command);
  if (command.verb == "inspect") return inspect_verb(command);
  if (command.verb == "data") return data_verb(command);
  return train_verb(command, run);
}

}  // namespace qt
