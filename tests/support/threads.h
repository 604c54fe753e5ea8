// tests/support/threads.h -- the number of OpenMP threads, for tests that bits do not depend on it.
#pragma once
#ifdef _OPENMP
#include <omp.h>
#endif

namespace qt {

// While alive, launchers run on `count` threads.
class UseThreads {
 public:
#ifdef _OPENMP
  explicit UseThreads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~UseThreads() { omp_set_num_threads(before_); }
#else
  explicit UseThreads(int) {}
#endif
  UseThreads(const UseThreads&) = delete;
  UseThreads& operator=(const UseThreads&) = delete;

 private:
  int before_ = 1;
};

}  // namespace qt
