// tests/distributed/launch_test.cpp -- what is read from the environments of launchers, and which
// GPU of its machine a rank takes.
#include "distributed/launch.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "distributed/gpu_communicator.h"

namespace qt {
namespace {

// Variables of launchers, gone at the end of a test. None are there where tests are not themselves
// started by a launcher.
class LaunchersEnvironment : public ::testing::Test {
 protected:
  void TearDown() override {
    for (const char* name : names_) unsetenv(name);
  }
  void set(const char* name, const char* value) {
    setenv(name, value, 1);
    names_.push_back(name);
  }

 private:
  std::vector<const char*> names_;
};

TEST_F(LaunchersEnvironment, NumbersARankAmongThoseOfItsMachine) {
  EXPECT_EQ(launched_local_rank(), -1);
  set("SLURM_LOCALID", "2");
  EXPECT_EQ(launched_local_rank(), -1) << "of the batch script: srun did not start this process";
  set("SLURM_STEP_NUM_TASKS", "4");
  EXPECT_EQ(launched_local_rank(), 2);
  set("MPI_LOCALRANKID", "3");
  EXPECT_EQ(launched_local_rank(), 3);
  set("OMPI_COMM_WORLD_LOCAL_RANK", "1");
  EXPECT_EQ(launched_local_rank(), 1) << "mpirun within a job of Slurm's";
}

TEST_F(LaunchersEnvironment, SaysWhichLauncherItWas) {
  EXPECT_EQ(launcher(), "");
  set("SLURM_STEP_NUM_TASKS", "1");
  EXPECT_EQ(launcher(), "") << "one process";
  set("SLURM_STEP_NUM_TASKS", "2");
  EXPECT_EQ(launcher(), "Slurm's srun");
  set("PMI_SIZE", "2");
  EXPECT_EQ(launcher(), "an MPICH-style launcher");
  set("PMI_RANK", "1");
  EXPECT_EQ(launched_rank(), 1);
}

TEST(LocalRank, IsTheLaunchersNumberWhereThatCanBe) {
  const std::vector<std::string> hosts{"a", "b", "a", "b"};
  EXPECT_EQ(local_rank(hosts, {1, 1, 0, 0}, 0), 1);
  EXPECT_EQ(local_rank(hosts, {1, 1, 0, 0}, 3), 0);
}

TEST(LocalRank, IsCountedWhereTheLauncherDoesNotSay) {
  const std::vector<std::string> hosts{"a", "b", "a", "b", "b"};
  EXPECT_EQ(local_rank(hosts, {0, 0, 1, -1, 1}, 4), 2) << "one rank was not told";
  EXPECT_EQ(local_rank(hosts, {0, 0, 0, 0, 0}, 2), 1) << "all were told the same";
  EXPECT_EQ(local_rank(hosts, {0, 0, 0, 0, 0}, 1), 0);
}

}  // namespace
}  // namespace qt
