// core/kernel/operands.h -- what a functor's values come from and go to: the vocabulary of the
// launchers.
#pragma once
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "core/tensor/dtype.h"

namespace qt {

// a / b for numbers that are not negative. Division of 64-bit numbers costs a GPU a hundred
// instructions; nearly all fit 32 bits.
QT_HD inline int64_t quotient(int64_t a, int64_t b) {
  return ((a | b) >> 32) == 0 ? int64_t(uint32_t(a) / uint32_t(b)) : a / b;
}

// N values at once: what a functor with several outputs, or a reduction of several sums, returns.
template <int N>
struct Values {
  float v[N];
};

// A tensor is seen as rows x channels. Operands give a functor one value per (row, channel):
template <class T>
struct Element {
  const T* p;
};  // p[row][channel]
template <class T>
struct PerChannel {
  const T* p;
};  // p[channel]
template <class T>
struct PerRow {
  const T* p;
};  // p[row]
template <class T>
struct Scalar {
  const T* p;  // p[0], in the device's memory
  T value;     // where p is null
  T rest;      // so that nothing is padding (segments.h)
  QT_HD T get() const { return p ? *p : value; }
};
struct Column {};  // the channel's number, int32
template <class T, class I>
struct Lookup {
  const I* index;
  const T* table;
  int64_t channels;
};  // table[channel][uint8(index)]
// Pictures of height x width, each through a window of its own, windows[picture] = top, left,
// flipped (ints): what (row, channel) of the cropped pictures shows; 0 outside the picture.
template <class T>
struct Windowed {
  const T* p;
  const int32_t* windows;
  int64_t height, width, channels;

  // The pixel that the row shows; null outside.
  QT_HD const T* pixel(int64_t row) const {
    const int64_t line = quotient(row, width), x = row - line * width;
    const int64_t picture = quotient(line, height), y = line - picture * height;
    const int32_t* const window = windows + picture * 3;
    const int64_t from_y = y + window[0], from_x = (window[2] ? width - 1 - x : x) + window[1];
    if (from_y < 0 || from_y >= height || from_x < 0 || from_x >= width) return nullptr;
    return p + ((picture * height + from_y) * width + from_x) * channels;
  }
};
template <class T>
struct Output {
  T* p;
};  // where results go; outputs come last

template <class T>
Element<T> in(const T* p) {
  return {p};
}
template <class T>
PerChannel<T> per_channel(const T* p) {
  return {p};
}
template <class T>
PerRow<T> per_row(const T* p) {
  return {p};
}
template <class T>
Scalar<T> scalar(const T* p) {
  return {p, T(), T()};
}
template <class T>
Scalar<T> constant(T value) {
  return {nullptr, value, T()};
}
// channels: those of the map.
template <class T, class I>
Lookup<T, I> lookup(const I* index, const T* table, int64_t channels) {
  return {index, table, channels};
}
template <class T>
Output<T> out(T* p) {
  return {p};
}

namespace kernel {

template <class T>
struct IsOutput : std::false_type {};
template <class T>
struct IsOutput<Output<T>> : std::true_type {};

// Rows can be treated as one long row (their channels repeated) unless an operand depends on where
// a row begins.
template <class T>
struct Foldable : std::false_type {};
template <class T>
struct Foldable<Element<T>> : std::true_type {};
template <class T>
struct Foldable<PerChannel<T>> : std::true_type {};
template <class T>
struct Foldable<Scalar<T>> : std::true_type {};
template <class T>
struct Foldable<Output<T>> : std::true_type {};

// bf16 is stored only: functors see float.
template <class T>
QT_HD inline T loaded(T v) {
  return v;
}
QT_HD inline float loaded(BFloat16 v) { return float(v); }

template <class T>
struct Store {
  template <class R>
  static QT_HD T from(R v) {
    return T(v);
  }
};
template <>
struct Store<BFloat16> {
  static QT_HD BFloat16 from(float v) { return BFloat16(v); }
};

// The k-th of a functor's results, whether it returned one value or Values<N>.
template <int N>
QT_HD inline float result(const Values<N>& r, int k) {
  return r.v[k];
}
template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>>
QT_HD inline T result(T r, int) {
  return r;
}

}  // namespace kernel

// A pooling window's geometry. Tap t is (t / kernel, t % kernel).
struct WindowShape {
  int64_t n, h, w, c, out_h, out_w, kernel, stride, padding;
};

// These numbers fix the order of additions and so the bits: they are part of the launchers'
// contract.
constexpr int64_t chunk_rows = 128;  // rows that sum_columns adds before it merges
// Chunks that are merged into a group, in double; groups are merged from first to last. On a GPU
// one chain of dependent additions through all chunks of a large picture would cost more than the
// reading of them.
constexpr int64_t group_chunks = 64, group_rows = group_chunks * chunk_rows;
constexpr int row_lanes =
    4;  // lane l of a chunk adds rows l, l + 4, ...; lanes are added as a tree
constexpr int column_lanes =
    256;  // lane l of sum_rows adds columns l, l + 256, ...; lanes are added as a tree

}  // namespace qt
