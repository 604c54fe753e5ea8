// core/base/philox.h -- Philox4x32-10: counter-based random numbers (Salmon et al., SC 2011). The
// same (seed, stream, index) gives the same draw on every machine, thread and rank, in any order.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>

namespace qt {

// What a draw is for; keeps the streams of one seed apart.
enum class DrawKind : uint32_t {
  init_weights = 1,
  shuffle = 2,
  augment = 3,
  generate_image = 4,
  test = 99,
};

// The ten-round bijection of a 128-bit counter under a 64-bit key.
inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, uint64_t key) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0], b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {uint32_t(b >> 32) ^ counter[1] ^ k0, uint32_t(b),
               uint32_t(a >> 32) ^ counter[3] ^ k1, uint32_t(a)};
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;
  }
  return counter;
}

// A short sequence of draws addressed by (seed, kind, major, minor), e.g. (seed, augment, epoch,
// sample).
class Philox {
 public:
  Philox(uint64_t seed, DrawKind kind, uint32_t major = 0, uint32_t minor = 0)
      : key_(seed), counter_{0, minor, major, uint32_t(kind)} {}

  uint32_t bits() {
    if (used_ == 4) {
      block_ = philox4x32(counter_, key_);
      ++counter_[0];
      used_ = 0;
    }
    return block_[used_++];
  }
  // Uniform in [0, 1), 24 bits.
  float uniform() { return float(bits() >> 8) * (1.0f / (1 << 24)); }
  float uniform(float lo, float hi) { return lo + (hi - lo) * uniform(); }
  // Uniform in 0 .. n-1, n >= 1; bias below n / 2^32.
  uint32_t below(uint32_t n) { return uint32_t((uint64_t(bits()) * n) >> 32); }
  // Standard normal (Box-Muller).
  float normal() {
    const double u = (double(bits()) + 1.0) / 4294967297.0, v = double(bits()) / 4294967296.0;
    return float(std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v));
  }

 private:
  uint64_t key_;
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 4> block_{};
  int used_ = 4;
};

}  // namespace qt
