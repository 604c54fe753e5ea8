// core/base/log.h -- the process log: spdlog behind three calls, so that no other file includes it.
#pragma once
#include <string>

namespace qt::log {

void info(const std::string& message);
void warn(const std::string& message);
void error(const std::string& message);
void debug(const std::string& message);

enum class Level { quiet, normal, verbose };
struct Options {
  Level level = Level::normal;
  bool json = false;        // one JSON object a line on stderr
  std::string prefix = {};  // of every message: who speaks, where there are several processes
};
void configure(const Options& options);
void add_file(const std::string& path);  // also write to this file (appended)
void flush();

}  // namespace qt::log
