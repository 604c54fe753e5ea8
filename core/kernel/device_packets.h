// core/kernel/device_packets.h -- elements in packets on a GPU: accesses of 16 bytes where
// addresses and extents allow, one element after another where not. Included by device_kernels.h.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/kernel/device_words.h"
#include "core/kernel/operands.h"

namespace qt::kernel {

// N elements of T side by side in memory, read and written by accesses of at most 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Packet {
  T v[N];
};
// N values in registers.
template <class T, int N>
struct Lanes {
  T v[N];
};

// ---- what operands allow ----
// Bytes of an operand's element at each (row, channel); 0 where it has none of its own.
template <class T>
struct ElementSize : std::integral_constant<size_t, 0> {};
template <class T>
struct ElementSize<Element<T>> : std::integral_constant<size_t, sizeof(T)> {};
template <class T>
struct ElementSize<Output<T>> : std::integral_constant<size_t, sizeof(T)> {};
template <class T, class I>
struct ElementSize<Lookup<T, I>> : std::integral_constant<size_t, sizeof(I)> {};

// As many elements as the largest has in 16 bytes.
template <class... Operands>
constexpr int packet_elements =
    int(std::max<size_t>(1, 16 / std::max({size_t{1}, ElementSize<Operands>::value...})));

// Whether (row, channel) does not matter, so that a packet may go over the end of a row.
template <class T>
struct IsFlat : std::false_type {};
template <class T>
struct IsFlat<Element<T>> : std::true_type {};
template <class T>
struct IsFlat<Scalar<T>> : std::true_type {};
template <class T>
struct IsFlat<Output<T>> : std::true_type {};

template <int N, class T>
QT_HD inline bool holds_packets(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % alignof(Packet<T, N>) == 0;
}
template <int N, class Operand>
QT_HD inline bool allows_packets(const Operand&) {
  return true;
}
template <int N, class T>
QT_HD inline bool allows_packets(const Element<T>& o) {
  return holds_packets<N>(o.p);
}
template <int N, class T>
QT_HD inline bool allows_packets(const PerChannel<T>& o) {
  return holds_packets<N>(o.p);
}
template <int N, class T>
QT_HD inline bool allows_packets(const Output<T>& o) {
  return holds_packets<N>(o.p);
}
template <int N, class T, class I>
QT_HD inline bool allows_packets(const Lookup<T, I>& o) {
  return holds_packets<N>(o.index);
}

// How many packets of N elements the first elements of rows x channels make; the others go one by
// one. 0 where an address or the number of channels forbids them.
template <int N, class... Operands>
QT_HD inline int64_t packets_of(int64_t rows, int64_t channels, const Operands&... operands) {
  if (N == 1 || !(allows_packets<N>(operands) && ...)) return 0;
  const bool flat = (IsFlat<Operands>::value && ...);
  return flat || channels % N == 0 ? rows * channels / N : 0;
}

// ---- what operands give at elements i .. i + N - 1, which begin at (row r, channel c) ----
template <int N, class T>
__device__ auto packet_of(const T* p) {
  const Packet<T, N> packet = *reinterpret_cast<const Packet<T, N>*>(p);
  Lanes<decltype(loaded(packet.v[0])), N> values;
  for (int j = 0; j < N; ++j) values.v[j] = loaded(packet.v[j]);
  return values;
}
template <int N, class T>
__device__ auto repeated(T value) {
  Lanes<T, N> values;
  for (int j = 0; j < N; ++j) values.v[j] = value;
  return values;
}
template <int N, class T>
__device__ auto packet_at(const Element<T>& o, int64_t i, int64_t, int64_t) {
  return packet_of<N>(o.p + i);
}
template <int N, class T>
__device__ auto packet_at(const PerChannel<T>& o, int64_t, int64_t, int64_t c) {
  return packet_of<N>(o.p + c);
}
template <int N, class T>
__device__ auto packet_at(const PerRow<T>& o, int64_t, int64_t r, int64_t) {
  return repeated<N>(loaded(o.p[r]));
}
template <int N, class T>
__device__ auto packet_at(const Scalar<T>& o, int64_t, int64_t, int64_t) {
  return repeated<N>(loaded(*o.p));
}
template <int N>
__device__ auto packet_at(const Column&, int64_t, int64_t, int64_t c) {
  Lanes<int32_t, N> values;
  for (int j = 0; j < N; ++j) values.v[j] = int32_t(c) + j;
  return values;
}
template <int N, class T, class I>
__device__ auto packet_at(const Lookup<T, I>& o, int64_t i, int64_t, int64_t c) {
  const auto index = packet_of<N>(o.index + i);
  Lanes<decltype(loaded(o.table[0])), N> values;
  for (int j = 0; j < N; ++j) values.v[j] = loaded(o.table[(c + j) * 256 + uint8_t(index.v[j])]);
  return values;
}
template <int N, class T>
__device__ auto packet_at(const Windowed<T>& o, int64_t, int64_t r, int64_t c) {
  const T* const pixel = o.pixel(r);
  Lanes<T, N> values;
  for (int j = 0; j < N; ++j) values.v[j] = pixel ? pixel[c + j] : T(0);
  return values;
}

// ---- a functor over one packet ----
template <int K, int N, class R>
__device__ void store_packets(int64_t, const Lanes<R, N>&) {}
template <int K, int N, class R, class T, class... Rest>
__device__ void store_packets(int64_t i, const Lanes<R, N>& r, const Output<T>& o,
                              const Rest&... rest) {
  Packet<T, N> packet;
  for (int j = 0; j < N; ++j) packet.v[j] = Store<T>::from(result(r.v[j], K));
  *reinterpret_cast<Packet<T, N>*>(o.p + i) = packet;
  store_packets<K + 1>(i, r, rest...);
}

// Inputs one after another as apply_at; call(j, values...) is f for element j.
template <int N, class Call, class T, class... Rest>
__device__ void apply_packet(Call call, int64_t i, int64_t, int64_t, const Output<T>& first,
                             const Rest&... rest) {
  Lanes<decltype(call(0)), N> results;
  for (int j = 0; j < N; ++j) results.v[j] = call(j);
  store_packets<0>(i, results, first, rest...);
}
template <int N, class Call, class Operand, class... Rest>
__device__ auto apply_packet(Call call, int64_t i, int64_t r, int64_t c, const Operand& first,
                             const Rest&... rest) -> std::enable_if_t<!IsOutput<Operand>::value> {
  const auto values = packet_at<N>(first, i, r, c);
  apply_packet<N>([&](int j, auto... others) { return call(j, values.v[j], others...); }, i, r, c,
                  rest...);
}

}  // namespace qt::kernel
