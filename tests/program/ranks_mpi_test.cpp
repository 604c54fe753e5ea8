// tests/program/ranks_mpi_test.cpp -- the real binary on several processes: the same training, and
// what happens to it.
#include "tests/program/ranks.h"

namespace qt::program {
namespace {

class RanksMpi : public RanksTest {};

// Another order of pictures would show at once. Float training drifts by float order; codes jump
// where a value lies at their border, and the few pictures of these tests make much of each.
void expect_near(const std::vector<double>& a, const std::vector<double>& b, size_t float_steps) {
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], i < float_steps ? 5e-3 : 0.1) << i;
}

TEST_F(RanksMpi, OneRankIsTheProgramWithoutMpirun) {
  ASSERT_EQ(run(small({}, "plain")).code, 0);
  const Result one = run_on(1, small({}, "one"));
  ASSERT_EQ(one.code, 0) << one.output;
  EXPECT_TRUE(final_bytes("plain") == final_bytes("one"));
  EXPECT_EQ(one.output.find("processes"), std::string::npos) << one.output;
}

TEST_F(RanksMpi, TheSameNumberOfRanksGivesTheSameBytes) {
  ASSERT_EQ(run_on(2, small({}, "a")).code, 0);
  ASSERT_EQ(run_on(2, small({"data.workers=3"}, "b")).code, 0);
  const auto weights = [&](const std::string& name) {
    return read(last_checkpoint(name) / "model.safetensors");
  };
  EXPECT_TRUE(weights("a") == weights("b"));
  // Gradients of 8 significant bits: other bytes, the same training.
  const Result half = run_on(2, small({"distributed.wire=bf16"}, "half"));
  ASSERT_EQ(half.code, 0) << half.output;
  EXPECT_FALSE(weights("a") == weights("half"));
  const std::vector<double> whole = losses("a"), rounded = losses("half");
  ASSERT_EQ(rounded.size(), whole.size());
  EXPECT_EQ(rounded[0], whole[0]);
  for (size_t i = 1; i < whole.size(); ++i) EXPECT_NEAR(rounded[i], whole[i], 0.1) << i;
}

// Float training with gradients summed over two batches before each update, and over shares of 5, 4
// and 4 pictures: what one process does with the same 13.
TEST_F(RanksMpi, AccumulationAndUnequalSharesTrainLikeOneProcess) {
  const std::vector<std::string> job = {"train.batch=13", "train.accumulate=2",
                                        "train.qat.epochs=0", "data.train_images=104",
                                        "distributed.sync_batchnorm=true"};
  ASSERT_EQ(run(small(job, "r1")).code, 0);
  const std::vector<double> alone = losses("r1");
  ASSERT_EQ(alone.size(), 4u);
  const Result result = run_on(3, small(job, "r3"));
  ASSERT_EQ(result.code, 0) << result.output;
  const std::vector<double> together = losses("r3");
  ASSERT_EQ(together.size(), alone.size());
  for (size_t i = 0; i < alone.size(); ++i)
    EXPECT_NEAR(together[i], alone[i], i < 2 ? 1e-3 : 1e-2)
        << i;  // float order, and what grows of it
}

// Stopped before and after each of its phases' first steps, so also before calibration.
TEST_F(RanksMpi, StopsAnywhereAndGoesOnBitForBit) {
  const std::vector<std::string> job = {"train.accumulate=2", "--resume=auto"};
  ASSERT_EQ(run_on(2, small(job, "whole")).code, 0);
  std::vector<std::string> one_step = job;
  one_step.insert(one_step.end(), {"--max-time", "0s"});
  int stops = 0;
  for (; stops < 10 && run_on(2, small(one_step)).code == 75; ++stops) {
  }
  EXPECT_EQ(stops, 4);  // after each of two steps in float and two in QAT
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
}

