// tests/distributed/communicator_test.cpp -- sums, gathers and broadcasts over ranks, and ranks
// that are lost.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cmath>

#include "distributed/launch.h"
#include "tests/support/memory_transport.h"

namespace qt {
namespace {

// Values of very different size, so that the order of additions shows.
Tensor values_of(int rank, int64_t count) {
  Tensor values = Tensor::empty({count}, DType::f32);
  for (int64_t i = 0; i < count; ++i)
    values.data<float>()[i] = float(std::sin(double(i * 7 + rank * 13 + 1)) *
                                    std::pow(10.0, double((i + rank * 3) % 9) - 4));
  return values;
}

std::vector<float> expected_sum(int world, int64_t count) {
  std::vector<double> sums(size_t(count), 0.0);
  for (int rank = 0; rank < world; ++rank) {
    const auto values = values_of(rank, count).to_vector<float>();
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += double(values[i]);
  }
  return {sums.begin(), sums.end()};
}

TEST(Communicator, SumsInTheOrderOfRanksOnAllRanks) {
  for (int world : {1, 2, 3, 5}) {
    for (int64_t count : {int64_t{1}, int64_t{2}, int64_t{1000}, int64_t{70001}}) {
      on_ranks(world, [&](Communicator& ranks) {
        const Tensor sum = values_of(ranks.rank(), count);
        ranks.start_sum(sum, Wire::f32, "test")->wait();
        EXPECT_EQ(sum.to_vector<float>(), expected_sum(world, count)) << world << " " << count;
      });
    }
  }
}

TEST(Communicator, SumsInHalfTheBytesWithRoundedContributions) {
  const int world = 3;
  const int64_t count = 257;
  std::vector<float> expected(size_t(count), 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0;
    for (int rank = 0; rank < world; ++rank)
      sum += double(float(BFloat16(values_of(rank, count).to_vector<float>()[size_t(i)])));
    expected[size_t(i)] = float(BFloat16(float(sum)));
  }
  on_ranks(world, [&](Communicator& ranks) {
    const Tensor sum = values_of(ranks.rank(), count);
    ranks.start_sum(sum, Wire::bf16, "test")->wait();
    EXPECT_EQ(sum.to_vector<float>(), expected);
  });
}

TEST(Communicator, KeepsManyOperationsApart) {
  on_ranks(4, [](Communicator& ranks) {
    std::vector<Tensor> sums;
    std::vector<std::unique_ptr<Pending>> pending;
    for (int64_t i = 0; i < 20; ++i) {
      sums.push_back(values_of(ranks.rank(), 100 + i));
      pending.push_back(ranks.start_sum(sums.back(), Wire::f32, "sum"));
      if (i % 5 == 0) {
        const double total = summed(ranks, {double(ranks.rank())}, "numbers")[0];
        EXPECT_EQ(total, 6);
      }
    }
    for (size_t i = 20; i-- > 0;) {
      pending[i]->wait();
      EXPECT_EQ(sums[i].to_vector<float>(), expected_sum(4, 100 + int64_t(i)));
      EXPECT_GE(pending[i]->finished(), pending[i]->started());
    }
  });
}

TEST(Communicator, GathersTextsAndBroadcastsFromTheFirst) {
  on_ranks(3, [](Communicator& ranks) {
    const std::string mine(size_t(ranks.rank()) * 3, char('a' + ranks.rank()));
    EXPECT_EQ(gathered(ranks, mine, "texts"), (std::vector<std::string>{"", "bbb", "cccccc"}));
    EXPECT_EQ(broadcasted(ranks, ranks.writes() ? "of the first" : "", "text"), "of the first");
    EXPECT_EQ(largest(ranks, {double(ranks.rank() % 2), -double(ranks.rank())}, "most"),
              (std::vector<double>{1, 0}));
  });
}

TEST(Communicator, AloneItChangesNothing) {
  const auto single = make_single_communicator();
  const Tensor values = values_of(0, 10), before = values.clone();
  single->start_sum(values, Wire::bf16, "test")->wait();
  EXPECT_EQ(values.to_vector<float>(), before.to_vector<float>());
  EXPECT_EQ(summed(*single, {1.5, 2}, "x"), (std::vector<double>{1.5, 2}));
  EXPECT_EQ(gathered(*single, "abc", "x"), std::vector<std::string>{"abc"});
  EXPECT_EQ(single->end_with(ExitCode::data, "").code, ExitCode::data);
}

// The text of the PeerError that rank 0 gets while the last rank does `last` instead of its part.
std::string text_of_loss(double timeout, const std::function<void(Communicator&)>& last) {
  std::string text;
  try {
    on_ranks(
        3,
        [&](Communicator& ranks) {
          ranks.note(12, "backward");
          if (ranks.rank() == 2) return last(ranks);
          try {
            summed(ranks, {1}, "the sum of gradients");
            ADD_FAILURE() << "nobody was missed";
          } catch (const PeerError& e) {
            if (ranks.rank() == 0) text = e.what();
            EXPECT_EQ(ranks.end_with(ExitCode::peer_lost, e.what()).code, ExitCode::peer_lost);
            throw;
          }
        },
        timeout);
    ADD_FAILURE() << "no error";
  } catch (const Error&) {
  }
  return text;
}

#define EXPECT_NAMES(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(Communicator, ARankThatHangsIsNamedWithItsStepAndOperation) {
  const std::string text = text_of_loss(1.0, [](Communicator& ranks) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    ranks.end_with(ExitCode::peer_lost, "woke up late");
    throw PeerError("late");
  });
  EXPECT_NAMES(text, "rank 2 of 3");
  EXPECT_NAMES(text, "step 12, backward, hangs");
  EXPECT_NAMES(text, "the sum of gradients");
}

