// tests/train/metrics_test.cpp -- metrics.jsonl stays valid JSON and lists every step once, resumes
// included.
#include "train/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/base/error.h"
#include "tests/core/base/temporary_folder.h"
#include "train/training_log.h"

namespace qt {
namespace {

using nlohmann::json;
using test::message_of;
using test::slurp;
using test::spill;
using test::TemporaryFolder;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<int64_t> steps_in(const std::string& path) {
  std::vector<int64_t> steps;
  std::istringstream lines(slurp(path));
  for (std::string line; std::getline(lines, line);) steps.push_back(json::parse(line).at("step"));
  return steps;
}

size_t event_files(const std::string& folder) {
  size_t count = 0;
  for (const std::string& name : files::list_folder(folder))
    count += name.find("tfevents") != std::string::npos;
  return count;
}

TEST(Metrics, ALineIsOneObjectInTheGivenOrder) {
  EXPECT_EQ(metrics_line(120, 3, {{"train/loss", 1.25}, {"eval/top1", 91}}),
            "{\"step\":120,\"epoch\":3,\"train/loss\":1.25,\"eval/top1\":91.0}\n");
  EXPECT_EQ(metrics_line(0, 0, {}), "{\"step\":0,\"epoch\":0}\n");
}

TEST(Metrics, NumbersComeBackExactlyAndOddOnesAsText) {
  const json j = json::parse(metrics_line(1, 1,
                                          {{"a", 0.1},
                                           {"tiny", std::numeric_limits<double>::denorm_min()},
                                           {"nan", NAN},
                                           {"inf", INFINITY},
                                           {"minus", -INFINITY},
                                           {"q\"\n", 1}}));
  EXPECT_EQ(j["a"].get<double>(), 0.1);
  EXPECT_EQ(j["tiny"].get<double>(), std::numeric_limits<double>::denorm_min());
  EXPECT_EQ(j["nan"], "NaN");
  EXPECT_EQ(j["inf"], "Infinity");
  EXPECT_EQ(j["minus"], "-Infinity");
  EXPECT_EQ(j["q\"\n"], 1.0);
}

TEST(Metrics, GoToTheFileAndToTensorBoardAtOnce) {
  const TemporaryFolder run;
  MetricsLog metrics(run.path());
  metrics.write(10, 1, {{"train/loss", 2}, {"lr", 0.1}});
  EXPECT_THAT(slurp(run / "metrics.jsonl"), HasSubstr("\"lr\":0.1"));
  const std::string events = slurp(metrics.events().path());
  EXPECT_THAT(events, HasSubstr("train/loss"));
  EXPECT_THAT(events, HasSubstr("lr"));
  EXPECT_THAT(events, HasSubstr("\x3a\x02\x08\x01"))
      << "SessionLog START: TensorBoard needs one before a resume's";
}

TEST(Metrics, AResumeCutsWhatCameAfterAndOpensANewEventFile) {
  const TemporaryFolder run;
  {
    MetricsLog metrics(run.path());
    for (int step = 1; step <= 9; ++step) metrics.write(step, 1, {{"x", double(step)}});
  }
  EXPECT_EQ(event_files(run.path()), 1u);
  MetricsLog metrics(run.path(), MetricsEnd{.step = 6, .epoch = 1});
  EXPECT_THAT(steps_in(run / "metrics.jsonl"), ElementsAre(1, 2, 3, 4, 5, 6));
  metrics.write(7, 1, {{"x", 70}});
  EXPECT_THAT(steps_in(run / "metrics.jsonl"), ElementsAre(1, 2, 3, 4, 5, 6, 7));
  EXPECT_EQ(event_files(run.path()), 2u);
  EXPECT_THAT(slurp(metrics.events().path()), HasSubstr(std::string("\x10\x07\x3a\x02\x08\x01", 6)))
      << "SessionLog START with the first new step";
}

// What is written of a phase before its first step has the step of the phase before.
TEST(Metrics, AResumeCutsLaterEpochsOfItsStepToo) {
  const TemporaryFolder run;
  {
    MetricsLog metrics(run.path());
    metrics.write(6, 1, {{"eval/top1", 1}});
    metrics.write(6, 2, {{"eval/ptq_top1", 2}});
  }
  TrainState state;
  state.at.epochs_done = 1;
  const auto lines_after_resuming = [&] {
    TrainingLog(Experiment(), {.run_folder = run.path(), .resumed = true}, state).sync();
    return steps_in(run / "metrics.jsonl").size();
  };
  state.at.steps_done = 7, state.at.step = 1;  // of the next phase
  EXPECT_EQ(lines_after_resuming(), 2u);
  state.at.steps_done = 6, state.at.step = 0;
  EXPECT_EQ(lines_after_resuming(), 1u);
}

// A checkpoint between an epoch's last step and its evaluation, which may have been made since.
TEST(Metrics, AResumeBeforeAnEvaluationCutsItsLines) {
  const TemporaryFolder run;
  {
    MetricsLog metrics(run.path());
    metrics.write(5, 1, {{"eval/top1", 1}});
    metrics.write(6, 2, {{"train/loss", 1}});
    metrics.write(6, 2, {{"eval/top1", 2}});
    metrics.write(6, 2, {{"quant/step/conv1", 3}});
  }
  TrainState state;
  state.at.steps_done = 6, state.at.epochs_done = 1, state.at.step = 1;
  TrainingLog(Experiment(), {.run_folder = run.path(), .resumed = true}, state).sync();
  EXPECT_EQ(slurp(run / "metrics.jsonl"),
            metrics_line(5, 1, {{"eval/top1", 1}}) + metrics_line(6, 2, {{"train/loss", 1}}));
}

TEST(Metrics, AResumedRunsLogStartsOneSession) {
  const TemporaryFolder run;
  TrainState state;
  state.at.steps_done = 6;
  TrainingLog(Experiment(), {.run_folder = run.path(), .resumed = true}, state).sync();
  size_t starts = 0;
  const std::string start = "\x3a\x02\x08\x01";
  for (const std::string& name : files::list_folder(run.path())) {
    if (name.find("tfevents") == std::string::npos) continue;
    const std::string events = slurp(run / name);
    for (size_t at = 0; (at = events.find(start, at)) != std::string::npos; ++at) ++starts;
  }
  EXPECT_EQ(starts, 1u);
}

TEST(Metrics, ATornOrDamagedLineIsDroppedAtAResume) {
  const TemporaryFolder run;
  spill(run / "metrics.jsonl",
        "{\"step\":1,\"epoch\":1}\n\x01\x01\n{\"epoch\":1}\n{\"step\":2,\"epoch\":1}\n{\"step\":3,"
        "\"ep");
  MetricsLog metrics(run.path(), MetricsEnd{.step = 5, .epoch = 1});
  EXPECT_THAT(steps_in(run / "metrics.jsonl"), ElementsAre(1, 2));
}

TEST(Metrics, ATornLineThatIsStillJsonIsDroppedToo) {
  const TemporaryFolder run;
  spill(run / "metrics.jsonl", "{\"step\":1,\"epoch\":1}\n{\"step\":2,\"epoch\":1}");
  MetricsLog metrics(run.path(), MetricsEnd{.step = 5, .epoch = 1});
  metrics.write(3, 1, {});
  EXPECT_THAT(steps_in(run / "metrics.jsonl"), ElementsAre(1, 3));
}

TEST(Metrics, ResumingARunWithoutNumbersStartsThem) {
  const TemporaryFolder run;
  MetricsLog(run.path(), MetricsEnd{.step = 5, .epoch = 1}).write(6, 1, {});
  EXPECT_THAT(steps_in(run / "metrics.jsonl"), ElementsAre(6));
}

TEST(Metrics, StartingOverCutsEverything) {
  const TemporaryFolder run;
  MetricsLog(run.path()).write(0, 1, {});
  MetricsLog metrics(run.path(), MetricsEnd());
  EXPECT_THAT(slurp(metrics.events().path()), HasSubstr(std::string("\x3a\x02\x08\x01", 4)));
  metrics.write(1, 1, {});
  EXPECT_THAT(steps_in(run / "metrics.jsonl"), ElementsAre(1));
}

TEST(Metrics, AnotherRunsNumbersAreNotAppendedTo) {
  const TemporaryFolder run;
  MetricsLog(run.path()).write(1, 1, {});
  EXPECT_THAT(message_of<CheckpointError>([&] { MetricsLog second(run.path()); }),
              HasSubstr(run / "metrics.jsonl"));
}

TEST(Metrics, AFullDiskIsNamedAndLeavesWholeLines) {
  const TemporaryFolder run;
  MetricsLog metrics(run.path());
  metrics.write(1, 1, {});
  files::set_fault_hook([](files::Operation operation, const std::string&) {
    return operation == files::Operation::write ? files::Fault{ENOSPC, 5} : files::Fault{};
  });
  EXPECT_THAT(message_of<CheckpointError>([&] { metrics.write(2, 1, {}); }),
              testing::AllOf(HasSubstr(run / "metrics.jsonl"), HasSubstr("No space left")));
  files::set_fault_hook({});
  metrics.write(3, 1, {});
  EXPECT_THAT(steps_in(run / "metrics.jsonl"), ElementsAre(1, 3));
}

}  // namespace
}  // namespace qt
