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

// Whether (row, channel) does not matter.
template <class T>
struct IsFlat : std::false_type {};
template <class T>
struct IsFlat<Element<T>> : std::true_type {};
template <class T>
struct IsFlat<Scalar<T>> : std::true_type {};
template <class T>
struct IsFlat<Output<T>> : std::true_type {};

// Whether a packet may go over the end of a row.
template <class T>
struct Wraps : IsFlat<T> {};
template <class T, class I>
struct Wraps<Lookup<T, I>> : std::true_type {};
template <class T>
struct Wraps<Windowed<T>> : std::true_type {};

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
  const bool wraps = (Wraps<Operands>::value && ...);
  return wraps || channels % N == 0 ? rows * channels / N : 0;
}

// ---- what operands give at elements i .. i + N - 1 ----
// Where a packet begins: element i of (row, channel).
struct Place {
  static constexpr int packets = 1;
  int64_t i, row, channel;
};
// Two packets at a time, so that a thread waits for memory once for both.
struct PlacePair {
  static constexpr int packets = 2;
  Place first, second;
};
// What a thread has read that is the same at every place it comes to: hold() below.
template <class T, int N>
struct HeldPacket {
  Lanes<T, N> values;
};
template <class T>
struct HeldValue {
  T value;
};

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
__device__ auto packet_at(const Element<T>& o, const Place& at) {
  return packet_of<N>(o.p + at.i);
}
template <int N, class T>
__device__ auto packet_at(const PerChannel<T>& o, const Place& at) {
  return packet_of<N>(o.p + at.channel);
}
template <int N, class T>
__device__ auto packet_at(const PerRow<T>& o, const Place& at) {
  return repeated<N>(loaded(o.p[at.row]));
}
template <int N, class T>
__device__ auto packet_at(const Scalar<T>& o, const Place&) {
  return repeated<N>(loaded(o.get()));
}
template <int N>
__device__ auto packet_at(const Column&, const Place& at) {
  Lanes<int32_t, N> values;
  for (int j = 0; j < N; ++j) values.v[j] = int32_t(at.channel) + j;
  return values;
}
template <int N, class T, class I>
__device__ auto packet_at(const Lookup<T, I>& o, const Place& at) {
  const auto index = packet_of<N>(o.index + at.i);
  Lanes<decltype(loaded(o.table[0])), N> values;
  int64_t channel = at.channel;
  for (int j = 0; j < N; ++j) {
    values.v[j] = loaded(o.table[channel * 256 + uint8_t(index.v[j])]);
    if (++channel == o.channels) channel = 0;
  }
  return values;
}
template <int N, class T>
__device__ auto packet_at(const Windowed<T>& o, const Place& at) {
  int64_t row = at.row, channel = at.channel;
  const T* pixel = o.pixel(row);
  Lanes<T, N> values;
  for (int j = 0; j < N; ++j) {
    if (channel == o.channels) {
      channel = 0;
      pixel = o.pixel(++row);
    }
    values.v[j] = pixel ? pixel[channel] : T(0);
    ++channel;
  }
  return values;
}
template <int N, class T>
__device__ auto packet_at(const HeldPacket<T, N>& o, const Place&) {
  return o.values;
}
template <int N, class T>
__device__ auto packet_at(const HeldValue<T>& o, const Place&) {
  return repeated<N>(o.value);
}
template <int N, class Operand>
__device__ auto packet_at(const Operand& o, const PlacePair& at) {
  const auto first = packet_at<N>(o, at.first), second = packet_at<N>(o, at.second);
  using T = std::decay_t<decltype(first.v[0])>;
  Lanes<T, 2 * N> both;
  for (int j = 0; j < N; ++j) both.v[j] = first.v[j], both.v[N + j] = second.v[j];
  return both;
}

// The operand for a thread that stays in the channels c .. c + N - 1: what depends on them alone is
// read now, into registers.
template <int N, class Operand>
__device__ const Operand& hold(const Operand& o, int64_t) {
  return o;
}
template <int N, class T>
__device__ auto hold(const PerChannel<T>& o, int64_t c) {
  const auto values = packet_of<N>(o.p + c);
  return HeldPacket<std::decay_t<decltype(values.v[0])>, N>{values};
}
template <int N, class T>
__device__ auto hold(const Scalar<T>& o, int64_t) {
  const auto value = loaded(o.get());
  return HeldValue<std::decay_t<decltype(value)>>{value};
}

// ---- a functor over one packet or two ----
// A packet is stored as vectors of CUDA's: of a struct's copy nvcc may make a store for each
// member.
template <size_t bytes>
struct VectorOf {
  using Type = uint4;
};
template <>
struct VectorOf<8> {
  using Type = uint2;
};
template <>
struct VectorOf<4> {
  using Type = unsigned;
};
template <>
struct VectorOf<2> {
  using Type = unsigned short;
};
template <>
struct VectorOf<1> {
  using Type = unsigned char;
};
template <class T, int N>
__device__ void write_packet(T* to, const Packet<T, N>& packet) {
  using Vector = typename VectorOf<sizeof(packet) < 16 ? sizeof(packet) : 16>::Type;
  constexpr size_t count = sizeof(packet) / sizeof(Vector);
  Vector words[count];
  memcpy(words, &packet, sizeof(packet));
  for (size_t j = 0; j < count; ++j) store_vector(reinterpret_cast<Vector*>(to) + j, words[j]);
}

// Stores results first .. first + N - 1, the K-th of each.
template <int N, class R, int M, class T>
__device__ void store_packet(const Output<T>& o, int64_t i, const Lanes<R, M>& r, int first,
                             int k) {
  Packet<T, N> packet;
  for (int j = 0; j < N; ++j) packet.v[j] = Store<T>::from(result(r.v[first + j], k));
  write_packet(o.p + i, packet);
}
template <int N, class R, int M, class T>
__device__ void store_at(const Output<T>& o, const Place& at, const Lanes<R, M>& r, int k) {
  store_packet<N>(o, at.i, r, 0, k);
}
template <int N, class R, int M, class T>
__device__ void store_at(const Output<T>& o, const PlacePair& at, const Lanes<R, M>& r, int k) {
  store_packet<N>(o, at.first.i, r, 0, k);
  store_packet<N>(o, at.second.i, r, N, k);
}
template <int N, class At, class Results, class... T>
__device__ void store_packets(const At& at, const Results& r, const Output<T>&... outputs) {
  int k = 0;
  (store_at<N>(outputs, at, r, k++), ...);
}

// Inputs one after another as apply_at; call(j, values...) is f for element j.
template <int N, class Call, class At, class T, class... Rest>
__device__ void apply_packets(Call call, const At& at, const Output<T>& first,
                              const Rest&... rest) {
  Lanes<decltype(call(0)), N * At::packets> results;
  for (int j = 0; j < N * At::packets; ++j) results.v[j] = call(j);
  store_packets<N>(at, results, first, rest...);
}
template <int N, class Call, class At, class Operand, class... Rest>
__device__ auto apply_packets(Call call, const At& at, const Operand& first, const Rest&... rest)
    -> std::enable_if_t<!IsOutput<Operand>::value> {
  const auto values = packet_at<N>(first, at);
  apply_packets<N>([&](int j, auto... others) { return call(j, values.v[j], others...); }, at,
                   rest...);
}

}  // namespace qt::kernel
