// tests/program/resume_test.cpp -- the same bits, whatever happened on the way.
#include <algorithm>

#include "tests/program/program.h"

namespace qt::program {
namespace {

class Resume : public ProgramTest {
 protected:
  // Checkpoints in the middle of epochs too.
  std::vector<std::string> saving(const std::vector<std::string>& more = {},
                                  const std::string& name = "run") const {
    std::vector<std::string> all = {"checkpoint.every_steps=3", "log.every=1"};
    all.insert(all.end(), more.begin(), more.end());
    return tiny(all, name);
  }
  std::vector<std::string> names_in(const std::string& folder) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path(folder)))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
  void expect_same_metrics(const std::string& a, const std::string& b) const {
    // Times differ; losses must not.
    const auto losses = [&](const std::string& name) {
      std::string list;
      std::istringstream in(read(path("runs/" + name + "/metrics.jsonl")));
      for (std::string line; std::getline(in, line);) {
        const size_t at = line.find("loss\":");
        if (at == std::string::npos) continue;  // of layers
        list += line.substr(0, line.find(',')) +
                line.substr(at, line.find_first_of(",}", at) - at) + "\n";
      }
      return list;
    };
    EXPECT_EQ(losses(a), losses(b));
  }
};

TEST_F(Resume, AKilledRunEndsWithTheBytesOfOneThatWasNot) {
  ASSERT_EQ(run(saving({}, "whole")).code, 0);
  const std::string whole = final_bytes("whole");
  ASSERT_GT(whole.size(), 100000u);
  // Kills after so many lines: the first steps, between checkpoints, in calibration and QAT, near
  // the end. One run takes them all, one after the other.
  for (size_t lines : {1, 4, 8, 9, 12, 16}) {
    const pid_t process = start(saving({"--resume=auto"}));
    wait_for_lines(process, lines);
    kill(process, SIGKILL);
    const Result result = wait(process);
    ASSERT_TRUE(result.code == -SIGKILL || result.code == 0) << result.output;
  }
  const Result last = run(saving({"--resume=auto"}));
  ASSERT_EQ(last.code, 0) << last.output;
  EXPECT_TRUE(final_bytes() == whole);
  expect_same_metrics("run", "whole");
}

// Pictures one by one: an evaluation of seconds, in which the request comes.
TEST_F(Resume, ASignalStopsWithinAnEvaluationAndNothingThatWasTrainedIsLost) {
  const std::vector<std::string> pictures = {"data.test_images=5000", "eval.batch=50",
                                             "checkpoint.every_steps=0"};
  ASSERT_EQ(run(tiny(pictures, "whole")).code, 0);
  std::vector<std::string> slow = pictures;
  slow.insert(slow.end(), {"eval.batch=1", "--resume=auto"});
  const pid_t process = start(tiny(slow));
  wait_for_lines(process, 4);  // of the float phase: every second of 8 steps
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  kill(process, SIGTERM);
  const Result result = wait(process);
  EXPECT_EQ(result.code, 75) << result.output;
  EXPECT_NE(result.output.find("stopped by SIGTERM after step 8"), std::string::npos)
      << result.output;
  EXPECT_EQ(read(path("runs/run/metrics.jsonl")).find("eval/"), std::string::npos);
  EXPECT_EQ(last_checkpoint().filename(), "step-00000008");
  std::vector<std::string> rest = pictures;
  rest.push_back("--resume=must");
  const Result last = run(tiny(rest));
  ASSERT_EQ(last.code, 0) << last.output;
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
  expect_same_metrics("run", "whole");
}

