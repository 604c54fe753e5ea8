// distributed/mpi.cpp -- opens the MPI module that lies beside the program.
#include "distributed/launch.h"
#include "distributed/message_communicator.h"
#include "distributed/module.h"

namespace qt {
namespace {

constexpr const char* module = "qattrain_mpi.so";

std::unique_ptr<Transport> open_transport() {
  // MPI libraries load plugins that look for their symbols.
  void* const open = symbol_of_module(module, "qattrain_open_transport", true);
  return std::unique_ptr<Transport>(reinterpret_cast<Transport* (*)()>(open)());
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(double timeout) {
  return std::make_unique<MessageCommunicator>(open_transport, "mpi", timeout);
}

std::string mpi_description() { return "module " + path_beside_program(module); }

}  // namespace qt