TEST_F(RanksMpi, SynchronizedRanksTrainLikeOneProcess) {
  const std::string two_steps = "--limit-train-batches=2";
  ASSERT_EQ(run(small({two_steps}, "r1")).code, 0);
  const std::vector<double> alone = losses("r1");
  ASSERT_EQ(alone.size(), 4u);
  for (int ranks : {2, 4}) {
    const std::string name = "r" + std::to_string(ranks);
    const Result result =
        run_on(ranks, small({two_steps, "distributed.sync_batchnorm=true"}, name));
    ASSERT_EQ(result.code, 0) << result.output;
    const std::vector<double> together = losses(name);
    ASSERT_EQ(together.size(), alone.size());
    expect_near(together, alone, 2);
    EXPECT_NE(read(path("runs/" + name + "/metrics.jsonl")).find("\"distributed/hidden\""),
              std::string::npos);
  }
}

// Whole chunks of rows on each rank: the first quantized step has the codes of one process, so its
// loss differs by the order in which pictures' losses are added. The second comes after gradients
// of weights that were added in another order.
TEST_F(RanksMpi, SynchronizedRanksTakeTheFirstQuantizedStepOfOneProcess) {
  const auto losses_of = [&](int ranks) {
    const std::string name = "r" + std::to_string(ranks);
    const Result result =
        run_on(ranks, small({"--limit-train-batches=2", "train.batch=32", "data.train_images=64",
                             "train.float.epochs=0", "distributed.sync_batchnorm=true"},
                            name));
    EXPECT_EQ(result.code, 0) << result.output;
    return losses(name);
  };
  const std::vector<double> alone = losses_of(1);
  ASSERT_EQ(alone.size(), 2u);
  for (int ranks : {2, 4}) {
    const std::vector<double> together = losses_of(ranks);
    ASSERT_EQ(together.size(), alone.size());
    EXPECT_NEAR(together[0], alone[0], 1e-6) << ranks;
    EXPECT_NEAR(together[1], alone[1], 1e-2) << ranks;
  }
}

TEST_F(RanksMpi, ShardedEvaluationSeesEveryPictureOnce) {
  const Result trained = run_on(3, small());
  ASSERT_EQ(trained.code, 0) << trained.output;
  EXPECT_NE(trained.output.find(", 41 pictures; "), std::string::npos) << trained.output;
  static const std::regex trained_top1("epoch 2/2: integer-program top-1 ([0-9.]+) %"),
      top1("integer-program top-1 ([0-9.]+) %");
  std::smatch sharded, whole;
  ASSERT_TRUE(std::regex_search(trained.output, sharded, trained_top1)) << trained.output;
  const Result evaluated = run({"eval", path("runs/run")});
  ASSERT_TRUE(std::regex_search(evaluated.output, whole, top1)) << evaluated.output;
  EXPECT_EQ(sharded[1], whole[1]);
}

TEST_F(RanksMpi, ALostRankEndsTheJobAndTheRunGoesOnBitForBit) {
  ASSERT_EQ(run_on(2, small({}, "whole")).code, 0);
  const Result killed = run_on(2, small({"--simulate", "rank_killed@step=5", "--resume=auto"}));
  EXPECT_FAILS(killed, 7, "rank 1 of 2", "step 5", "is lost");
  EXPECT_NE(status().find("\"exit_code\": 7"), std::string::npos) << status();
  const Result thrown = run_on(2, small({"--simulate", "rank_throws@save", "--resume=auto"}));
  EXPECT_FAILS(thrown, 7, "rank 1 of 2", "saving", "simulated");
  const Result last = run_on(2, small({"--resume=must"}));
  ASSERT_EQ(last.code, 0) << last.output;
  EXPECT_NE(last.output.find("continuing after step "), std::string::npos) << last.output;
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
}

TEST_F(RanksMpi, AHangingRankEndsTheJobWithinTheTimeout) {
  const auto start = std::chrono::steady_clock::now();
  const Result hung =
      run_on(2, small({"--simulate", "rank_hung@step=2", "distributed.timeout=15"}));
  EXPECT_FAILS(hung, 7, "rank 1 of 2", "step 2", "hangs", "distributed.timeout");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(300));
}

