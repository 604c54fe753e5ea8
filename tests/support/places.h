// tests/support/places.h -- where tests find the source tree's files and the program: where they
// were built, or where the environment says (a bundle that was unpacked elsewhere).
#pragma once
#include <cstdlib>
#include <string>

namespace qt {

inline std::string place(const char* variable, const char* built) {
  const char* const given = std::getenv(variable);
  return given && *given ? given : built;
}
inline std::string source_folder() { return place("QATTRAIN_SOURCE_DIR", QATTRAIN_SOURCE_DIR); }
#ifdef QATTRAIN_BINARY
inline std::string program_path() { return place("QATTRAIN_BINARY", QATTRAIN_BINARY); }
#endif

}  // namespace qt
