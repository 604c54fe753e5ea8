// core/kernel/device_values.h -- one element of a map in a CUDA kernel: what its operands give, and
// where its results go. Included by launch.h where a compiler for device code reads it.
#pragma once
#include <type_traits>

#include "core/device/stream.h"
#include "core/kernel/device_words.h"
#include "core/kernel/operands.h"

namespace qt::kernel {

void check_launch(const char* kernel);  // core/device/cuda/error.cpp
inline cudaStream_t handle(Stream stream) { return static_cast<cudaStream_t>(stream.cuda); }

// What an operand gives at element i = row * channels + channel.
template <class T>
__device__ auto value_at(const Element<T>& o, int64_t i, int64_t, int64_t, int64_t) {
  return loaded(o.p[i]);
}
template <class T>
__device__ auto value_at(const PerChannel<T>& o, int64_t, int64_t, int64_t c, int64_t) {
  return loaded(o.p[c]);
}
template <class T>
__device__ auto value_at(const PerRow<T>& o, int64_t, int64_t r, int64_t, int64_t) {
  return loaded(o.p[r]);
}
template <class T>
__device__ auto value_at(const Scalar<T>& o, int64_t, int64_t, int64_t, int64_t) {
  return loaded(o.get());
}
__device__ inline int32_t value_at(const Column&, int64_t, int64_t, int64_t c, int64_t) {
  return int32_t(c);
}
template <class T, class I>
__device__ auto value_at(const Lookup<T, I>& o, int64_t i, int64_t, int64_t c, int64_t) {
  return loaded(o.table[c * 256 + uint8_t(o.index[i])]);
}

template <class T>
__device__ T value_at(const Windowed<T>& o, int64_t, int64_t r, int64_t c, int64_t) {
  const T* const pixel = o.pixel(r);
  return pixel ? pixel[c] : T(0);
}

// Splits the operands of map into inputs and outputs by recursion: f is called when only outputs
// are left.
template <int K, class R>
__device__ void store_results(int64_t, const R&) {}
template <int K, class R, class T, class... Rest>
__device__ void store_results(int64_t i, const R& r, const Output<T>& o, const Rest&... rest) {
  o.p[i] = Store<T>::from(result(r, K));
  store_results<K + 1>(i, r, rest...);
}

template <class F, class T, class... Rest>
__device__ void apply_at(F call, int64_t i, int64_t, int64_t, int64_t, const Output<T>& first,
                         const Rest&... rest) {
  const auto r = call();
  store_results<0>(i, r, first, rest...);
}
template <class F, class Operand, class... Rest>
__device__ auto apply_at(F call, int64_t i, int64_t r, int64_t c, int64_t channels,
                         const Operand& first, const Rest&... rest)
    -> std::enable_if_t<!IsOutput<Operand>::value> {
  const auto v = value_at(first, i, r, c, channels);
  apply_at([&](auto... others) { return call(v, others...); }, i, r, c, channels, rest...);
}

}  // namespace qt::kernel
