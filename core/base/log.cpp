// core/base/log.cpp -- the process log on spdlog: plain lines on stderr, dated lines in the added
// files.
#include "core/base/log.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/error.h"

namespace qt::log {
namespace {

const char* level_name(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::debug: return "debug";
    case spdlog::level::warn: return "warning";
    case spdlog::level::err: return "error";
    default: return "info";
  }
}

// "message", "warning: message", "error: message": what a compiler prints. Config errors are a list
// that carries places and level already ("a.yaml:2:3: error: ...").
class PlainFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& line) override {
    std::string text(message.payload.data(), message.payload.size());
    const bool says_level = text.find(": error: ") != std::string::npos;
    if (message.level != spdlog::level::info && !says_level)
      text.insert(0, std::string(level_name(message.level)) + ": ");
    text += '\n';
    line.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<PlainFormatter>();
  }
};

// {"time":1732.123,"level":"info","message":"..."}; time in seconds since 1970.
class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& line) override {
    nlohmann::ordered_json json;
    const auto since =
        std::chrono::duration_cast<std::chrono::milliseconds>(message.time.time_since_epoch());
    json["time"] = double(since.count()) / 1000.0;
    json["level"] = level_name(message.level);
    json["message"] = std::string(message.payload.data(), message.payload.size());
    // A path or an exception text may hold bytes that are not UTF-8; a log call must not throw for
    // them.
    const std::string text =
        json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    line.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

struct State {
  std::mutex mutex;
  std::shared_ptr<spdlog::sinks::stderr_sink_mt> console =
      std::make_shared<spdlog::sinks::stderr_sink_mt>();
  spdlog::logger logger{"qattrain", console};
  std::string prefix;

  State() {
    console->set_formatter(std::make_unique<PlainFormatter>());
    console->set_level(spdlog::level::info);
    logger.set_level(spdlog::level::debug);
    logger.flush_on(spdlog::level::info);
    // A full disk is named by whoever writes what matters; spdlog would say it of log.txt as well.
    logger.set_error_handler([](const std::string&) {});
  }
};

State& state() {
  static State state;
  return state;
}

void write(spdlog::level::level_enum level, const std::string& message) {
  State& s = state();
  // add_file changes the logger's sinks, which spdlog does not guard.
  const std::lock_guard<std::mutex> lock(s.mutex);
  const std::string text = s.prefix + message;
  s.logger.log(level, spdlog::string_view_t(text.data(), text.size()));
}

}  // namespace

void info(const std::string& message) { write(spdlog::level::info, message); }
void warn(const std::string& message) { write(spdlog::level::warn, message); }
void error(const std::string& message) { write(spdlog::level::err, message); }
void debug(const std::string& message) { write(spdlog::level::debug, message); }

void configure(const Options& options) {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.prefix = options.prefix;
  if (options.json)
    s.console->set_formatter(std::make_unique<JsonFormatter>());
  else
    s.console->set_formatter(std::make_unique<PlainFormatter>());
  s.console->set_level(options.level == Level::quiet     ? spdlog::level::warn
                       : options.level == Level::verbose ? spdlog::level::debug
                                                         : spdlog::level::info);
}

void add_file(const std::string& path) {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  try {
    auto file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path, false);
    file->set_pattern("%Y-%m-%d %H:%M:%S.%e %l: %v");
    s.logger.sinks().push_back(std::move(file));
  } catch (const spdlog::spdlog_ex& e) {
    throw ConfigError("log file '" + path + "' cannot be written: " + e.what());
  }
}

void flush() {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.logger.flush();
}

}  // namespace qt::log