// In the evaluation of what calibration gave, before the first QAT step: nothing was trained since
// the float phase was saved, and the choice of codes is still open.
TEST_F(Resume, ASignalBeforeTheFirstQatStepLeavesTheFloatPhasesCheckpoint) {
  const std::vector<std::string> pictures = {"data.test_images=5000", "checkpoint.every_steps=0"};
  const auto with = [&](std::vector<std::string> more, const std::string& name = "run") {
    more.insert(more.begin(), pictures.begin(), pictures.end());
    return tiny(more, name);
  };
  ASSERT_EQ(run(with({}, "whole")).code, 0);
  ASSERT_EQ(run(with({"quant.weights.bits=4"}, "narrow")).code, 0);
  const auto stop_in_it = [&](const std::string& name) {
    const pid_t process = start(with({"eval.batch=1", "--resume=auto"}, name));
    const std::string log = path("runs/" + name + "/log.txt");
    for (int i = 0; i < 20000 && !has(read(log), "quantizer steps chosen"); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    kill(process, SIGTERM);
    return wait(process);
  };
  for (const std::string name : {"run", "other"}) {
    const Result stopped = stop_in_it(name);
    EXPECT_EQ(stopped.code, 75) << stopped.output;
    EXPECT_EQ(read(path("runs/" + name + "/metrics.jsonl")).find("ptq"), std::string::npos);
  }
  ASSERT_EQ(run(with({"--resume=must"})).code, 0);
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
  EXPECT_TRUE(has(read(path("runs/run/metrics.jsonl")), "eval/ptq_top1"));
  ASSERT_EQ(run(with({"--resume=must", "quant.weights.bits=4"}, "other")).code, 0);
  EXPECT_TRUE(final_bytes("other") == final_bytes("narrow"));
}

// Without a float phase there is no checkpoint yet.
TEST_F(Resume, ASignalBeforeTheFirstStepOfAllIsFollowedByTheSameEvaluation) {
  const std::vector<std::string> qat_alone = {"data.test_images=5000", "train.float.epochs=0"};
  ASSERT_EQ(run(tiny(qat_alone, "whole")).code, 0);
  std::vector<std::string> slow = qat_alone;
  slow.push_back("eval.batch=1");
  const pid_t process = start(tiny(slow));
  for (int i = 0; i < 20000 && !has(read(path("runs/run/log.txt")), "quantizer steps chosen"); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  kill(process, SIGTERM);
  ASSERT_EQ(wait(process).code, 75);
  EXPECT_EQ(last_checkpoint().filename(), "step-00000000");
  EXPECT_EQ(read(path("runs/run/metrics.jsonl")), "");
  std::vector<std::string> rest = qat_alone;
  rest.push_back("--resume=must");
  ASSERT_EQ(run(tiny(rest)).code, 0);
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
  expect_same_metrics("run", "whole");
}

// The time allowed is over at once: each process trains one step, and whatever evaluation stands
// before it.
TEST_F(Resume, RunsThatAreAllowedNoTimeGetToTheirEnd) {
  ASSERT_EQ(run(saving({}, "whole")).code, 0);
  int stops = 0;
  for (; stops < 40 && run(saving({"--resume=auto", "--max-time", "0s"})).code == 75; ++stops) {
  }
  EXPECT_EQ(stops, 16);
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
  expect_same_metrics("run", "whole");
}

TEST_F(Resume, SignalsStopAfterACheckpointAndTheRunGoesOn) {
  const std::string longer = "data.train_images=256";  // 16 steps in float, 16 in QAT
  ASSERT_EQ(run(saving({longer}, "whole")).code, 0);
  for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2}) {
    const size_t lines = lines_written();
    const pid_t process = start(saving({longer, "--resume=auto"}));
    wait_for_lines(process, lines + 4);
    kill(process, signal);
    const Result result = wait(process);
    EXPECT_EQ(result.code, 75) << result.output;
    EXPECT_NE(read(path("runs/run/STATUS.json")).find("\"stopped\""), std::string::npos);
  }
  EXPECT_GT(lines_written(), 20u) << "the last of them in QAT";
  const Result last = run(saving({longer, "--resume=must"}));
  ASSERT_EQ(last.code, 0) << last.output;
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
}

