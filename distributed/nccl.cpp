// distributed/nccl.cpp -- opens the NCCL module that lies beside the program.
#include "distributed/collectives.h"
#include "distributed/module.h"

namespace qt {
namespace {

constexpr const char* module = "qattrain_nccl.so";

}  // namespace

CollectivesModule load_nccl() {
  using Offer = const CollectivesModule& (*)();
  return reinterpret_cast<Offer>(symbol_of_module(module, "qattrain_collectives", false))();
}

std::string nccl_description() { return "module " + path_beside_program(module); }

}  // namespace qt