// While the others work on their own, and before a launcher ends them: by the first that is left.
TEST(Communicator, ALossIsSaidAtOnceByTheFirstRankThatIsLeftAndNotAgain) {
  for (const int lost : {2, 0}) {
    std::mutex mutex;
    std::vector<std::string> said;
    const auto work = [&](Communicator& ranks) {
      if (ranks.rank() != lost)
        ranks.on_loss([&, rank = ranks.rank()](int64_t step, const std::string& message) {
          const std::lock_guard lock(mutex);
          said.push_back(std::to_string(rank) + " at " + std::to_string(step) + ": " + message);
        });
      EXPECT_EQ(summed(ranks, {1}, "numbers")[0], 3);
      ranks.note(12, "backward");
      ranks.check();
      if (ranks.rank() == lost) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2500));
        ranks.end_with(ExitCode::peer_lost, "woke up late");
        throw PeerError("late");
      }
      const auto sum = ranks.start_sum(Tensor::full({3}, 1.0f), Wire::f32, "a sum");
      std::string why;
      try {
        for (;; std::this_thread::sleep_for(std::chrono::milliseconds(1))) ranks.check();
      } catch (const PeerError& e) {
        why = e.what();
      }
      EXPECT_NAMES(why, "rank " + std::to_string(lost) + " of 3");
      EXPECT_FALSE(ranks.end_with(ExitCode::peer_lost, why).speaks) << ranks.rank();
      throw PeerError(why);
    };
    EXPECT_THROW(on_ranks(3, work, 1.0), PeerError);
    ASSERT_EQ(said.size(), 1u) << lost;
    EXPECT_EQ(said[0].substr(0, 9), std::string(lost == 0 ? "1" : "0") + " at 12: ");
    EXPECT_NAMES(said[0], "rank " + std::to_string(lost) + " of 3");
  }
}

TEST(CommunicatorDeathTest, AStartThatDoesNotEndEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto never = []() -> std::unique_ptr<Transport> {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  };
  EXPECT_EXIT(MessageCommunicator(never, "mpi", 1.0),
              testing::ExitedWithCode(int(ExitCode::peer_lost)),
              "error: the start of mpi takes more than 1 s");
}

// A GPU's collectives, for example: whoever does not take part is found as in the communicator's
// own operations.
TEST(Communicator, WorkElsewhereIsWatchedOver) {
  std::string text;
  const auto work = [&](Communicator& ranks) {
    { const auto soon_over = ranks.watch("work that all take part in"); }
    EXPECT_EQ(summed(ranks, {1}, "numbers")[0], 3);
    ranks.note(12, "backward");
    if (ranks.rank() == 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1500));
      ranks.end_with(ExitCode::peer_lost, "woke up late");
      throw PeerError("late");
    }
    const auto watched = ranks.watch("a sum on GPUs");
    try {
      for (;; std::this_thread::sleep_for(std::chrono::milliseconds(1))) watched->check();
    } catch (const PeerError& e) {
      if (ranks.rank() == 0) text = e.what();
      ranks.end_with(ExitCode::peer_lost, e.what());
      throw;
    }
  };
  EXPECT_THROW(on_ranks(3, work, 1.0), PeerError);
  EXPECT_NAMES(text, "rank 2 of 3");
  EXPECT_NAMES(text, "step 12, backward, hangs");
  EXPECT_NAMES(text, "a sum on GPUs");
}

