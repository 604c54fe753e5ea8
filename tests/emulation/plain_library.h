// tests/emulation/plain_library.h -- a compute library of the emulated GPU: plain loops over its
// memory, run when its stream comes to them.
#pragma once
#include <memory>

#include "core/library/library.h"

namespace qt {

// Results are those of "reference", bit for bit. Products of codes take CodePath::integer.
std::shared_ptr<Library> make_emulated_library();

}  // namespace qt
