// core/kernel/parallel.h -- a loop over host threads, for work that is no (row, channel) launch.
#pragma once
#ifdef _OPENMP
#include <omp.h>
#endif

#include <cstdint>

namespace qt {

// Calls f(index, worker) for 0 <= index < count; no two calls at a time have the same worker, a
// number below workers(). f must not throw: what leaves a thread ends the process.
template <class F>
void parallel_for(int64_t count, const F& f) {
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < count; ++i) f(i, omp_get_thread_num());
#else
  for (int64_t i = 0; i < count; ++i) f(i, 0);
#endif
}
inline int workers() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

}  // namespace qt
