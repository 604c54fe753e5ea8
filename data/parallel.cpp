// data/parallel.cpp -- runs independent work on a range of indices on several threads.
#include "data/parallel.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace qt {

void for_each_part(int64_t count, int64_t part, int threads,
                   const std::function<void(int64_t begin, int64_t end)>& work) {
  std::mutex mutex;
  int64_t next = 0, failed_at = count;
  std::exception_ptr failure;
  // Parts are claimed in order and a claimed part always runs, so the lowest failure is the same
  // every time.
  const auto run = [&] {
    for (;;) {
      int64_t begin = 0;
      {
        const std::lock_guard lock(mutex);
        if (failure || next >= count) return;
        begin = next;
        next += part;
      }
      try {
        work(begin, std::min(begin + part, count));
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (begin < failed_at) failed_at = begin, failure = std::current_exception();
      }
    }
  };
  if (threads <= 0) threads = std::max(1, int(std::thread::hardware_concurrency()));
  threads = int(std::min<int64_t>(threads, (count + part - 1) / part));
  {
    std::vector<std::jthread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(run);
    run();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace qt
