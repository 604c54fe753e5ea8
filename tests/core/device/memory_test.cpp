// tests/core/device/memory_test.cpp -- the caching memory pool.
#include "core/device/memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

#include "core/base/error.h"

namespace qt {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr bool caching = false;
#else
constexpr bool caching = true;
#endif

TEST(Memory, IsAligned) {
  for (size_t bytes : {size_t{1}, size_t{63}, size_t{65}, size_t{100000}, size_t{3} << 20}) {
    const auto block = allocate(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block.get()) % 64, 0u) << bytes;
    memset(block.get(), 1, bytes);
  }
  if (!caching) return;
  const auto large = allocate(size_t{5} << 20);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large.get()) % (size_t{2} << 20), 0u)
      << "not on huge pages";
}

TEST(Memory, GivesAHandleForNothing) { EXPECT_NE(allocate(0), nullptr); }

TEST(Memory, CountsWhatIsInUseAndThePeak) {
  const size_t before = memory_stats().in_use;
  reset_memory_peak();
  {
    const auto a = allocate(1 << 20);
    { const auto b = allocate(1 << 20); }
    EXPECT_EQ(memory_stats().in_use, before + (1 << 20));
  }
  EXPECT_EQ(memory_stats().in_use, before);
  EXPECT_EQ(memory_stats().peak, before + (2 << 20));
  reset_memory_peak();
  EXPECT_EQ(memory_stats().peak, before);
}

TEST(Memory, ReusesBlocksOfASize) {
  if (!caching) GTEST_SKIP() << "under AddressSanitizer nothing is cached";
  { const auto warm = allocate(300000); }
  const uint64_t asked = memory_stats().system_allocations;
  for (int i = 0; i < 100; ++i) {
    const auto block = allocate(size_t(300000 - i));  // a little less: the same class
  }
  EXPECT_EQ(memory_stats().system_allocations, asked);
}

TEST(Memory, WastesAtMostAnEighth) {
  for (size_t bytes : {size_t{513}, size_t{1025}, size_t{70000}, (size_t{1} << 20) + 1}) {
    const size_t before = memory_stats().in_use;
    const auto block = allocate(bytes);
    EXPECT_GE(memory_stats().in_use - before, bytes);
    EXPECT_LE(memory_stats().in_use - before, bytes + bytes / 8 + 64);
  }
}

TEST(Memory, LargeBlocksServeSizesAThirdSmaller) {
  if (!caching) GTEST_SKIP() << "nothing is cached under AddressSanitizer";
  release_cached_memory();
  { const auto block = allocate(size_t{12} << 20); }
  const uint64_t before = memory_stats().system_allocations;
  {
    const auto fits = allocate(size_t{8} << 20);
    EXPECT_EQ(memory_stats().system_allocations, before);
    EXPECT_EQ(memory_stats().cached, 0u);
    const auto other = allocate(size_t{7} << 20);  // nothing is left
    EXPECT_EQ(memory_stats().system_allocations, before + 1);
  }
  EXPECT_EQ(memory_stats().cached, size_t{19} << 20);  // both came back as what they are
  const auto too_small = allocate(size_t{4} << 20);
  EXPECT_EQ(memory_stats().system_allocations, before + 2);
}

TEST(Memory, ReleasesWhatItCached) {
  { const auto block = allocate(1 << 20); }
  release_cached_memory();
  EXPECT_EQ(memory_stats().cached, 0u);
}

TEST(Memory, SaysHowMuchWasMissing) {
  if (!caching) GTEST_SKIP() << "AddressSanitizer ends the process instead";
  const auto held = allocate(1 << 20);
  try {
    allocate(size_t{1} << 60);
    FAIL() << "an exabyte was given";
  } catch (const OutOfMemory& e) {
    EXPECT_NE(std::string(e.what()).find(std::to_string(size_t{1} << 60)), std::string::npos)
        << e.what();
  }
}

TEST(Memory, IsSharedSafelyByThreads) {
  const size_t before = memory_stats().in_use;
  std::vector<std::thread> threads;
  std::vector<int> damaged(4);
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t, &damaged] {
      for (int i = 0; i < 2000; ++i) {
        const size_t bytes = size_t(64 + i % 7 * 100);
        const auto block = allocate(bytes);
        memset(block.get(), t, bytes);
        for (size_t j = 0; j < bytes; ++j)
          damaged[size_t(t)] += static_cast<char*>(block.get())[j] != t;
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(damaged, std::vector<int>(4)) << "two threads were given one block";
  EXPECT_EQ(memory_stats().in_use, before);
}

TEST(Memory, PeakResidentSizeCountsPagesThatWereTouched) {
  const uint64_t before = peak_resident_bytes(), more = before + (uint64_t{32} << 20);
  ASSERT_GT(before, uint64_t{1} << 20);
  { const std::vector<char> touched(more, 1); }
  EXPECT_GE(peak_resident_bytes(), more);  // a peak stays
}

}  // namespace
}  // namespace qt