TEST_F(RanksMpi, AStoppedRankIsNamedToo) {
  const Result stopped =
      run_on(3, small({"--simulate", "rank_stopped@eval", "distributed.timeout=15"}));
  EXPECT_FAILS(stopped, 7, "rank 2 of 3", "evaluation", "does not answer");
}

// As Slurm suspends a job for another one: time that nobody had is nobody's delay. The first rank
// waits for the second when both are stopped, and wakes up before it.
TEST_F(RanksMpi, AJobThatWasSuspendedForLongerThanTheTimeoutGoesOn) {
  using std::chrono::milliseconds;
  const pid_t process = start_on(2, small({"data.train_images=2400", "distributed.timeout=10"}));
  wait_for_lines(process, 2);
  const std::vector<pid_t> ranks = rank_processes();
  if (ranks.size() != 2) kill(process, SIGTERM);
  ASSERT_EQ(ranks.size(), 2u);
  kill(ranks[1], SIGSTOP);
  std::this_thread::sleep_for(milliseconds(1000));
  kill(ranks[0], SIGSTOP);
  std::this_thread::sleep_for(milliseconds(21000));
  const size_t lines = lines_written();
  kill(ranks[0], SIGCONT);
  std::this_thread::sleep_for(milliseconds(1000));
  kill(ranks[1], SIGCONT);
  const Result result = wait(process);
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_GT(lines_written(), lines);
}

TEST_F(RanksMpi, ARankThatLeavesBeforeTheFirstStepEndsTheJob) {
  EXPECT_FAILS(run_on(2, small({"--simulate", "rank_exits@init"})), 7, "a rank was lost");
}

TEST_F(RanksMpi, SignalsStopAllRanksAtOneStep) {
  // So long that a signal cannot come after the end.
  const std::vector<std::string> longer = {"data.train_images=600", "checkpoint.every_steps=0"};
  std::vector<std::string> resumed = longer;
  resumed.push_back("--resume=auto");
  ASSERT_EQ(run_on(2, small(longer, "whole")).code, 0);
  for (int signal : {SIGUSR1, SIGUSR2, SIGTERM}) {
    const size_t lines = lines_written();
    const pid_t process = start_on(2, small(resumed));
    wait_for_lines(process, lines + 2);
    kill(process, signal);
    const Result result = wait(process);
    EXPECT_EQ(result.code, 75) << result.output;
    EXPECT_NE(status().find("\"stopped\""), std::string::npos) << status();
  }
  ASSERT_EQ(run_on(2, small(resumed)).code, 0);
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
}

TEST_F(RanksMpi, ASignalStopsAllRanksWithinAnEvaluation) {
  const std::vector<std::string> pictures = {"data.test_images=6000", "checkpoint.every_steps=0"};
  ASSERT_EQ(run_on(2, small(pictures, "whole")).code, 0);
  std::vector<std::string> slow = pictures;
  slow.insert(slow.end(), {"eval.batch=2", "--resume=auto"});
  const pid_t process = start_on(2, small(slow));
  wait_for_lines(process, 4);  // of the float phase
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  kill(process, SIGUSR2);
  const Result result = wait(process);
  EXPECT_EQ(result.code, 75) << result.output;
  EXPECT_NE(result.output.find("stopped by SIGUSR2 after step 4"), std::string::npos)
      << result.output;
  EXPECT_EQ(read(path("runs/run/metrics.jsonl")).find("eval/"), std::string::npos);
  std::vector<std::string> rest = pictures;
  rest.push_back("--resume=must");
  ASSERT_EQ(run_on(2, small(rest)).code, 0);
  EXPECT_TRUE(final_bytes() == final_bytes("whole"));
}

