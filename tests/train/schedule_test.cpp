// tests/train/schedule_test.cpp -- learning rates step by step.
#include "train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qt {
namespace {

struct Root : Section {
  ScheduleConfig schedule{this, "schedule", "of the test"};
};

// yaml: the keys of the schedule in one line.
LearningRate rates(const std::string& yaml, double highest, int64_t steps_per_epoch,
                   int64_t steps) {
  Root root;
  load_config_text(root, "schedule: {" + yaml + "}\n", "test.yaml");
  return {root.schedule, highest, steps_per_epoch, steps};
}

TEST(Schedule, CosineIsPyTorchsCosineAnnealing) {
  const LearningRate lr = rates("kind: cosine, min_lr: 0.1", 1.1, 10, 100);
  EXPECT_DOUBLE_EQ(lr.at(0), 1.1);
  EXPECT_NEAR(lr.at(50), 0.6, 1e-12);
  EXPECT_NEAR(lr.at(25), 0.1 + 0.5 * (1 + std::sqrt(0.5)), 1e-12);
  EXPECT_GT(lr.at(99), 0.1);
  EXPECT_NEAR(lr.at(100), 0.1, 1e-12);
}

TEST(Schedule, WarmsUpInALineAndThenStartsAtTheTop) {
  const LearningRate lr = rates("kind: cosine, warmup_epochs: 2", 0.8, 10, 100);
  EXPECT_DOUBLE_EQ(lr.at(0), 0.04);
  EXPECT_DOUBLE_EQ(lr.at(9), 0.4);
  EXPECT_DOUBLE_EQ(lr.at(19), 0.8);
  EXPECT_DOUBLE_EQ(lr.at(20), 0.8);
  EXPECT_NEAR(lr.at(60), 0.4, 1e-12);
}

TEST(Schedule, StepsDownAtMilestonesCountedFromThePhasesStart) {
  for (const std::string warmup : {"", ", warmup_epochs: 1", ", warmup_epochs: 0.6"}) {
    const LearningRate lr = rates("kind: step, milestones: [3, 5], gamma: 0.5" + warmup, 1, 4, 40);
    EXPECT_DOUBLE_EQ(lr.at(11), 1);
    EXPECT_DOUBLE_EQ(lr.at(12), 0.5);
    EXPECT_DOUBLE_EQ(lr.at(19), 0.5);
    EXPECT_DOUBLE_EQ(lr.at(20), 0.25);
  }
}

TEST(Schedule, ConstantStays) {
  const LearningRate lr = rates("kind: constant", 0.3, 4, 40);
  for (int step : {0, 17, 39}) EXPECT_DOUBLE_EQ(lr.at(step), 0.3);
}

TEST(Schedule, AWarmUpLongerThanThePhaseOnlyWarmsUp) {
  const LearningRate lr = rates("warmup_epochs: 100", 1, 10, 20);
  EXPECT_DOUBLE_EQ(lr.at(0), 0.05);
  EXPECT_DOUBLE_EQ(lr.at(19), 1);
}

TEST(Schedule, UnknownKindsAreRefusedWithTheList) {
  Root root;
  try {
    load_config_text(root, "schedule: {kind: cosines}\n", "test.yaml");
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("constant, cosine, step"), std::string::npos) << e.what();
  }
}

TEST(Schedule, WhatCannotBeMeantIsRefusedByItsKey) {
  const auto refusal = [](const std::string& yaml) {
    Root root;
    load_config_text(root, "schedule: {" + yaml + "}\n", "test.yaml");
    try {
      check_schedule(root.schedule, 0.01, "train.qat");
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  const std::string above = refusal("min_lr: 0.02");
  EXPECT_NE(above.find("train.qat.schedule.min_lr"), std::string::npos) << above;
  EXPECT_NE(above.find("0.02 is above the highest, train.qat.lr = 0.01"), std::string::npos);
  EXPECT_NE(refusal("kind: step").find("schedule.milestones"), std::string::npos);
  for (const char* fine :
       {"min_lr: 0.01", "kind: step, milestones: [1]", "kind: constant, min_lr: 1"})
    EXPECT_EQ(refusal(fine), "accepted") << fine;
}

}  // namespace
}  // namespace qt
