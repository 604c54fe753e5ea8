// tests/program/ranks.h -- the real binary on several processes.
#pragma once
#include <regex>
#include <string>
#include <vector>

#include "tests/program/program.h"

namespace qt::program {

inline size_t count_of(const std::string& part, const std::string& text) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// Jobs of several processes on this machine, started by scripts/launch/mpirun.sh.
class RanksTest : public ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    if (std::system("command -v mpirun >/dev/null") != 0) GTEST_SKIP() << "there is no mpirun";
    // A test may run as root in a container, on fewer cores than it starts ranks.
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("MPIRUN_OPTIONS", "--oversubscribe", 1);
    setenv("QATTRAIN", program_path().c_str(), 1);
  }

  // 4 steps in float, 4 in QAT; 41 test pictures do not divide among ranks.
  std::vector<std::string> small(const std::vector<std::string>& more = {},
                                 const std::string& name = "run") const {
    const std::string config =
        write("small.yaml",
              "model: {name: resnet20}\n"
              "data: {image_size: 16, train_images: 48, test_images: 41, augmentation: "
              "{crop_padding: 1}}\n"
              "train: {batch: 12, float: {epochs: 1, lr: 0.05}, qat: {epochs: 1, lr: 0.005}}\n"
              "quant: {calibration: {batches: 1}}\n"
              "log: {every: 1, histograms_every: 0}\n"
              "eval: {batch: 20}\n"
              "checkpoint: {every_steps: 3, keep_last: 20}\n"
              "distributed: {timeout: 60}\n");
    std::vector<std::string> all = {config,   "--run-dir", path("runs"),
                                    "--name", name,        "--no-progress"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  // scripts/launch/mpirun.sh RANKS arguments, as a process of its own.
  pid_t start_on(int ranks, const std::vector<std::string>& arguments) const {
    return start_command({source("scripts/launch/mpirun.sh"), std::to_string(ranks)}, arguments);
  }
  pid_t start_command(std::vector<std::string> words,
                      const std::vector<std::string>& arguments) const {
    words.insert(words.end(), arguments.begin(), arguments.end());
    const std::string output = path("output.txt");
    const pid_t process = fork();
    if (process == 0) {
      if (!freopen(output.c_str(), "w", stdout) || dup2(1, 2) < 0) _exit(126);
      std::vector<char*> pointers;
      for (std::string& word : words) pointers.push_back(word.data());
      pointers.push_back(nullptr);
      execvp(pointers[0], pointers.data());
      _exit(127);
    }
    return process;
  }
  Result run_on(int ranks, const std::vector<std::string>& arguments) const {
    return wait(start_on(ranks, arguments));
  }
  // The processes of this test's job, in the order of their start.
  std::vector<pid_t> rank_processes() const {
    std::vector<pid_t> list;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const std::string process = entry.path().filename();
      if (process.find_first_not_of("0123456789") != std::string::npos) continue;
      const std::string command = read(entry.path() / "cmdline");
      if (command.starts_with(program_path()) && has(command, path("runs")))
        list.push_back(pid_t(std::stol(process)));
    }
    std::sort(list.begin(), list.end());
    return list;
  }
  std::string status(const std::string& name = "run") const {
    return read(path("runs/" + name + "/STATUS.json"));
  }
  // "train/loss" of every step.
  std::vector<double> losses(const std::string& name) const {
    const std::string text = read(path("runs/" + name + "/metrics.jsonl"));
    static const std::regex loss("\"train/loss\":([-+0-9.e]+)");
    std::vector<double> list;
    for (std::sregex_iterator it(text.begin(), text.end(), loss), end; it != end; ++it)
      list.push_back(std::stod((*it)[1]));
    return list;
  }
};

}  // namespace qt::program
