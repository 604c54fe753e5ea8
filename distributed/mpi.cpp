// distributed/mpi.cpp -- opens the MPI module that lies beside the program.
#include <dlfcn.h>

#include <filesystem>

#include "distributed/launch.h"
#include "distributed/message_communicator.h"

namespace qt {
namespace {

std::string module_path() {
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "qattrain_mpi.so")
      .string();
}

// The module stays loaded until the process ends: MPI has threads of its own.
std::unique_ptr<Transport> open_transport() {
  const std::string path = module_path();
  // MPI libraries load plugins that look for their symbols.
  void* const module = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (!module) throw ConfigError("the MPI module cannot be loaded: " + std::string(dlerror()));
  void* const symbol = dlsym(module, "qattrain_open_transport");
  if (!symbol) throw ConfigError(path + " is not this program's MPI module");
  return std::unique_ptr<Transport>(reinterpret_cast<Transport* (*)()>(symbol)());
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(double timeout) {
  return std::make_unique<MessageCommunicator>(open_transport, "mpi", timeout);
}

std::string mpi_description() { return "module " + module_path(); }

}  // namespace qt
