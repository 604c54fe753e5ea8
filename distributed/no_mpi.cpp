// distributed/no_mpi.cpp -- stands in for distributed/mpi.cpp in builds without MPI.
#include "distributed/launch.h"

namespace qt {

std::unique_ptr<Communicator> make_mpi_communicator(double) {
  throw ConfigError(
      "started by " + launcher() +
      " as one of several processes, but this build has no MPI: install libopenmpi-dev "
      "and build again");
}

std::string mpi_description() { return "none in this build"; }

}  // namespace qt
