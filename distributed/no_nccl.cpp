// distributed/no_nccl.cpp -- stands in for distributed/nccl.cpp in builds without NCCL.
#include "distributed/collectives.h"

namespace qt {

CollectivesModule load_nccl() {
  throw ConfigError("this build has no NCCL: nccl.h was not found when it was configured");
}

std::string nccl_description() { return "none in this build"; }

}  // namespace qt
