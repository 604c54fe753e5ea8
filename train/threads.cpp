// train/threads.cpp -- the thread count of OpenMP, which the compute library shares.
#include "train/threads.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace qt {

int pin_threads(int wanted) {
#ifdef _OPENMP
  const int threads = wanted > 0 ? wanted : omp_get_num_procs();
  omp_set_dynamic(0);
  omp_set_num_threads(threads);
  return threads;
#else
  (void)wanted;
  return 1;
#endif
}

}  // namespace qt
