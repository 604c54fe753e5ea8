// tests/train/run_folder_test.cpp -- who gets a run folder, and the files that describe the run.
#include "train/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/log.h"
#include "tests/core/base/temporary_folder.h"

namespace qt {
namespace {

using nlohmann::json;
using test::message_of;
using test::slurp;
using test::spill;
using test::TemporaryFolder;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class RunFolders : public testing::Test {
 protected:
  ~RunFolders() override { files::set_fault_hook({}); }
  RunRequest request(const std::string& name, bool given = true,
                     Resume resume = Resume::never) const {
    return {temporary_ / "runs", name, given, resume};
  }
  std::string refusal(const RunRequest& r) const {
    return message_of<ConfigError>([&] { RunFolder::create(r); });
  }
  TemporaryFolder temporary_;
};

TEST_F(RunFolders, ANewOneIsMadeWithItsParents) {
  const RunFolder run = RunFolder::create(request("first"));
  EXPECT_EQ(run.path(), temporary_ / "runs/first");
  EXPECT_EQ(run.name(), "first");
  EXPECT_FALSE(run.resumed());
  EXPECT_TRUE(files::exists(run.checkpoints()));
  EXPECT_EQ(run.file("x"), run.path() + "/x");
}

TEST_F(RunFolders, AGivenNameThatExistsIsRefusedWithTheWayOut) {
  RunFolder::create(request("taken"));
  EXPECT_THAT(refusal(request("taken")), AllOf(HasSubstr(temporary_ / "runs/taken"),
                                               HasSubstr("--resume=auto"), HasSubstr("--name")));
}

TEST_F(RunFolders, ADerivedNameIsNumbered) {
  EXPECT_EQ(RunFolder::create(request("smoke", false)).name(), "smoke");
  EXPECT_EQ(RunFolder::create(request("smoke", false)).name(), "smoke-2");
  EXPECT_EQ(RunFolder::create(request("smoke", false)).name(), "smoke-3");
}

TEST_F(RunFolders, AutomaticResumeStartsThenContinues) {
  EXPECT_FALSE(RunFolder::create(request("a", true, Resume::automatic)).resumed());
  const RunFolder again = RunFolder::create(request("a", true, Resume::automatic));
  EXPECT_TRUE(again.resumed());
  EXPECT_EQ(again.name(), "a");
}

TEST_F(RunFolders, AutomaticResumeOfADerivedNameContinuesTheYoungest) {
  RunFolder::create(request("smoke", false));
  RunFolder::create(request("smoke", false));
  const RunFolder run = RunFolder::create(request("smoke", false, Resume::automatic));
  EXPECT_EQ(run.name(), "smoke-2");
  EXPECT_TRUE(run.resumed());
}

TEST_F(RunFolders, NumbersAreCountedOnWhereOneWasRemoved) {
  for (int i = 0; i < 3; ++i) RunFolder::create(request("smoke", false));
  RunFolder::create(request("smoke-x"));
  std::filesystem::remove_all(temporary_ / "runs/smoke-2");
  EXPECT_EQ(RunFolder::create(request("smoke", false, Resume::automatic)).name(), "smoke-3");
  EXPECT_EQ(RunFolder::create(request("smoke", false)).name(), "smoke-4");
}

TEST_F(RunFolders, MustResumeNeedsSomethingToResume) {
  EXPECT_THAT(refusal(request("none", true, Resume::must)),
              AllOf(HasSubstr(temporary_ / "runs/none"), HasSubstr("--resume=auto")));
  EXPECT_FALSE(files::exists(temporary_ / "runs/none"));
  RunFolder::create(request("none"));
  EXPECT_TRUE(RunFolder::create(request("none", true, Resume::must)).resumed());
}

TEST_F(RunFolders, UnusableNamesAreRefused) {
  for (const char* name : {"", ".", "..", "../x", "a/b", ".hidden", "a\nb"})
    EXPECT_THAT(refusal(request(name)), HasSubstr("cannot be a folder's name")) << name;
  EXPECT_THAT(refusal(request(std::string(201, 'x'))), HasSubstr("cannot be a folder's name"));
}

TEST_F(RunFolders, OneProcessWritesAtATime) {
  const RunFolder run = RunFolder::create(request("mine"));
  const pid_t child = fork();
  if (child == 0) {
    const std::string message = refusal(request("mine", true, Resume::automatic));
    const bool good = message.find("in use by another process") != std::string::npos &&
                      message.find("process " + std::to_string(getppid())) != std::string::npos;
    _exit(good ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

// The system's refusals are no usage errors: another exit code.
TEST_F(RunFolders, AFolderThatCannotBeMadeIsNamed) {
  const auto refused_by_system = [&] {
    return message_of<CheckpointError>([&] { RunFolder::create(request("x")); });
  };
  spill(temporary_ / "runs", "a file in the way");
  EXPECT_THAT(refused_by_system(),
              AllOf(HasSubstr(temporary_ / "runs"), HasSubstr("Not a directory")));
  std::filesystem::remove(temporary_ / "runs");
  for (const int error : {EACCES, EROFS, ENOSPC, EDQUOT}) {
    files::set_fault_hook([&](files::Operation operation, const std::string&) {
      return operation == files::Operation::make_folder ? files::Fault{error} : files::Fault{};
    });
    EXPECT_THAT(refused_by_system(), HasSubstr(strerror(error)));
  }
}

TEST_F(RunFolders, TheConfigIsKeptAsGivenAndAsResolved) {
  const RunFolder run = RunFolder::create(request("a"));
  run.write_config("resolved: 1\n", "original: 1\n", {"quant.bits=4", "train.lr=0.1"});
  EXPECT_EQ(slurp(run.file("config.yaml")), "resolved: 1\n");
  EXPECT_EQ(slurp(run.file("config.orig.yaml")), "original: 1\n");
  EXPECT_EQ(slurp(run.file("overrides.txt")), "quant.bits=4\ntrain.lr=0.1\n");
}

TEST_F(RunFolders, TheEnvironmentIsJsonInTheGivenOrder) {
  const RunFolder run = RunFolder::create(request("a"));
  run.write_environment({"qattrain", "x \"y\".yaml", "\xff"}, {{"zlib", "1.2"}, {"git", "abc"}});
  const auto j = nlohmann::ordered_json::parse(slurp(run.file("env.json")));
  std::vector<std::string> keys;
  for (const auto& [key, value] : j.items()) keys.push_back(key);
  EXPECT_THAT(keys, ElementsAre("command", "host", "process", "started", "zlib", "git"));
  EXPECT_EQ(j["command"][1], "x \"y\".yaml");
  EXPECT_EQ(j["process"], getpid());
  EXPECT_EQ(j["git"], "abc");
}

TEST_F(RunFolders, TheStatusSaysHowTheRunStands) {
  const RunFolder run = RunFolder::create(request("a"));
  run.write_status({RunState::running, 5, {}, ""});
  json j = json::parse(slurp(run.file("STATUS.json")));
  EXPECT_EQ(j["state"], "running");
  EXPECT_EQ(j["step"], 5);
  EXPECT_TRUE(j["exit_code"].is_null());
  EXPECT_FALSE(j.contains("message"));
  run.write_status({RunState::failed, 7, 5, "loss is NaN"});
  j = json::parse(slurp(run.file("STATUS.json")));
  EXPECT_EQ(j["state"], "failed");
  EXPECT_EQ(j["exit_code"], 5);
  EXPECT_EQ(j["message"], "loss is NaN");
  run.write_status({RunState::stopped, 8, 75, ""});
  EXPECT_EQ(json::parse(slurp(run.file("STATUS.json")))["state"], "stopped");
  run.write_status({RunState::done, 9, 0, ""});
  EXPECT_EQ(json::parse(slurp(run.file("STATUS.json")))["state"], "done");
}

TEST_F(RunFolders, TheStatusIsReadAsItWasWrittenAndNothingElseIsTaken) {
  const RunFolder run = RunFolder::create(request("a"));
  EXPECT_FALSE(run.status());
  for (const RunState state :
       {RunState::running, RunState::failed, RunState::stopped, RunState::done}) {
    run.write_status({state, 7, 5, "some message"});
    ASSERT_TRUE(run.status());
    EXPECT_EQ(run.status()->state, state);
    EXPECT_EQ(run.status()->step, 7);
  }
  for (const char* text :
       {"", "[]", "{}", R"({"state": "done"})", R"({"state": 1, "step": 2})",
        R"({"state": "gone", "step": 2})", R"({"state": "done", "step": "x"})"}) {
    spill(run.file("STATUS.json"), text);
    EXPECT_FALSE(run.status()) << text;
  }
}

TEST_F(RunFolders, WhatIsLoggedIsInLogTxt) {
  const RunFolder run = RunFolder::create(request("a"));
  log::info("a line to be found again");
  log::flush();
  EXPECT_THAT(slurp(run.file("log.txt")), HasSubstr("a line to be found again"));
}

}  // namespace
}  // namespace qt
