// tests/emulation/nccl.h -- what tests ask of the emulated NCCL beyond its own functions.
#pragma once

namespace emulator {

// From now on communicators answer that another rank failed.
void break_collectives();

}  // namespace emulator
