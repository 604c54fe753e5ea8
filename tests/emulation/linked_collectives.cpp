// tests/emulation/linked_collectives.cpp -- stands in for distributed/nccl.cpp: the module's code
// is linked into the test, over the emulated NCCL.
#include "distributed/collectives.h"

extern "C" const qt::CollectivesModule& qattrain_collectives();  // distributed/nccl/collectives.cpp

namespace qt {

CollectivesModule load_nccl() { return qattrain_collectives(); }
std::string nccl_description() { return "linked into the test"; }

}  // namespace qt
