// data/parallel.h -- runs independent work on a range of indices on several threads.
#pragma once
#include <cstdint>
#include <functional>

namespace qt {

// Calls work(begin, end) on parts of 0 .. count-1, each at most `part` long, from `threads` threads
// (0: one per core). An exception ends the run; of several, the one from the lowest part is
// rethrown.
void for_each_part(int64_t count, int64_t part, int threads,
                   const std::function<void(int64_t begin, int64_t end)>& work);

}  // namespace qt
