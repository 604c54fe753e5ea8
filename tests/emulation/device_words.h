// tests/emulation/device_words.h -- CUDA's words for g++: kernel files compiled with
// QT_DEVICE_WORDS naming this header run under the emulator.
#pragma once
#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>

#include "tests/emulation/emulator.h"
#include "tests/emulation/launching.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define UNROLLED
#define AS_WRITTEN
#define SHARED(type, name, count) auto& name = emulator::shared<type[count]>([] {})

using std::max;
using std::min;

// NOLINTBEGIN(readability-identifier-naming): CUDA's names.
struct [[gnu::may_alias]] alignas(8) uint2 {
  unsigned x, y;
};
struct [[gnu::may_alias]] alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace emulator {

// One array per declaration: each has a lambda type of its own.
template <class Array, class Declaration>
Array& shared(Declaration) {
  static const char key = 0;
  return *static_cast<Array*>(shared_memory(&key, sizeof(Array)));
}

template <class T>
T shuffle(unsigned mask, T value, int from, int width, Site where) {
  static_assert(sizeof(T) <= 8 && std::is_arithmetic_v<T>);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = read_lane(mask, bits, from, width, where);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulator

inline void __syncthreads(emulator::Site where = emulator::Site::current()) {
  emulator::barrier(where);
}
inline void __syncwarp(unsigned mask = ~0u, emulator::Site where = emulator::Site::current()) {
  emulator::sync_warp(mask, where);
}
template <class T>
T __shfl_sync(unsigned mask, T v, int from, int width = 32,
              emulator::Site where = emulator::Site::current()) {
  return emulator::shuffle(mask, v, emulator::lane() / width * width + from % width, width, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int by, int width = 32,
                  emulator::Site where = emulator::Site::current()) {
  return emulator::shuffle(mask, v, emulator::lane() ^ by, width, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, int by, int width = 32,
                   emulator::Site where = emulator::Site::current()) {
  return emulator::shuffle(mask, v, emulator::lane() + by, width, where);
}
inline unsigned __ballot_sync(unsigned mask, int vote,
                              emulator::Site where = emulator::Site::current()) {
  return emulator::ballot(mask, vote != 0, where);
}
// For integers only: float sums by atomics depend on luck, so they do not compile here.
template <class T>
requires std::is_integral_v<T> T atomicAdd(T* to, T v) {
  return __atomic_fetch_add(to, v, __ATOMIC_RELAXED);
}
template <class T>
requires std::is_integral_v<T> T atomicMin(T* to, T v) {
  // No local's address is taken: fibers use stacks again, which ThreadSanitizer would call a race.
  T before = __atomic_load_n(to, __ATOMIC_RELAXED);
  while (v < before) {
    const T found = __sync_val_compare_and_swap(to, before, v);
    if (found == before) break;
    before = found;
  }
  return before;
}

namespace qt::kernel {  // NOLINTEND(readability-identifier-naming)

template <class Vector>
void store_vector(Vector* to, Vector value) {
  if constexpr (std::is_class_v<Vector>) {
    *to = value;
  } else {
    using Aliasing [[gnu::may_alias]] = Vector;  // whatever the memory holds
    *reinterpret_cast<Aliasing*>(to) = value;
  }
}

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(emulator::dynamic_shared_memory());
}

// Enqueues the kernel with its arguments copied, as CUDA does.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
            cudaStream_t stream, Arguments... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...),
                "kernel arguments are copied byte by byte");
  std::tuple<Parameters...> values{static_cast<Parameters>(arguments)...};
  // What lies between members by chance may look like an address to the check of arguments. (A
  // functor without members is all padding, in a tuple's other elements.)
  const auto clear = []([[maybe_unused]] auto& v) {
#if __has_builtin(__builtin_clear_padding)  // g++ has it, clang-tidy's front end has not
    if constexpr (!std::is_empty_v<std::remove_reference_t<decltype(v)>>)
      __builtin_clear_padding(&v);
#endif
  };
  std::apply([&](auto&... v) { (clear(v), ...); }, values);
  emulator::Launch launch{.grid = grid, .block = block, .shared_bytes = shared};
  std::apply(
      [&](const auto&... v) {  // NOLINTNEXTLINE(bugprone-sizeof-expression): pointers as such
        (launch.arguments.push_back({&v, sizeof v}), ...);
      },
      values);
  launch.body = [kernel, values]() { std::apply(kernel, values); };
  launch.kernel = __PRETTY_FUNCTION__;
  emulator::enqueue(std::move(launch), stream);
}

}  // namespace qt::kernel
