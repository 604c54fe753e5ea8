// train/simulation.cpp -- what befalls the last rank.
#include "train/simulation.h"

#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <thread>

namespace qt {
namespace {

constexpr int unusual_exit_code = 113;  // none of qattrain's

}  // namespace

Simulation simulation_from(const std::string& text) {
  const auto refuse = [&] {
    return ConfigError(
        "--simulate " + text +
        ": allowed are rank_killed, rank_stopped, rank_hung, rank_exits, "
        "rank_throws, each with @init, @step=N, @eval or @save, and rank_differs with "
        "@step=N");
  };
  using Accident = Simulation::Accident;
  using Place = Simulation::Place;
  const size_t at = text.find('@');
  if (at == std::string::npos) throw refuse();
  const std::string what = text.substr(0, at), where = text.substr(at + 1);
  Simulation simulation{};
  if (what == "rank_killed")
    simulation.accident = Accident::killed;
  else if (what == "rank_stopped")
    simulation.accident = Accident::stopped;
  else if (what == "rank_hung")
    simulation.accident = Accident::hung;
  else if (what == "rank_exits")
    simulation.accident = Accident::exits;
  else if (what == "rank_throws")
    simulation.accident = Accident::throws;
  else if (what == "rank_differs" && where.starts_with("step="))
    simulation.accident = Accident::differs;
  else
    throw refuse();
  if (where == "init") {
    simulation.place = Place::init;
  } else if (where == "eval") {
    simulation.place = Place::eval;
  } else if (where == "save") {
    simulation.place = Place::save;
  } else {
    simulation.place = Place::step;
    const std::string_view number =
        std::string_view(where).substr(std::min<size_t>(5, where.size()));
    const auto [end, error] =
        std::from_chars(number.data(), number.data() + number.size(), simulation.step);
    if (!where.starts_with("step=") || error != std::errc{} ||
        end != number.data() + number.size() || simulation.step < 1)
      throw refuse();
  }
  return simulation;
}

bool meet(const std::optional<Simulation>& simulation, const Communicator& ranks,
          Simulation::Place place, int64_t step) {
  using Accident = Simulation::Accident;
  if (!simulation || simulation->place != place || ranks.rank() != ranks.world() - 1) return false;
  if (place == Simulation::Place::step && simulation->step != step) return false;
  switch (simulation->accident) {
    case Accident::killed: raise(SIGKILL); break;
    case Accident::stopped: raise(SIGSTOP); break;
    case Accident::hung:
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    case Accident::exits: _exit(unusual_exit_code);
    case Accident::throws: throw InternalError("simulated");
    case Accident::differs: return true;
  }
  return false;
}

}  // namespace qt
