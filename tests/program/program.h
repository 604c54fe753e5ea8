// tests/program/program.h -- running the real binary and looking at what it leaves behind.
#pragma once
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/places.h"

namespace qt::program {

namespace fs = std::filesystem;

inline std::string source(const std::string& path) { return source_folder() + "/" + path; }

inline std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

struct Result {
  int code = -1;       // exit code; -signal where a signal ended it
  std::string output;  // stdout and stderr
};

// A folder of its own for each test, removed at its end.
class ProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    static int number = 0;
    folder_ = fs::temp_directory_path() /
              ("program_test_" + std::to_string(getpid()) + "_" + std::to_string(number++));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string write(const std::string& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return path(name);
  }

  // The network and data of these tests: seconds, not minutes. 8 steps in float, 8 in QAT.
  std::string tiny_config() const {
    return write("tiny.yaml",
                 "model: {name: resnet20}\n"
                 "data: {image_size: 16, train_images: 128, test_images: 40, augmentation: "
                 "{crop_padding: 2}}\n"
                 "train: {batch: 16, float: {epochs: 1, lr: 0.05}, qat: {epochs: 1, lr: 0.005}}\n"
                 "quant: {calibration: {batches: 1}}\n"
                 "log: {every: 2}\n"
                 "eval: {batch: 20}\n");
  }
  std::vector<std::string> tiny(const std::vector<std::string>& more = {},
                                const std::string& name = "run") const {
    std::vector<std::string> all = {tiny_config(), "--run-dir", path("runs"),
                                    "--name",      name,        "--no-progress"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  // A data set of valid pictures (PPM, 16 x 16): `pictures` for each class in train and in test.
  std::string picture_folder(const std::vector<std::string>& classes = {"apple", "pear"},
                             int pictures = 12) const {
    for (const char* split : {"train", "test"})
      for (const std::string& name : classes)
        for (int i = 0; i < pictures; ++i) {
          std::string pixels = "P6\n16 16\n255\n";
          for (int p = 0; p < 16 * 16 * 3; ++p) pixels += char((p * 7 + i * 13 + name[0]) % 251);
          write(std::string("pictures/") + split + "/" + name + "/" + std::to_string(i) + ".ppm",
                pixels);
        }
    return path("pictures");
  }

  // Starts the program; limits: shell commands before it ("ulimit -f 8").
  pid_t start(const std::vector<std::string>& arguments, const std::string& limits = "") const {
    std::string command = limits.empty() ? "exec " : limits + "; exec ";
    command += quoted(program_path());
    for (const std::string& argument : arguments) command += " " + quoted(argument);
    command += " >" + quoted(path("output.txt")) + " 2>&1";
    const pid_t process = fork();
    if (process == 0) {
      signal(SIGHUP, SIG_DFL);  // as a terminal starts it, though the tests may run under nohup
      execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      _exit(127);
    }
    return process;
  }
  // Shell commands; "$QATTRAIN" is the program. The last command's exit code.
  Result shell(const std::string& commands) const {
    const std::string text = "exec >" + quoted(path("output.txt")) +
                             " 2>&1; QATTRAIN=" + quoted(program_path()) + "; cd " +
                             quoted(path("")) + "; " + commands;
    const pid_t process = fork();
    if (process == 0) {
      execl("/bin/sh", "sh", "-c", text.c_str(), nullptr);
      _exit(127);
    }
    return wait(process);
  }
  Result wait(pid_t process) const {
    int status = 0;
    waitpid(process, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), read(path("output.txt"))};
  }
  Result run(const std::vector<std::string>& arguments, const std::string& limits = "") const {
    return wait(start(arguments, limits));
  }

  // Lines of metrics.jsonl so far.
  size_t lines_written(const std::string& name = "run") const {
    const std::string text = read(folder_ / "runs" / name / "metrics.jsonl");
    return size_t(std::count(text.begin(), text.end(), '\n'));
  }
  // Waits until metrics.jsonl has so many lines or the process is gone.
  void wait_for_lines(pid_t process, size_t lines, const std::string& name = "run") const {
    for (int i = 0; i < 60000 && lines_written(name) < lines; ++i) {
      siginfo_t info{};
      if (waitid(P_PID, id_t(process), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
          info.si_pid == process)
        return;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }

  fs::path last_checkpoint(const std::string& name = "run") const {
    const fs::path folder = folder_ / "runs" / name / "checkpoints";
    std::string last = read(folder / "last");
    while (last.ends_with('\n')) last.pop_back();
    return folder / last;
  }
  // What has to be equal after an interruption: all weights, the optimizer, the exported program.
  std::string final_bytes(const std::string& name = "run") const {
    const fs::path folder = last_checkpoint(name);
    return read(folder / "model.safetensors") + read(folder / "optim.safetensors") +
           read(folder_ / "runs" / name / "export" / "model.qat");
  }

 private:
  static std::string quoted(const std::string& text) {
    std::string out = "'";
    for (char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
    return out + "'";
  }
  fs::path folder_;
};

// The program ended with this code and said why in one line that names these things.
#define EXPECT_FAILS(result, expected_code, ...)                                                 \
  do {                                                                                           \
    const ::qt::program::Result& got_ = (result);                                                \
    EXPECT_EQ(got_.code, expected_code) << got_.output;                                          \
    for (const std::string part_ : std::vector<std::string>{__VA_ARGS__})                        \
      EXPECT_NE(got_.output.find(part_), std::string::npos) << part_ << "\nin\n" << got_.output; \
  } while (0)

}  // namespace qt::program
