// train/threads.h -- how many threads compute: the same number for the whole run, for the same
// bits.
#pragma once

namespace qt {

// 0: one per core that this process may use. Returns the number.
int pin_threads(int wanted);

}  // namespace qt
