// tests/support/places.cpp -- the only file that holds paths of the build, so that a compiler's
// cache serves all others in every copy of the tree.
#include "tests/support/places.h"

#include <cstdlib>

namespace qt {
namespace {

std::string place(const char* variable, const char* built) {
  const char* const given = std::getenv(variable);
  return given && *given ? given : built;
}

}  // namespace

std::string source_folder() { return place("QATTRAIN_SOURCE_DIR", QATTRAIN_SOURCE_DIR); }
std::string program_path() { return place("QATTRAIN_BINARY", QATTRAIN_BINARY); }

}  // namespace qt
