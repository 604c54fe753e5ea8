// tests/program/ranks_accidents_mpi_test.cpp -- lost ranks, memory that errs, and signals: how jobs
// of several processes end, and that the last checkpoint is there afterwards.
#include <algorithm>

#include "tests/program/ranks.h"

namespace qt::program {
namespace {

// ---- every accident at every place; those that are missing are in ranks_mpi_test.cpp ----

struct Accident {
  std::string what, where;
};
std::ostream& operator<<(std::ostream& out, const Accident& accident) {
  return out << accident.what << "@" << accident.where;
}

class AccidentsMpi : public RanksTest, public ::testing::WithParamInterface<Accident> {};
INSTANTIATE_TEST_SUITE_P(, AccidentsMpi,
                         ::testing::Values(Accident{"killed", "init"}, Accident{"killed", "eval"},
                                           Accident{"killed", "save"}, Accident{"stopped", "init"},
                                           Accident{"stopped", "step=2"},
                                           Accident{"stopped", "save"}, Accident{"exits", "step=2"},
                                           Accident{"exits", "eval"}, Accident{"exits", "save"},
                                           Accident{"throws", "init"}, Accident{"throws", "step=2"},
                                           Accident{"throws", "eval"}),
                         [](const auto& info) {
                           std::string name = info.param.what + "_" + info.param.where;
                           return name.substr(0, name.find('='));
                         });

TEST_P(AccidentsMpi, EndTheJobNameTheRankAndLeaveTheCheckpoint) {
  const auto& [what, where] = GetParam();
  const std::vector<std::string> job = {"--limit-train-batches=3", "train.qat.epochs=0",
                                        "--resume=auto", "distributed.timeout=6"};
  std::vector<std::string> first = job, second = job;
  first.insert(first.end(), {"--max-time", "0s"});
  second.insert(second.end(), {"--simulate", "rank_" + what + "@" + where});
  ASSERT_EQ(run_on(2, small(first)).code, 75);
  const auto begin = std::chrono::steady_clock::now();
  const Result lost = run_on(2, small(second));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
  EXPECT_FAILS(lost, 7, "rank 1 of 2");
  // What the lost rank did when it was last heard of, or what the other does, which may be behind.
  using Texts = std::vector<std::string>;
  const Texts activities = where == "eval"   ? Texts{"evaluation", "comparing ranks"}
                           : where == "save" ? Texts{"saving", "evaluation"}
                                             : Texts{"step 2"};
  const auto named = [&](const std::string& text) { return count_of(text, lost.output) > 0; };
  EXPECT_TRUE(where == "init" || std::any_of(activities.begin(), activities.end(), named))
      << lost.output;
  if (where != "init") {  // before, rank 0 has no folder yet
    EXPECT_NE(status().find("\"exit_code\": 7"), std::string::npos) << status();
  }
  const Result rest = run_on(2, small(job));
  EXPECT_EQ(rest.code, 0) << rest.output;
  EXPECT_NE(rest.output.find("continuing after step "), std::string::npos) << rest.output;
}

class LossMpi : public RanksTest {};

// mpirun lets the others live for four seconds; they compute for longer and ask nobody.
TEST_F(LossMpi, IsSaidAndWrittenDownWhileTheOthersCompute) {
  const Result lost = run_on(2, small({"--simulate", "rank_killed@eval", "train.qat.epochs=0",
                                       "eval.batch=60000", "data.test_images=60000"}));
  EXPECT_FAILS(lost, 7, "rank 1 of 2", "evaluation", "is lost");
  EXPECT_EQ(count_of("is lost", lost.output), 1u) << lost.output;
  EXPECT_NE(status().find("\"exit_code\": 7"), std::string::npos) << status();
}

// ---- errors of the rank that writes ----

class WriterMpi : public RanksTest {};

TEST_F(WriterMpi, ALogThatCannotBeWrittenIsTheErrorOfAllRanks) {
  fs::create_directories(path("runs/run/metrics.jsonl"));
  const Result refused = run_on(2, small({"--resume=auto"}));
  EXPECT_FAILS(refused, 4, "metrics.jsonl");
  EXPECT_EQ(count_of("metrics.jsonl", refused.output), 1u) << refused.output;
}

// ---- pictures that cannot be read ----

class BadPicturesMpi : public RanksTest {};

// Two of 24, one in the half of each rank: fewer than a tenth for each alone.
TEST_F(BadPicturesMpi, ThoseOfAllRanksAreListedAndCount) {
  const std::string pictures = picture_folder();
  write("pictures/test/apple/3.ppm", "P6 is all there is");
  write("pictures/test/pear/3.ppm", "P6 is all there is");
  const auto job = [&](const std::string& fraction, const std::string& name) {
    return small({"data.kind=imagefolder", "data.path=" + pictures, "data.on_error=skip",
                  "data.max_bad_fraction=" + fraction, "train.qat.epochs=0"},
                 name);
  };
  const Result few = run_on(2, job("0.1", "few"));
  EXPECT_EQ(few.code, 0) << few.output;
  const std::string list = read(path("runs/few/bad_samples.txt"));
  EXPECT_NE(list.find("apple/3.ppm"), std::string::npos) << list;
  EXPECT_NE(list.find("pear/3.ppm"), std::string::npos) << list;
  const Result many = run_on(2, job("0.05", "many"));
  EXPECT_FAILS(many, 3, "2 of 24 pictures are bad", "data.max_bad_fraction");
  EXPECT_EQ(count_of("2 of 24 pictures are bad", many.output), 1u) << many.output;
}

// ---- the comparison of ranks ----

class ComparisonMpi : public RanksTest {};

TEST_F(ComparisonMpi, AWeightThatDiffersEndsTheJobAndIsNamed) {
  const Result differs = run_on(3, small({"--simulate", "rank_differs@step=3"}));
  EXPECT_FAILS(differs, 7, "after step 4 tensor 'conv1.weight'", "rank 2 of 3");
  EXPECT_EQ(count_of("is not the same on all ranks", differs.output), 1u) << differs.output;
  EXPECT_NE(status().find("\"exit_code\": 7"), std::string::npos) << status();
}

// ---- numbers that are not finite ----

class NotFiniteMpi : public RanksTest {};

TEST_F(NotFiniteMpi, StepsAreLeftOutByAllRanksAlike) {
  const Result skipped =
      run_on(2, small({"train.on_nan=skip", "train.float.lr=1e39", "train.float.schedule.kind=step",
                       "train.float.schedule.milestones=[0.5]", "train.float.schedule.gamma=0",
                       "train.float.schedule.min_lr=0.01"}));
  ASSERT_EQ(skipped.code, 0) << skipped.output;  // or the comparison of ranks would have ended it
  EXPECT_NE(skipped.output.find("the step is left out, 2 so far"), std::string::npos)
      << skipped.output;
  EXPECT_EQ(skipped.output.find("the step is left out, 3 so far"), std::string::npos)
      << skipped.output;
}

// ---- signals ----

class SignalsMpi : public RanksTest {};

// Without the script: mpirun passes SIGUSR1 and SIGUSR2 on to all ranks.
TEST_F(SignalsMpi, ToMpirunItselfStopAllRanksAtOneStep) {
  const std::vector<std::string> job = {"data.train_images=600", "checkpoint.every_steps=0",
                                        "--resume=auto"};
  const std::vector<std::string> mpirun = {"mpirun",    "-np",  "3",           "--oversubscribe",
                                           "--bind-to", "none", program_path()};
  ASSERT_EQ(wait(start_command(mpirun, small(job, "whole"))).code, 0);
  for (int signal : {SIGUSR1, SIGUSR2}) {
    const size_t lines = lines_written();
    const pid_t process = start_command(mpirun, small(job));
    wait_for_lines(process, lines + 2);
    kill(process, signal);
    const Result result = wait(process);
    EXPECT_EQ(result.code, 75) << result.output;
    EXPECT_NE(result.output.find(signal == SIGUSR1 ? "stopped by SIGUSR1" : "stopped by SIGUSR2"),
              std::string::npos)
        << result.output;
  }
  ASSERT_EQ(wait(start_command(mpirun, small(job))).code, 0);
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
}

}  // namespace
}  // namespace qt::program
