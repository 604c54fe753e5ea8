// scripts/bench/kernels/peak.cpp -- independent multiply-adds in registers, and copies between
// arrays that no cache holds.
#include "scripts/bench/kernels/peak.h"

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "core/device/cpu.h"

namespace qt::bench {
namespace {

constexpr int chains = 12;  // more than latency times multiply-adds a cycle, fewer than registers
constexpr int64_t rounds = 20'000'000;

// The results depend on all of the work, so that none is left out.
volatile float sink;

void multiply_add_avx2() {
  __m256 sums[chains];
  for (int i = 0; i < chains; ++i) sums[i] = _mm256_set1_ps(float(i));
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  for (int64_t r = 0; r < rounds; ++r)
    for (int i = 0; i < chains; ++i) sums[i] = _mm256_fmadd_ps(sums[i], a, b);
  for (int i = 1; i < chains; ++i) sums[0] = _mm256_add_ps(sums[0], sums[i]);
  sink = _mm256_cvtss_f32(sums[0]);
}

__attribute__((target("avx512f"))) void multiply_add_avx512() {
  __m512 sums[chains];
  for (int i = 0; i < chains; ++i) sums[i] = _mm512_set1_ps(float(i));
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
  for (int64_t r = 0; r < rounds; ++r)
    for (int i = 0; i < chains; ++i) sums[i] = _mm512_fmadd_ps(sums[i], a, b);
  for (int i = 1; i < chains; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
  sink = _mm512_cvtss_f32(sums[0]);
}

// The best of three times, all threads together.
double seconds_of(const std::function<void(int thread, int threads)>& work) {
  const int threads = omp_get_max_threads();
  double best = 1e9;
  for (int attempt = 0; attempt < 3; ++attempt) {
    const auto began = std::chrono::steady_clock::now();
    std::vector<std::jthread> team;
    for (int t = 0; t < threads; ++t) team.emplace_back(work, t, threads);
    team.clear();
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
  }
  return best;
}

Peak measure() {
  Peak peak;
  const bool wide = cpu_has(Isa::avx512);
  const double lanes = wide ? 16 : 8;
  const double adding =
      seconds_of([&](int, int) { wide ? multiply_add_avx512() : multiply_add_avx2(); });
  peak.flops = 2 * lanes * chains * double(rounds) * omp_get_max_threads() / adding;

  const size_t size = size_t{256} << 20;
  std::vector<char> from(size, 1), to(size, 2);
  const double copying = seconds_of([&](int thread, int threads) {
    const size_t begin = size * size_t(thread) / size_t(threads),
                 end = size * size_t(thread + 1) / size_t(threads);
    std::memcpy(to.data() + begin, from.data() + begin, end - begin);
  });
  peak.bytes = 2 * double(size) / copying;
  return peak;
}

}  // namespace

const Peak& peak() {
  static const Peak measured = measure();
  return measured;
}

}  // namespace qt::bench
