// tests/support/places.h -- where tests find the source tree's files and the program: where they
// were built, or where the environment says (a bundle that was unpacked elsewhere).
#pragma once
#include <string>

namespace qt {

std::string source_folder();  // QATTRAIN_SOURCE_DIR
std::string program_path();   // QATTRAIN_BINARY

}  // namespace qt
