// train/run_folder.cpp -- names, lock and bookkeeping files of a run folder.
#include "train/run_folder.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/log.h"

namespace qt {
namespace {

using nlohmann::ordered_json;

void check_name(const std::string& name) {
  const bool plain =
      std::all_of(name.begin(), name.end(), [](unsigned char c) { return c >= 0x20 && c != '/'; });
  if (name.empty() || name.size() > 200 || name[0] == '.' || !plain)
    throw ConfigError(
        "the run name '" + name +
        "' cannot be a folder's name: 1 to 200 characters without '/', not starting with '.'");
}

// name, name-2, name-3, ...
std::string numbered(const std::string& name, int number) {
  return number == 1 ? name : name + "-" + std::to_string(number);
}

std::string text_of(const ordered_json& j) {
  return j.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text.data();
}

std::string host_name() {
  std::array<char, 256> host{};
  return gethostname(host.data(), host.size() - 1) == 0 ? host.data() : "";
}

const char* name_of(RunState state) {
  switch (state) {
    case RunState::running: return "running";
    case RunState::done: return "done";
    case RunState::stopped: return "stopped";
    default: return "failed";
  }
}

// Of NAME (1), NAME-2, NAME-3, ... the highest that is there, whatever was removed before it; 0:
// none.
int newest_of(const std::string& dir, const std::string& name) {
  int newest = files::exists(dir + "/" + name) ? 1 : 0;
  for (const std::string& entry : files::list_folder(dir)) {
    if (!entry.starts_with(name + "-")) continue;
    int number = 0;
    const char* const end = entry.data() + entry.size();
    const auto [at, error] = std::from_chars(entry.data() + name.size() + 1, end, number);
    if (error == std::errc() && at == end && numbered(name, number) == entry)
      newest = std::max(newest, number);
  }
  return newest;
}

struct Choice {
  std::string name;
  bool existed = false;
};

// The name to use; where it is a new one the folder has been made by this call, so that two
// processes cannot get it both.
Choice choose(const RunRequest& request) {
  const auto path = [&](const std::string& name) { return request.dir + "/" + name; };
  const int newest = request.name_given ? 0 : newest_of(request.dir, request.name);
  if (request.resume != Resume::never) {
    const std::string name = numbered(request.name, std::max(newest, 1));
    if (files::exists(path(name))) return {name, true};
    if (request.resume == Resume::must)
      throw ConfigError("there is no run to resume in " + path(request.name) +
                        " (--resume=must); --resume=auto starts a new one");
    // Another process may have made it in between: then it is resumed, and the lock decides.
    return {name, !files::make_new_folder(path(name))};
  }
  for (int number = newest + 1;; ++number) {
    const std::string name = numbered(request.name, number);
    if (files::make_new_folder(path(name))) return {name, false};
    if (request.name_given)
      throw ConfigError("the run folder " + path(name) +
                        " exists: give --resume=auto to continue it, or another --name");
  }
}

}  // namespace

RunFolder RunFolder::create(const RunRequest& request) {
  check_name(request.name);
  try {
    files::make_folder(request.dir);
    const Choice choice = choose(request);
    RunFolder run(request.dir + "/" + choice.name, choice.name, choice.existed);
    std::string holder;
    const std::string note = host_name() + " process " + std::to_string(getpid()) + "\n";
    if (!run.lock_.acquire(run.file(".lock"), note, holder))
      throw ConfigError("the run folder " + run.path() + " is in use by another process (" +
                        holder.substr(0, holder.find('\n')) + ")");
    files::make_folder(run.checkpoints());
    log::add_file(run.file("log.txt"));
    return run;
  } catch (const CheckpointError& e) {
    throw CheckpointError(std::string("the run folder cannot be used: ") + e.what());
  }
}

void RunFolder::write_config(const std::string& resolved, const std::string& original,
                             const std::vector<std::string>& overrides) const {
  std::string lines;
  for (const std::string& text : overrides) lines += text + "\n";
  files::write_atomically(file("config.yaml"), resolved);
  files::write_atomically(file("config.orig.yaml"), original);
  files::write_atomically(file("overrides.txt"), lines);
}

void RunFolder::write_environment(
    const std::vector<std::string>& command_line,
    const std::vector<std::pair<std::string, std::string>>& pairs) const {
  ordered_json j = {{"command", command_line},
                    {"host", host_name()},
                    {"process", int64_t(getpid())},
                    {"started", utc_now()}};
  for (const auto& [name, value] : pairs) j[name] = value;
  files::write_atomically(file("env.json"), text_of(j));
}

std::optional<RunStatus> RunFolder::status() const {
  if (!files::exists(file("STATUS.json"))) return {};
  const ordered_json j = ordered_json::parse(files::read_all(file("STATUS.json")), nullptr,
                                             /*allow_exceptions=*/false);
  if (!j.is_object() || !j.value("step", ordered_json()).is_number_integer()) return {};
  for (const RunState state :
       {RunState::running, RunState::done, RunState::stopped, RunState::failed})
    if (j.value("state", ordered_json()) == name_of(state))
      return RunStatus{
          .state = state, .step = j["step"].get<int64_t>(), .exit_code = {}, .message = ""};
  return {};
}

void RunFolder::write_status(const RunStatus& status) const {
  ordered_json j = {{"state", name_of(status.state)}, {"step", status.step}};
  j["exit_code"] = status.exit_code ? ordered_json(*status.exit_code) : ordered_json(nullptr);
  if (!status.message.empty()) j["message"] = status.message;
  j["updated"] = utc_now();
  files::write_atomically(file("STATUS.json"), text_of(j));
}

}  // namespace qt
