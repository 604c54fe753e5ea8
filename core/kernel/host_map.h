// core/kernel/host_map.h -- map on the CPU: spans of contiguous elements, one vectorized loop each.
// Included by launch.h.
#pragma once
#include <algorithm>
#include <utility>

#include "core/kernel/operands.h"

namespace qt::kernel {

constexpr int64_t fold_width = 256;  // shorter rows are joined until a span is about this long
constexpr int64_t serial_below = 1 << 14;  // elements for which waking threads does not pay

// An operand as one span sees it: get(j) for the j-th element of the span. `expanded` holds
// per-channel values repeated over the joined rows.
template <class Operand>
struct HostView;

template <class T>
struct HostView<Element<T>> {
  const T* p;
  HostView(const Element<T>& o, int64_t, int64_t) : p(o.p) {}
  HostView at(int64_t first, int64_t) const {
    HostView v = *this;
    v.p += first;
    return v;
  }
  auto get(int64_t j) const { return loaded(p[j]); }
};

template <class T>
struct HostView<PerChannel<T>> {
  T expanded[2 * fold_width];
  const T* p;
  HostView(const PerChannel<T>& o, int64_t channels, int64_t width) : p(o.p) {
    if (width == channels) return;
    for (int64_t j = 0; j < width; ++j) expanded[j] = o.p[j % channels];
    p = nullptr;
  }
  struct Span {
    const T* p;
    auto get(int64_t j) const { return loaded(p[j]); }
  };
  Span at(int64_t, int64_t) const { return {p ? p : expanded}; }
};

template <class T>
struct HostView<PerRow<T>> {
  const T* p;
  HostView(const PerRow<T>& o, int64_t, int64_t) : p(o.p) {}
  struct Span {
    T value;
    auto get(int64_t) const { return loaded(value); }
  };
  Span at(int64_t, int64_t row) const { return {p[row]}; }
};

template <class T>
struct HostView<Scalar<T>> {
  T value;
  HostView(const Scalar<T>& o, int64_t, int64_t) : value(o.get()) {}
  HostView at(int64_t, int64_t) const { return *this; }
  auto get(int64_t) const { return loaded(value); }
};

template <>
struct HostView<Column> {
  HostView(const Column&, int64_t, int64_t) {}
  HostView at(int64_t, int64_t) const { return *this; }
  int32_t get(int64_t j) const { return int32_t(j); }
};

template <class T, class I>
struct HostView<Lookup<T, I>> {
  const I* index;
  const T* table;
  HostView(const Lookup<T, I>& o, int64_t, int64_t) : index(o.index), table(o.table) {}
  HostView at(int64_t first, int64_t) const { return {index + first, table}; }
  auto get(int64_t j) const { return loaded(table[j * 256 + uint8_t(index[j])]); }

 private:
  HostView(const I* i, const T* t) : index(i), table(t) {}
};

template <class T>
struct HostView<Windowed<T>> {
  Windowed<T> pictures;
  HostView(const Windowed<T>& o, int64_t, int64_t) : pictures(o) {}
  struct Span {
    const T* p;
    T get(int64_t j) const { return p ? p[j] : T(0); }
  };
  Span at(int64_t, int64_t row) const { return {pictures.pixel(row)}; }
};

template <class T>
struct HostView<Output<T>> {
  T* p;
  HostView(const Output<T>& o, int64_t, int64_t) : p(o.p) {}
  HostView at(int64_t first, int64_t) const {
    HostView v = *this;
    v.p += first;
    return v;
  }
  template <class R>
  void put(int64_t j, R r) const {
    p[j] = Store<T>::from(r);
  }
};

template <class... Operands>
constexpr size_t count_outputs = (size_t{0} + ... + size_t{IsOutput<Operands>::value});

// How many elements one span has: whole rows joined while short, if every operand allows it.
template <class... Operands>
int64_t span_width(int64_t channels, int64_t most) {
  if (!(Foldable<Operands>::value && ...) || channels >= fold_width) return channels;
  return channels * std::min((fold_width + channels - 1) / channels, most);
}

// f and the spans are arguments by value, so that stores of bytes cannot be taken to change them.
template <class F, class Y, class... In>
inline void store_one(F f, int64_t n, Y y, In... in) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) y.put(j, result(f(in.get(j)...), 0));
}

template <class F, class Y0, class Y1, class... In>
inline void store_two(F f, int64_t n, Y0 y0, Y1 y1, In... in) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const Values<2> r = f(in.get(j)...);
    y0.put(j, r.v[0]);
    y1.put(j, r.v[1]);
  }
}

// Three and more outputs are for per-channel constants, where speed is not at stake.
template <class F, class Spans, size_t... I, size_t... K>
inline void store_many(F f, int64_t n, const Spans& spans, std::index_sequence<I...>,
                       std::index_sequence<K...>) {
  for (int64_t j = 0; j < n; ++j) {
    const auto r = f(std::get<I>(spans).get(j)...);
    (std::get<sizeof...(I) + K>(spans).put(j, r.v[K]), ...);
  }
}

template <size_t outputs, class F, class Spans, size_t... I>
inline void run_span(F f, int64_t n, const Spans& spans, std::index_sequence<I...> inputs) {
  constexpr size_t first = sizeof...(I);
  if constexpr (outputs == 1)
    store_one(f, n, std::get<first>(spans), std::get<I>(spans)...);
  else if constexpr (outputs == 2)
    store_two(f, n, std::get<first>(spans), std::get<first + 1>(spans), std::get<I>(spans)...);
  else
    store_many(f, n, spans, inputs, std::make_index_sequence<outputs>{});
}

template <class... Operands>
std::tuple<HostView<Operands>...> make_views(int64_t channels, int64_t width,
                                             const Operands&... operands) {
  return {HostView<Operands>(operands, channels, width)...};
}

// The span that starts at element first of row (or joined row) `row`.
template <class... Views>
auto spans_at(const std::tuple<Views...>& views, int64_t first, int64_t row) {
  return std::apply([&](const auto&... v) { return std::make_tuple(v.at(first, row)...); }, views);
}

template <class F, class... Operands>
void host_map(int64_t rows, int64_t channels, F f, Operands... operands) {
  constexpr size_t outputs = count_outputs<Operands...>, inputs = sizeof...(Operands) - outputs;
  const int64_t width = span_width<Operands...>(channels, fold_width), elements = rows * channels;
  const int64_t spans = (elements + width - 1) / width;
#pragma omp parallel if (elements >= serial_below)
  {
    const auto views = make_views(channels, width, operands...);
#pragma omp for schedule(static)
    for (int64_t s = 0; s < spans; ++s) {
      const int64_t first = s * width, n = std::min(width, elements - first);
      run_span<outputs>(f, n, spans_at(views, first, s), std::make_index_sequence<inputs>{});
    }
  }
}

template <class F, class T>
void host_generate(int64_t n, F f, T* to) {
#pragma omp parallel for schedule(static) if (n >= serial_below)
  for (int64_t i = 0; i < n; ++i) to[i] = f(i);
}

}  // namespace qt::kernel
