// train/signals.h -- requests to stop: SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2 and the end of the
// allowed time.
#pragma once
#include <chrono>
#include <optional>
#include <string>

namespace qt {

// While alive these signals only set a flag; a second SIGINT ends the process at once. SIGHUP stays
// ignored where it was (nohup). A closed pipe and a file that may not grow are errors of whoever
// writes (SIGPIPE and SIGXFSZ are ignored).
class StopRequests {
 public:
  explicit StopRequests(std::optional<double> seconds_allowed = {});
  void allow(double seconds);  // from now on
  ~StopRequests();
  StopRequests(const StopRequests&) = delete;
  StopRequests& operator=(const StopRequests&) = delete;

  // "SIGTERM", "--max-time"; "" while nobody asked.
  std::string reason() const;
  std::string signal() const;  // of signals alone
  bool stop() const { return !reason().empty(); }

 private:
  std::optional<std::chrono::steady_clock::time_point> deadline_;
};

// "3h50m", "90s", "1d", "45m30s", "600" (seconds). ConfigError otherwise.
double seconds_of(const std::string& duration);

}  // namespace qt
