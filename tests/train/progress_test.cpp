// tests/train/progress_test.cpp -- the progress line's text, rates and remaining time, on clocks of
// the test's own.
#include "train/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace qt {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class ProgressTexts : public testing::Test {
 protected:
  ProgressTexts() {
    setenv("TZ", "UTC", 1);
    tzset();
  }
  ~ProgressTexts() override {
    unsetenv("TZ");
    tzset();
  }
  static constexpr std::time_t half_past_three = 1700000000 / 86400 * 86400 + 15 * 3600 + 28 * 60;
};

ProgressValues example() {
  ProgressValues v;
  v.epoch = 12, v.epochs = 90;
  v.step_in_epoch = 465, v.steps_per_epoch = 1251;
  v.values = {{"loss", 2.3081}, {"top1", 48.93}, {"lr", 0.08741}};
  v.images_per_second = 2911.4;
  v.data_share = 0.031;
  v.memory_bytes = uint64_t(9.1 * (1 << 30));
  v.seconds_left = 6 * 3600 + 12 * 60 + 5;
  return v;
}

TEST_F(ProgressTexts, IsTheDocumentedLine) {
  EXPECT_EQ(
      progress_text(example(), half_past_three),
      "ep 12/90 37% 465/1251  loss 2.31  top1 48.9  lr 0.0874  2911 img/s  data 3%  mem 9.1G  "
      "ETA 6h12m (21:40)");
}

TEST_F(ProgressTexts, LeavesOutWhatIsNotKnown) {
  ProgressValues v;
  v.label = "float";
  v.epochs = 3;
  EXPECT_EQ(progress_text(v, 0), "float  ep 1/3");
  v.memory_bytes = 300 << 20;
  EXPECT_EQ(progress_text(v, 0), "float  ep 1/3  mem 300M");
}

TEST_F(ProgressTexts, ADistantEndNamesTheDay) {
  ProgressValues v;
  v.seconds_left = 86400 * 2 + 3600;
  EXPECT_THAT(progress_text(v, 0), HasSubstr("ETA 2d01h (Sat 03 Jan 01:00)"));
}

TEST_F(ProgressTexts, DurationsHaveTwoUnits) {
  EXPECT_EQ(duration_text(0), "0s");
  EXPECT_EQ(duration_text(-3), "0s");
  EXPECT_EQ(duration_text(59.4), "59s");
  EXPECT_EQ(duration_text(59.6), "1m00s");
  EXPECT_EQ(duration_text(725), "12m05s");
  EXPECT_EQ(duration_text(3600), "1h00m");
  EXPECT_EQ(duration_text(22345), "6h12m");
  EXPECT_EQ(duration_text(86400 * 3 + 4 * 3600), "3d04h");
}

RemainingTime::Options options(int64_t first, int64_t total, int64_t per_epoch = 1000) {
  RemainingTime::Options o;
  o.first_step = first, o.total_steps = total, o.steps_per_epoch = per_epoch;
  o.warmup_steps = 5, o.window = 120;
  return o;
}

TEST(RemainingTime, IsUnknownBeforeTheFirstSteadyStep) {
  RemainingTime time(options(0, 100));
  for (int step = 1; step <= 5; ++step) {
    time.step_done(step, step);
    EXPECT_FALSE(time.seconds_left());
  }
  time.step_done(6, 6);
  EXPECT_DOUBLE_EQ(*time.seconds_left(), 94);
}

TEST(RemainingTime, LeavesOutTheSlowFirstSteps) {
  RemainingTime time(options(0, 100));
  double now = 0;
  for (int step = 1; step <= 20; ++step) time.step_done(step, now += step <= 5 ? 30 : 2);
  EXPECT_DOUBLE_EQ(*time.steps_per_second(), 0.5);
  EXPECT_DOUBLE_EQ(*time.seconds_left(), 160);
}

TEST(RemainingTime, IsRightAfterAResume) {
  RemainingTime time(options(900, 1000));
  double now = 5000;
  for (int step = 901; step <= 910; ++step) time.step_done(step, now += step <= 905 ? 60 : 3);
  EXPECT_DOUBLE_EQ(*time.seconds_left(), 90 * 3) << "steps of the process before count for nothing";
}