TEST_F(Resume, UnderNohupAClosedTerminalEndsNothing) {
  tiny_config();
  const Result result = shell(
      "trap '' HUP; \"$QATTRAIN\" tiny.yaml --run-dir runs --name run --no-progress & "
      "for i in $(seq 200); do [ -s runs/run/metrics.jsonl ] && break; sleep 0.05; done; "
      "kill -HUP $!; wait $!");
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_NE(read(path("runs/run/STATUS.json")).find("\"done\""), std::string::npos);
}

TEST_F(Resume, AReaderThatGoesAwayLeavesACompleteRun) {
  tiny_config();
  shell(
      "(\"$QATTRAIN\" tiny.yaml --run-dir runs --name run --no-progress 2>&1; echo $? >code) | "
      "true");
  EXPECT_EQ(read(path("code")), "4\n") << "the last line could not be written";
  EXPECT_NE(read(path("runs/run/STATUS.json")).find("\"done\""), std::string::npos);
  EXPECT_TRUE(fs::exists(path("runs/run/export/model.qat")));
}

TEST_F(Resume, TheAllowedTimeStopsLikeASignal) {
  ASSERT_EQ(run(tiny({}, "whole")).code, 0);
  for (int i = 0; i < 3; ++i) {
    const Result result = run(tiny({"--resume=auto", "--max-time", "0s"}));
    ASSERT_EQ(result.code, 75) << result.output;
  }
  ASSERT_EQ(run(tiny({"--resume=auto"})).code, 0);
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
}

TEST_F(Resume, GoesOnFromANamedCheckpointWithAccumulation) {
  const std::vector<std::string> more = {"train.accumulate=2", "train.batch=8",
                                         "checkpoint.keep_last=20"};
  ASSERT_EQ(run(saving(more)).code, 0);
  const std::string whole = final_bytes();
  for (const char* step : {"step-00000003", "step-00000012"}) {
    const fs::path folder = path("runs/run/checkpoints/" + std::string(step));
    ASSERT_TRUE(fs::exists(folder)) << folder;
    std::vector<std::string> again = more;
    again.push_back("--resume=" + folder.string());
    const Result result = run(saving(again));
    ASSERT_EQ(result.code, 0) << result.output;
    EXPECT_TRUE(final_bytes() == whole) << step;
  }
}

TEST_F(Resume, ACheckpointThatIsDueWithAnEpochsLastStepIsSaved) {
  ASSERT_EQ(
      run(tiny({"checkpoint.every_epochs=0", "checkpoint.every_steps=4", "checkpoint.keep_last=10",
                "train.float.epochs=0", "train.qat.epochs=3", "--limit-train-batches", "4"}))
          .code,
      0);
  for (const char* step : {"step-00000004", "step-00000008", "step-00000012"})
    EXPECT_TRUE(fs::exists(path("runs/run/checkpoints/" + std::string(step)))) << step;
}

TEST_F(Resume, ACompleteRunSaysItsResultAgain) {
  const Result first = run(tiny());
  ASSERT_EQ(first.code, 0) << first.output;
  const Result second = run(tiny({"--resume=auto"}));
  ASSERT_EQ(second.code, 0) << second.output;
  const auto last_line = [](const std::string& text) {
    const size_t at = text.rfind("integer-program top-1");
    return at == std::string::npos ? "none" : text.substr(at);
  };
  EXPECT_EQ(last_line(first.output), last_line(second.output));
  EXPECT_NE(last_line(first.output), "none");
}

TEST_F(Resume, TwoRunsAndAnyNumberOfWorkersGiveTheSameBytes) {
  ASSERT_EQ(run(tiny({}, "a")).code, 0);
  ASSERT_EQ(run(tiny({}, "b")).code, 0);
  EXPECT_TRUE(final_bytes("a") == final_bytes("b"));
  for (const char* workers : {"0", "3"}) {
    const std::string name = std::string("w") + workers;
    ASSERT_EQ(run(tiny({std::string("data.workers=") + workers, "data.prefetch=5"}, name)).code, 0);
    EXPECT_TRUE(read(last_checkpoint("a") / "model.safetensors") ==
                read(last_checkpoint(name) / "model.safetensors"));
  }
  ASSERT_EQ(run(tiny({"--seed", "2"}, "other")).code, 0);
  EXPECT_FALSE(final_bytes("a") == final_bytes("other"));
}

