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

int launched_count() {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    if (number(variable) >= 0) return number(variable);
  return -1;
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
  if (launcher().empty()) return make_single_communicator();
  auto ranks = make_mpi_communicator(timeout);
  if (const int count = launched_count(); count > 0 && count != ranks->world())
    throw ConfigError(launcher() + " started " + std::to_string(count) +
                      " processes, but MPI here knows of " + std::to_string(ranks->world()) +
                      ": the launcher and the MPI library of this program are of different kinds");
  return ranks;
}

}  // namespace qt