TEST(RemainingTime, FollowsAChangeOfSpeedWithinTheWindow) {
  RemainingTime time(options(0, 10000));
  double now = 0;
  int step = 0;
  while (step < 500) time.step_done(++step, now += 1);
  while (step < 640) time.step_done(++step, now += 2);
  EXPECT_NEAR(*time.steps_per_second(), 0.5, 1e-9);
}

TEST(RemainingTime, KeepsTheRateOfVeryShortSteps) {
  RemainingTime time(options(0, 1'000'000));
  double now = 0;
  for (int step = 1; step <= 300'000; ++step) time.step_done(step, now += 0.001);
  EXPECT_NEAR(*time.steps_per_second(), 1000, 1e-3);
  EXPECT_NEAR(*time.seconds_left(), 700, 1e-3);
}

TEST(RemainingTime, CountsPausesPerEpochAndNotInTheRate) {
  RemainingTime time(options(0, 50, 10));
  double now = 0;
  for (int step = 1; step <= 20; ++step) {
    time.step_done(step, now += 1);
    if (step % 10) continue;
    time.pause_begins(now);
    now += 7;
    time.pause_ends(now);
  }
  EXPECT_DOUBLE_EQ(*time.steps_per_second(), 1);
  EXPECT_DOUBLE_EQ(*time.seconds_left(), 30 + 3 * 7);
}

TEST(RemainingTime, ReachesZero) {
  RemainingTime time(options(0, 10, 10));
  for (int step = 1; step <= 10; ++step) time.step_done(step, step);
  EXPECT_DOUBLE_EQ(*time.seconds_left(), 0);
}

TEST(RemainingTime, KnowsTheShareOfWaitingForData) {
  RemainingTime time(options(0, 100));
  EXPECT_EQ(time.data_share(), 0);
  for (int step = 1; step <= 25; ++step) time.step_done(step, step, step <= 5 ? 0.9 : 0.25);
  EXPECT_DOUBLE_EQ(time.data_share(), 0.25);
}

class ProgressLines : public testing::Test {
 protected:
  ProgressLine line(bool terminal, int width = 0) {
    ProgressLine::Options o;
    o.terminal = terminal, o.width = width;
    o.now = [this] { return now_; };
    o.wall_clock = [] { return std::time_t(0); };
    o.write = [this](const std::string& text) { written_.push_back(text); };
    return ProgressLine(o);
  }
  // Which of the times 0, step, 2 step ... below `end` a line is due at, showing it then.
  std::vector<double> shown_at(ProgressLine& line, double step, double end) {
    std::vector<double> times;
    for (int i = 0; i * step < end; ++i) {
      now_ = i * step;
      if (!line.due()) continue;
      times.push_back(now_);
      line.show(ProgressValues());
    }
    return times;
  }
  double now_ = 0;
  std::vector<std::string> written_;
};

TEST_F(ProgressLines, APlainLineComesEveryTenSeconds) {
  ProgressLine plain = line(false);
  EXPECT_THAT(shown_at(plain, 2.5, 31), ElementsAre(0, 10, 20, 30));
  EXPECT_EQ(written_[0], "ep 1/1\n");
  plain.clear();
  plain.finish();
  EXPECT_EQ(written_.size(), 4u) << "nothing to clear or to end away from a terminal";
}

TEST_F(ProgressLines, ATerminalIsRewrittenInPlaceAtMostFiveTimesASecond) {
  ProgressLine terminal = line(true);
  EXPECT_THAT(shown_at(terminal, 0.0625, 1), ElementsAre(0, 0.25, 0.5, 0.75));
  EXPECT_EQ(written_[0], "\rep 1/1\x1b[K");
  terminal.clear();
  EXPECT_EQ(written_.back(), "\r\x1b[K");
  terminal.clear();
  EXPECT_EQ(written_.size(), 5u);
  terminal.show(ProgressValues());
  terminal.finish();
  EXPECT_EQ(written_.back(), "\n");
}

TEST_F(ProgressLines, ANarrowTerminalCutsTheLineSoThatItDoesNotWrap) {
  ProgressLine terminal = line(true, 6);
  terminal.show(ProgressValues());
  EXPECT_EQ(written_[0], "\rep 1/\x1b[K");
}

}  // namespace
}  // namespace qt
