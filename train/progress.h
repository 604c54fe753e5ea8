// train/progress.h -- the line that says how far training is and when it will be done.
//
//   ep 12/90 37% 465/1251  loss 2.31  lr 0.0874  2911 img/s  data 3%  mem 9.1G  ETA 6h12m (21:40)
#pragma once
#include <cstdint>
#include <ctime>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace qt {

// How long the rest of a run takes, from the steps of this process only. Times in seconds on any
// steady clock.
//
// The rate is that of the last `window` seconds, without the first `warmup_steps` (first touches,
// tuning) and without pauses. Pauses (evaluation, saving) are counted apart: seconds per epoch end
// passed, times the epoch ends to come.
class RemainingTime {
 public:
  struct Options {
    int64_t first_step = 0;  // steps done before this process started: 0, or the resumed step
    int64_t total_steps = 0;
    int64_t steps_per_epoch = 1;
    int64_t warmup_steps = 5;
    double window = 120;
  };
  explicit RemainingTime(const Options& options) : options_(options) {}

  // Step number `done` (1 = the run's first) has just ended. `data_wait`: seconds it waited for
  // input.
  void step_done(int64_t done, double now, double data_wait = 0);
  void pause_begins(double now) { pause_began_ = now; }
  void pause_ends(double now, bool recurs = true);  // recurs: at every epoch's end

  std::optional<double> steps_per_second() const;  // nothing before the second step after warm-up
  std::optional<double> seconds_left() const;
  double data_share() const;  // 0 to 1, of the time in the window

 private:
  struct Sample {
    int64_t step;
    double time;       // pauses taken out
    double data_wait;  // since the start
  };
  Options options_;
  std::deque<Sample> samples_;
  double paused_ = 0, paused_at_epoch_ends_ = 0, pause_began_ = 0, data_wait_ = 0;
  int64_t done_ = 0;
};

// What one line shows; what is empty or zero is left out.
struct ProgressValues {
  std::string label;              // "float", "qat": the phase
  int64_t epoch = 1, epochs = 1;  // counted from 1
  int64_t step_in_epoch = 0, steps_per_epoch = 0;
  std::vector<std::pair<std::string, double>>
      values;  // loss, top1, lr: in this order, three digits
  std::optional<double> images_per_second;
  std::optional<double> data_share;  // 0 to 1
  uint64_t memory_bytes = 0;
  std::optional<double> seconds_left;
};

std::string progress_text(const ProgressValues& values,
                          std::time_t now);  // the end's local time in the brackets
std::string duration_text(double seconds);   // 45s, 12m05s, 6h12m, 3d04h

// Shows lines: on a terminal in place, at most 5 a second; otherwise one every `interval` seconds.
//
//   if (line.due()) line.show(values);
class ProgressLine {
 public:
  struct Options {
    bool terminal = false;
    double interval = 10;                           // seconds between plain lines
    int width = 0;                                  // columns of the terminal; 0: never cut
    std::function<double()> now;                    // seconds on a steady clock
    std::function<std::time_t()> wall_clock;        // for the time of day at the end
    std::function<void(const std::string&)> write;  // receives what to print
  };
  // stderr, its terminal width, and the real clocks.
  static Options on_stderr(double interval = 10);

  explicit ProgressLine(const Options& options) : options_(options) {}
  bool due() const;  // false: a show() now would come too early; saves making the values
  void show(
      const ProgressValues& values);  // always shows; the last line of a run is not to be lost
  void clear();   // takes the line off a terminal, before something else is printed
  void finish();  // leaves the last line standing

 private:
  void print(const std::string& line);
  Options options_;
  std::optional<double> last_;
  bool visible_ = false;
};

}  // namespace qt