TEST(Communicator, ARankThatFailsTellsTheOthersWhy) {
  const std::string text = text_of_loss(60, [](Communicator& ranks) {
    const auto ending = ranks.end_with(ExitCode::data, "cat.jpg is damaged");
    EXPECT_EQ(ending.code, ExitCode::peer_lost);
    EXPECT_TRUE(ending.speaks);
    throw DataError("cat.jpg is damaged");
  });
  EXPECT_NAMES(text, "rank 2 of 3");
  EXPECT_NAMES(text, "step 12, backward, failed: cat.jpg is damaged");
}

TEST(Communicator, TheSameErrorEverywhereKeepsItsCodeAndIsSaidOnce) {
  std::atomic<int> speakers = 0;
  EXPECT_THROW(on_ranks(3,
                        [&](Communicator& ranks) {
                          const auto ending = ranks.end_with(ExitCode::usage, "unknown key");
                          EXPECT_EQ(ending.code, ExitCode::usage);
                          if (ending.speaks) speakers += 1 + 10 * ranks.rank();
                          throw ConfigError("unknown key");
                        }),
               ConfigError);
  EXPECT_EQ(speakers, 1);
}

// A rank is silent for what this process could have heard, not for time in which it did not run.
TEST(Peers, AreForgivenTimeInWhichNobodyCouldBeHeard) {
  const auto exchange = std::make_shared<MemoryExchange>(2);
  MemoryTransport transport(exchange, 0);
  Peers peers(transport);
  peers.set_timeout(std::chrono::seconds(1));  // silent after 3 s
  EXPECT_FALSE(peers.is_silent(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(3200));
  EXPECT_TRUE(peers.is_silent(1));
  peers.forgive(Clock::now(), std::chrono::seconds(2));
  EXPECT_FALSE(peers.is_silent(1));
  peers.forgive(Clock::now(), std::chrono::hours(1));  // nobody is heard in the future
  std::this_thread::sleep_for(std::chrono::milliseconds(3200));
  EXPECT_TRUE(peers.is_silent(1));
}

TEST(FairThreads, DivideTheProcessorsOfEachHost) {
  const auto rank_on = [](const std::string& host, uint64_t processors) {
    Identity identity;
    std::memcpy(identity.host.data(), host.data(), host.size());
    identity.processors[0] = processors;
    return identity;
  };
  // Unbound ranks share; bound ones keep what they have. All have as many as those of the fullest
  // host.
  EXPECT_EQ(fair_threads({rank_on("a", 0xff), rank_on("a", 0xff)}), 4);
  EXPECT_EQ(fair_threads({rank_on("a", 0xff), rank_on("b", 0xff)}), 8);
  EXPECT_EQ(fair_threads({rank_on("b", 0xff), rank_on("a", 0xff), rank_on("a", 0xff)}), 4);
  EXPECT_EQ(fair_threads({rank_on("a", 0x0f), rank_on("a", 0xf0)}), 4);
  EXPECT_EQ(fair_threads({rank_on("a", 1), rank_on("a", 1), rank_on("a", 1)}), 1);
}

TEST(Launch, NeedsALauncherForMoreThanOneProcess) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "PMIX_RANK"})
    unsetenv(name);
  EXPECT_EQ(launcher(), "");
  EXPECT_STREQ(make_communicator(1)->name(), "single");
  setenv("OMPI_COMM_WORLD_SIZE", "1", 1);
  EXPECT_EQ(launcher(), "");
  setenv("OMPI_COMM_WORLD_SIZE", "4", 1);
  EXPECT_EQ(launcher(), "Open MPI's mpirun");
  unsetenv("OMPI_COMM_WORLD_SIZE");
}

}  // namespace
}  // namespace qt
