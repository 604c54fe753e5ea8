// distributed/launch.cpp -- what launchers leave in the environment.
#include "distributed/launch.h"

#include <cstdlib>

namespace qt {
namespace {

int number(const char* variable) {
  const char* const text = std::getenv(variable);
  return text ? std::atoi(text) : -1;
}

}  // namespace

std::string launcher() {
  if (number("OMPI_COMM_WORLD_SIZE") > 1) return "Open MPI's mpirun";
  if (number("PMI_SIZE") > 1) return "an MPICH-style launcher";
  if (number("SLURM_STEP_NUM_TASKS") > 1) return "Slurm's srun";
  if (number("OMPI_COMM_WORLD_SIZE") < 0 && number("PMI_SIZE") < 0 && std::getenv("PMIX_RANK"))
    return "a PMIx launcher";
  return "";
}

int launched_rank() {
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"})
    if (number(variable) >= 0) return number(variable);
  return 0;
}

// Slurm's variable is srun's where srun started this process, and else that of the batch script.
int launched_local_rank() {
  for (const char* variable :
       {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK"})
    if (number(variable) >= 0) return number(variable);
  return number("SLURM_STEP_NUM_TASKS") > 1 ? number("SLURM_LOCALID") : -1;
}

std::unique_ptr<Communicator> make_communicator(double timeout) {
  return launcher().empty() ? make_single_communicator() : make_mpi_communicator(timeout);
}

}  // namespace qt
