// train/progress.cpp -- rates, durations and the layout of the progress line.
#include "train/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>

namespace qt {
namespace {

constexpr double terminal_interval = 0.2;
constexpr double samples_per_window = 200;

template <class... Values>
std::string format(const char* pattern, Values... values) {
  std::array<char, 128> text{};
  std::snprintf(text.data(), text.size(), pattern, values...);
  return text.data();
}

std::string memory_text(uint64_t bytes) {
  const double gigabytes = double(bytes) / double(uint64_t(1) << 30);
  if (gigabytes >= 1) return format("%.1fG", gigabytes);
  return format("%.0fM", double(bytes) / double(1 << 20));
}

// The time of day; with the day where it is not within 24 hours.
std::string time_text(std::time_t now, double seconds) {
  const std::time_t end = now + std::time_t(std::llround(seconds));
  std::tm parts{};
  localtime_r(&end, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), seconds < 86400 ? "%H:%M" : "%a %d %b %H:%M", &parts);
  return text.data();
}

}  // namespace

void RemainingTime::step_done(int64_t done, double now, double data_wait) {
  done_ = done;
  if (done - options_.first_step < options_.warmup_steps) return;
  const bool first = samples_.empty();
  if (!first) data_wait_ += data_wait;
  const Sample sample{done, now - paused_, data_wait_};
  // Close samples are merged into the newest, so that the window holds a bounded number whatever
  // the speed.
  if (samples_.size() >= 2 &&
      sample.time - samples_[samples_.size() - 2].time < options_.window / samples_per_window)
    samples_.back() = sample;
  else
    samples_.push_back(sample);
  while (samples_.size() > 2 && sample.time - samples_[1].time >= options_.window)
    samples_.pop_front();
}

void RemainingTime::pause_ends(double now, bool recurs) {
  paused_ += now - pause_began_;
  if (recurs) paused_at_epoch_ends_ += now - pause_began_;
}

std::optional<double> RemainingTime::steps_per_second() const {
  if (samples_.size() < 2) return {};
  const double seconds = samples_.back().time - samples_.front().time;
  if (seconds <= 0) return {};
  return double(samples_.back().step - samples_.front().step) / seconds;
}

std::optional<double> RemainingTime::seconds_left() const {
  const auto rate = steps_per_second();
  if (!rate) return {};
  const int64_t per_epoch = std::max<int64_t>(options_.steps_per_epoch, 1);
  const int64_t ends_passed = done_ / per_epoch - options_.first_step / per_epoch;
  const int64_t ends_left = options_.total_steps / per_epoch - done_ / per_epoch;
  const double pause = ends_passed > 0 ? paused_at_epoch_ends_ / double(ends_passed) : 0;
  return double(options_.total_steps - done_) / *rate +
         pause * double(std::max<int64_t>(ends_left, 0));
}

double RemainingTime::data_share() const {
  if (samples_.size() < 2) return 0;
  const double seconds = samples_.back().time - samples_.front().time;
  if (seconds <= 0) return 0;
  return std::clamp((samples_.back().data_wait - samples_.front().data_wait) / seconds, 0.0, 1.0);
}

std::string duration_text(double seconds) {
  const long long s = std::llround(std::max(seconds, 0.0));
  if (s < 60) return format("%llds", s);
  if (s < 3600) return format("%lldm%02llds", s / 60, s % 60);
  if (s < 86400) return format("%lldh%02lldm", s / 3600, s % 3600 / 60);
  return format("%lldd%02lldh", s / 86400, s % 86400 / 3600);
}

std::string progress_text(const ProgressValues& v, std::time_t now) {
  std::string line = v.label.empty() ? "" : v.label + "  ";
  line += format("ep %lld/%lld", static_cast<long long>(v.epoch), static_cast<long long>(v.epochs));
  if (v.steps_per_epoch > 0)
    line += format(
        " %lld%% %lld/%lld", static_cast<long long>(100 * v.step_in_epoch / v.steps_per_epoch),
        static_cast<long long>(v.step_in_epoch), static_cast<long long>(v.steps_per_epoch));
  for (const auto& [name, value] : v.values) line += "  " + name + " " + format("%.3g", value);
  if (v.images_per_second) line += format("  %.0f img/s", *v.images_per_second);
  if (v.data_share) line += format("  data %.0f%%", 100 * *v.data_share);
  if (v.memory_bytes) line += "  mem " + memory_text(v.memory_bytes);
  if (v.seconds_left)
    line +=
        "  ETA " + duration_text(*v.seconds_left) + " (" + time_text(now, *v.seconds_left) + ")";
  return line;
}

ProgressLine::Options ProgressLine::on_stderr(double interval) {
  Options options;
  options.terminal = isatty(STDERR_FILENO) == 1;
  options.interval = interval;
  winsize size{};
  if (options.terminal && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0) options.width = size.ws_col;
  options.now = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  };
  options.wall_clock = [] { return std::time(nullptr); };
  options.write = [](const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
  };
  return options;
}

bool ProgressLine::due() const {
  return !last_ ||
         options_.now() - *last_ >= (options_.terminal ? terminal_interval : options_.interval);
}

void ProgressLine::show(const ProgressValues& values) {
  last_ = options_.now();
  print(progress_text(values, options_.wall_clock()));
}

void ProgressLine::print(const std::string& line) {
  if (!options_.terminal) return options_.write(line + "\n");
  // One column stays free: a full line would wrap, and \r reaches the last row only.
  const bool cut = options_.width > 1 && line.size() >= size_t(options_.width);
  options_.write("\r" + (cut ? line.substr(0, size_t(options_.width - 1)) : line) + "\x1b[K");
  visible_ = true;
}

void ProgressLine::clear() {
  if (visible_) options_.write("\r\x1b[K");
  visible_ = false;
}

void ProgressLine::finish() {
  if (visible_) options_.write("\n");
  visible_ = false;
}

}  // namespace qt
