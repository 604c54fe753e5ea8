// tests/core/base/log_test.cpp -- what the log writes to stderr and to its files, and that stdout
// stays free.
#include "core/base/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/base/error.h"

namespace qt {
namespace {

std::string logged(const log::Options& options) {
  log::configure(options);
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  log::debug("d {}");
  log::info("i {} %s");
  log::warn("w");
  log::error("e");
  log::flush();
  const std::string out = testing::internal::GetCapturedStdout();
  const std::string err = testing::internal::GetCapturedStderr();
  log::configure({});
  EXPECT_EQ(out, "");
  return err;
}

TEST(Log, WritesPlainLinesToStderrByLevel) {
  EXPECT_EQ(logged({.level = log::Level::normal}), "i {} %s\nwarning: w\nerror: e\n");
  EXPECT_EQ(logged({.level = log::Level::quiet}), "warning: w\nerror: e\n");
  EXPECT_EQ(logged({.level = log::Level::verbose}), "debug: d {}\ni {} %s\nwarning: w\nerror: e\n");
}

TEST(Log, PrintsErrorsThatCarryTheirPlaceAsTheyAre) {
  testing::internal::CaptureStderr();
  log::error("a.yaml:2:3: error: b\na.yaml:4:1: error: c");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "a.yaml:2:3: error: b\na.yaml:4:1: error: c\n");
}

TEST(Log, WritesOneJsonObjectALine) {
  log::configure({.json = true});
  testing::internal::CaptureStderr();
  log::warn("a \"b\"\n\xFF");
  const std::string line = testing::internal::GetCapturedStderr();
  log::configure({});
  ASSERT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["level"], "warning");
  EXPECT_EQ(json["message"], "a \"b\"\n\uFFFD");
  EXPECT_GT(json["time"].get<double>(), 1.6e9);
}

TEST(Log, AppendsDatedLinesOfEveryLevelToItsFile) {
  const auto path =
      std::filesystem::temp_directory_path() / ("log_test_" + std::to_string(getpid()) + ".txt");
  std::ofstream(path) << "before\n";
  log::add_file(path.string());
  logged({.level = log::Level::quiet});
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  std::filesystem::remove(path);
  std::string lines = text.str();  // with 0 for every digit
  for (char& c : lines) c = c >= '0' && c <= '9' ? '0' : c;
  const std::string date = "0000-00-00 00:00:00.000 ";
  EXPECT_EQ(lines, "before\n" + date + "debug: d {}\n" + date + "info: i {} %s\n" + date +
                       "warning: w\n" + date + "error: e\n");
}

TEST(Log, NamesAFileThatCannotBeWritten) {
  try {
    log::add_file("/proc/no/such/log.txt");
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("/proc/no/such/log.txt"), std::string::npos);
  }
}

}  // namespace
}  // namespace qt