TEST_F(Resume, ExactFloatTrainsToTheBytesOfInt8) {
  ASSERT_EQ(run(tiny({}, "int8")).code, 0);
  ASSERT_EQ(run(tiny({"train.forward=exact_float"}, "float")).code, 0);
  EXPECT_TRUE(read(last_checkpoint("int8") / "model.safetensors") ==
              read(last_checkpoint("float") / "model.safetensors"));
}

TEST_F(Resume, FrozenAndReestimatedStatisticsResumeToTheSameBytes) {
  // Measured anew after the first epoch, frozen in the second.
  const std::vector<std::string> more = {"train.qat.epochs=2", "quant.bn.freeze_at=0.75",
                                         "quant.bn.reestimate_batches=2"};
  std::vector<std::string> resumed = more;
  resumed.push_back("--resume=auto");
  ASSERT_EQ(run(saving(more, "whole")).code, 0);
  for (size_t lines : {10, 14, 18, 24}) {
    const pid_t process = start(saving(resumed));
    wait_for_lines(process, lines);
    kill(process, SIGKILL);
    wait(process);
  }
  ASSERT_EQ(run(saving(resumed)).code, 0);
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
}

// The process that evaluates has not trained a step with frozen statistics.
TEST_F(Resume, AnEpochsLastStepMayBeTheLastOfItsProcess) {
  const std::vector<std::string> more = {"train.float.epochs=0", "quant.bn.freeze_at=0.5",
                                         "quant.bn.reestimate_batches=2",
                                         "--limit-train-batches=2"};
  ASSERT_EQ(run(saving(more, "whole")).code, 0);
  std::vector<std::string> one_step = more;
  one_step.insert(one_step.end(), {"--resume=auto", "--max-time", "0s"});
  for (int i = 0; i < 2; ++i) ASSERT_EQ(run(saving(one_step)).code, 75);
  std::vector<std::string> rest = more;
  rest.push_back("--resume=auto");
  ASSERT_EQ(run(saving(rest)).code, 0);
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
}

TEST_F(Resume, APhaseAddedBehindACompleteRunHasTheBitsOfBothAtOnce) {
  ASSERT_EQ(run(saving({}, "whole")).code, 0);
  ASSERT_EQ(run(saving({"train.qat.epochs=0"})).code, 0);
  EXPECT_NE(read(last_checkpoint() / "optim.safetensors").find(".velocity"), std::string::npos);
  const Result added = run(saving({"--resume=auto"}));
  ASSERT_EQ(added.code, 0) << added.output;
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
  // Nor is the accuracy of the float phase a rival.
  EXPECT_TRUE(read(path("runs/run/export/best.qat")) == read(path("runs/whole/export/best.qat")));
  EXPECT_EQ(names_in("runs/run/checkpoints"), names_in("runs/whole/checkpoints"));
  expect_same_metrics("run", "whole");
}

TEST_F(Resume, OnAnotherInstructionSetAndWithOtherEpochsIsWarnedOf) {
  ASSERT_EQ(run(tiny({"--max-time", "0s"})).code, 75);
  setenv("QATTRAIN_MAX_ISA", "sse41", 1);
  const Result result = run(tiny({"--resume=auto", "--limit-train-batches=2"}));
  unsetenv("QATTRAIN_MAX_ISA");
  ASSERT_EQ(result.code, 0) << result.output;
  for (const std::string part :
       {"warning: the checkpoint's instruction set is ", ", this run's is sse41",
        "warning: the checkpoint's number of steps an epoch is 8, this run's is 2"})
    EXPECT_NE(result.output.find(part), std::string::npos) << part << "\n" << result.output;
  EXPECT_EQ(result.output.find("training pictures is"), std::string::npos) << result.output;
}

}  // namespace
}  // namespace qt::program
