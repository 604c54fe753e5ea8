// train/signals.cpp -- handlers that only set a flag.
#include "train/signals.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <charconv>
#include <csignal>

#include "core/base/error.h"

namespace qt {
namespace {

constexpr std::array<int, 5> watched = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
// What these would end the process for is an error of the write that follows.
constexpr std::array<int, 2> ignored = {SIGPIPE, SIGXFSZ};
// A handler can reach nothing but a global, and any thread may run it.
std::atomic<int> received = 0;
static_assert(std::atomic<int>::is_always_lock_free);

void note_signal(int signal) {
  if (signal == SIGINT && received == SIGINT) _exit(128 + SIGINT);
  received = signal;
}

const char* name_of_signal(int signal) {
  switch (signal) {
    case SIGTERM: return "SIGTERM";
    case SIGINT: return "SIGINT";
    case SIGHUP: return "SIGHUP";
    case SIGUSR1: return "SIGUSR1";
    default: return "SIGUSR2";
  }
}

}  // namespace

StopRequests::StopRequests(std::optional<double> seconds_allowed) {
  if (seconds_allowed) allow(*seconds_allowed);
  received = 0;
  struct sigaction action {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (int signal : watched) {
    struct sigaction before {};
    sigaction(signal, nullptr, &before);
    const bool nohup = signal == SIGHUP && before.sa_handler == SIG_IGN;
    if (!nohup) sigaction(signal, &action, nullptr);
  }
  for (int signal : ignored) std::signal(signal, SIG_IGN);
}

void StopRequests::allow(double seconds) {
  deadline_ = std::chrono::steady_clock::now() +
              std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                  std::chrono::duration<double>(seconds));
}

// Who was asked to stop is on its way out: a second request, which launchers send to the ranks that
// end later, must not turn a clean exit into a kill.
StopRequests::~StopRequests() {
  if (received == 0)
    for (int signal : watched) std::signal(signal, SIG_DFL);
  for (int signal : ignored) std::signal(signal, SIG_DFL);
}

std::string StopRequests::signal() const { return received != 0 ? name_of_signal(received) : ""; }

std::string StopRequests::reason() const {
  if (received != 0) return signal();
  if (deadline_ && std::chrono::steady_clock::now() >= *deadline_) return "--max-time";
  return "";
}

double seconds_of(const std::string& duration) {
  const auto refuse = [&] {
    return ConfigError("'" + duration +
                       "' is no duration; write for example 3h50m, 90s, 1d or 600 (seconds)");
  };
  double total = 0;
  const char *at = duration.data(), *end = at + duration.size();
  if (at == end) throw refuse();
  while (at != end) {
    double number = 0;
    const auto [next, error] = std::from_chars(at, end, number);
    if (error != std::errc{} || !(number >= 0)) throw refuse();
    const char unit = next == end ? 's' : *next;
    at = next == end ? next : next + 1;
    switch (unit) {
      case 's': total += number; break;
      case 'm': total += number * 60; break;
      case 'h': total += number * 3600; break;
      case 'd': total += number * 86400; break;
      default: throw refuse();
    }
  }
  if (!(total < 1e9)) throw refuse();
  return total;
}

}  // namespace qt