// Gradients in f32: rounded to bf16, as some CPUs do, sums in another order come apart faster.
TEST_F(RanksMpi, AnotherNumberOfRanksGoesOnWithTheSamePictures) {
  const std::vector<std::string> sync = {"distributed.sync_batchnorm=true", "--resume=auto",
                                         "train.backward=f32"};
  ASSERT_EQ(run(small({"train.backward=f32"}, "r1")).code, 0);
  std::vector<std::string> first = sync;
  first.insert(first.end(), {"--max-time", "0s"});
  for (int i = 0; i < 2; ++i) ASSERT_EQ(run_on(2, small(first)).code, 75);
  const Result rest = run_on(3, small(sync));
  ASSERT_EQ(rest.code, 0) << rest.output;
  EXPECT_NE(rest.output.find("number of processes is 2, this run's is 3"), std::string::npos)
      << rest.output;
  const std::vector<double> alone = losses("r1"), together = losses("run");
  ASSERT_EQ(together.size(), alone.size());
  expect_near(together, alone, 4);
}

TEST_F(RanksMpi, NaNStopsAllRanksWithOneMessage) {
  const Result result = run_on(2, small({"train.float.lr=1e30"}));
  EXPECT_FAILS(result, 5, "is not finite");
  EXPECT_EQ(count_of("is not finite", result.output), 1u) << result.output;
}

// Two programs under one mpirun: as a machine with another config, another version or a data set
// that lacks a file, or with another processor.
TEST_F(RanksMpi, RanksThatAreNotStartedAlikeAreRefused) {
  const auto with_second = [&](const std::vector<std::string>& more, const std::string& isa = "") {
    std::vector<std::string> words = {"mpirun", "--oversubscribe", "-np", "1", program_path()};
    const auto one = small(), other = small(more);
    words.insert(words.end(), one.begin(), one.end());
    words.insert(words.end(), {":", "-np", "1"});
    if (!isa.empty()) words.insert(words.end(), {"-x", "QATTRAIN_MAX_ISA=" + isa});
    words.push_back(program_path());
    return wait(start_command(words, other));
  };
  EXPECT_FAILS(with_second({"--seed", "7"}), 2, "train.seed is 1 on rank 0 and 7 on rank 1");
  EXPECT_FAILS(with_second({"distributed.wire=bf16"}), 2, "distributed.wire is f32 on rank 0");
  EXPECT_FAILS(with_second({"checkpoint.every_steps=5"}), 2, "checkpoint.every_steps is 3");
  EXPECT_FAILS(with_second({"--overfit-batches", "2"}), 2, "--overfit-batches is not given");
  EXPECT_FAILS(with_second({"data.seed=9"}), 2, "data.seed is 0");
  EXPECT_EQ(with_second({"data.workers=0", "data.prefetch=3"}, "sse41").code, 0)
      << "of a rank's own";
  const std::string state = read(last_checkpoint() / "state.json");
  static const std::regex both("\"isa\": *\"[a-z0-9_]+, sse41\"");
  EXPECT_TRUE(std::regex_search(state, both)) << state;
}

TEST_F(RanksMpi, AnMpiThatDoesNotKnowTheLaunchersProcessesIsRefused) {
  const Result alone = wait(start_command(
      {"env", "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK=0", program_path()}, small()));
  EXPECT_FAILS(alone, 2, "started 2 processes", "knows of 1");
}

TEST_F(RanksMpi, ConfigErrorsAreSaidOnce) {
  const Result unknown = run_on(2, small({"train.bacth=3"}));
  EXPECT_FAILS(unknown, 2, "unknown key 'train.bacth'");
  EXPECT_EQ(count_of("unknown key", unknown.output), 1u) << unknown.output;
  EXPECT_FAILS(run_on(2, small({"train.batch=1"})), 2, "at least one sample for each of 2 ranks");
  EXPECT_FAILS(run_on(2, {"eval", "runs/x"}), 2, "is for one process");
  EXPECT_FAILS(run(small({"--simulate", "rank_killed@step=1"})), 2, "--simulate");
  EXPECT_FAILS(run_on(2, small({"--simulate", "rank_eaten@step=1"})), 2, "rank_killed");
}

}  // namespace
}  // namespace qt::program
