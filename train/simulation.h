// train/simulation.h -- accidents on purpose: how a cluster reacts to a lost rank can be seen
// before one is lost.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "core/comm/communicator.h"

namespace qt {

// It befalls the last rank.
struct Simulation {
  enum class Accident { killed, stopped, hung, exits, throws, differs };
  enum class Place { init, step, eval, save };
  Accident accident;
  Place place;
  int64_t step = 0;  // counted from 1
};

// "rank_killed@step=100"; rank_killed (SIGKILL), rank_stopped (SIGSTOP), rank_hung, rank_exits,
// rank_throws, @init, @step=N, @eval, @save; rank_differs@step=N. ConfigError otherwise.
Simulation simulation_from(const std::string& text);

// Lets it happen where this is the rank, the place and the step. True where it is the caller's to
// do: a bit of a weight flips (flip_a_bit), as memory that errs lets it.
bool meet(const std::optional<Simulation>& simulation, const Communicator& ranks,
          Simulation::Place place, int64_t step = 0);

}  // namespace qt
