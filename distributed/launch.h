// distributed/launch.h -- whether this process is one of several, and the communicator for it.
#pragma once
#include <memory>
#include <string>

#include "core/comm/communicator.h"

namespace qt {

// The launcher that started this process as one of several, for messages: "Open MPI's mpirun"; ""
// where none did.
std::string launcher();
// How many processes it started, as it says; -1 where it does not.
int launched_count();
// This process's number among those of the launcher, from its environment; 0 where unknown.
int launched_rank();
// Its number among those of its machine, as the launcher says; -1 where it does not.
int launched_local_rank();

// The communicator of all processes that the launcher started; `single` without a launcher. Then
// no MPI library is looked for. timeout: seconds that a rank may keep the others waiting.
// ConfigError where there is a launcher and MPI cannot be used, or knows of another number of
// processes: each would train alone.
std::unique_ptr<Communicator> make_communicator(double timeout);

// distributed/mpi.cpp, or distributed/no_mpi.cpp in builds without MPI.
std::unique_ptr<Communicator> make_mpi_communicator(double timeout);
// "MPI (module PATH)" or why there is none.
std::string mpi_description();

}  // namespace qt
