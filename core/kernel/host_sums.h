// core/kernel/host_sums.h -- reductions on the CPU, in the order that operands.h fixes. Included by
// launch.h.
#pragma once
#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "core/kernel/finish.h"
#include "core/kernel/host_map.h"

namespace qt::kernel {

constexpr int64_t folded_channels = 128;  // up to so many, four rows are added as one span
constexpr int64_t block_channels =
    256;  // channels whose accumulators stay in the first-level cache

// Adds f(...) of one span to accumulators [K][stride].
template <int K, class F, class... In>
inline void add_values(F f, int64_t n, float* sums, int64_t stride, In... in) {
  float *const s0 = sums, *const s1 = sums + stride, *const s2 = sums + 2 * stride;
  static_assert(K <= 3);
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const Values<K> r = f(in.get(j)...);
    s0[j] += r.v[0];
    if constexpr (K > 1) s1[j] += r.v[1];
    if constexpr (K > 2) s2[j] += r.v[2];
  }
}

template <int K, class F, class Spans, size_t... I>
inline void add_span(F f, int64_t n, const Spans& spans, float* sums, int64_t stride,
                     std::index_sequence<I...>) {
  add_values<K>(f, n, sums, stride, std::get<I>(spans)...);
}

// sums [lane][K][width] of a block of channels -> out[k * out_stride + c], lanes added as a tree.
template <int K>
inline void add_lanes(const float* sums, int64_t lane_stride, int64_t k_stride, int64_t width,
                      float* out, int64_t out_stride) {
  static_assert(row_lanes == 4);
  for (int k = 0; k < K; ++k) {
    const float *a = sums + k * k_stride, *b = a + lane_stride, *c = b + lane_stride,
                *d = c + lane_stride;
    for (int64_t j = 0; j < width; ++j) out[k * out_stride + j] = (a[j] + c[j]) + (b[j] + d[j]);
  }
}

// One chunk of rows whose four lanes are joined in one span of 4 * channels elements.
template <int K, class F, class Views>
void sum_folded_chunk(int64_t first, int64_t end, int64_t channels, F f, const Views& views,
                      float* partial) {
  constexpr auto inputs = std::make_index_sequence<std::tuple_size_v<Views>>{};
  float sums[K * row_lanes * folded_channels] = {};
  const int64_t width = row_lanes * channels;
  for (int64_t r = first; r < end; r += row_lanes) {
    const int64_t n = std::min(width, (end - r) * channels);
    add_span<K>(f, n, spans_at(views, r * channels, 0), sums, width, inputs);
  }
  add_lanes<K>(sums, channels, width, channels, partial, channels);
}

template <class View, class = void>
struct Shifted {  // a view that starts at channel c0 of a row
  static auto at(const View& v, int64_t first, int64_t row, int64_t) { return v.at(first, row); }
};
template <class T>
struct Shifted<HostView<PerChannel<T>>> {
  static auto at(const HostView<PerChannel<T>>& v, int64_t, int64_t, int64_t c0) {
    return typename HostView<PerChannel<T>>::Span{v.p + c0};
  }
};

template <int K, class F, class Views>
void sum_wide_chunk(int64_t first, int64_t end, int64_t channels, F f, const Views& views,
                    float* partial) {
  constexpr auto inputs = std::make_index_sequence<std::tuple_size_v<Views>>{};
  for (int64_t c0 = 0; c0 < channels; c0 += block_channels) {
    const int64_t n = std::min(block_channels, channels - c0);
    float sums[row_lanes * K * block_channels] = {};
    for (int64_t r = first; r < end; ++r) {
      const auto spans = std::apply(
          [&](const auto&... v) {
            return std::make_tuple(
                Shifted<std::decay_t<decltype(v)>>::at(v, r * channels + c0, r, c0)...);
          },
          views);
      add_span<K>(f, n, spans, sums + (r - first) % row_lanes * K * block_channels, block_channels,
                  inputs);
    }
    add_lanes<K>(sums, K * block_channels, block_channels, n, partial + c0, channels);
  }
}

// partial [chunks][K][channels] -> sums [K][channels], added in double: the chunks of a group, then
// the groups, from first to last.
template <class Sum>
void merge_chunks(int64_t chunks, int64_t columns, const float* partial, Sum* sums) {
  std::vector<double> total(size_t(columns), 0.0), group(total);
  for (int64_t first = 0; first < chunks; first += group_chunks) {
    std::fill(group.begin(), group.end(), 0.0);
    for (int64_t i = first; i < std::min(chunks, first + group_chunks); ++i)
      for (int64_t j = 0; j < columns; ++j) group[size_t(j)] += double(partial[i * columns + j]);
    for (size_t j = 0; j < total.size(); ++j) total[j] += group[j];
  }
  for (int64_t j = 0; j < columns; ++j) sums[j] = Sum(total[size_t(j)]);
}

template <int K, class F, class... Operands>
void sum_chunks(int64_t rows, int64_t channels, F f, float* partial, Operands... operands) {
  static_assert((Foldable<Operands>::value && ...),
                "sum_columns takes elements, per-channel values and scalars");
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  const bool folded = channels <= folded_channels;
  const int64_t width = folded ? row_lanes * channels : channels;
#pragma omp parallel if (rows * channels >= serial_below)
  {
    const auto views = make_views(channels, width, operands...);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t first = i * chunk_rows, end = std::min(rows, first + chunk_rows);
      float* const target = partial + i * K * channels;
      if (folded)
        sum_folded_chunk<K>(first, end, channels, f, views, target);
      else
        sum_wide_chunk<K>(first, end, channels, f, views, target);
    }
  }
}

template <int K, class F, class Sum, class... Operands>
void host_sum_columns(int64_t rows, int64_t channels, F f, float* partial, Sum* sums,
                      Operands... operands) {
  sum_chunks<K>(rows, channels, f, partial, operands...);
  merge_chunks((rows + chunk_rows - 1) / chunk_rows, K * channels, partial, sums);
}
template <int K, class F, class... Outs, class... Operands>
void host_sum_columns(int64_t rows, int64_t channels, F f, float* partial,
                      const Finish<Outs...>& to, Operands... operands) {
  std::vector<float> sums(size_t(K * channels));
  host_sum_columns<K>(rows, channels, f, partial, sums.data(), operands...);
  host_finish(channels, sums.data(), to, std::make_index_sequence<K>{});
}

struct Identity {
  QT_HD Values<1> operator()(float x) const { return {{x}}; }
};
struct SquaredDeviation {
  QT_HD Values<1> operator()(float x, float mean) const {
    const float d = x - mean;
    return {{d * d}};
  }
};

// What becomes of merged moments: mean and variance in f32, or mean and squared deviations as they
// are.
QT_HD inline void store_moments(double mean, double m2, int64_t rows, float* to_mean,
                                float* to_var) {
  *to_mean = float(mean);
  *to_var = float(m2 / double(rows));
}
QT_HD inline void store_moments(double mean, double m2, int64_t, double* to_mean, double* to_m2) {
  *to_mean = mean;
  *to_m2 = m2;
}

// How the moments of rows are merged into those of the rows before them (Chan, Golub & LeVeque
// 1983): known without the numbers.
struct MergeWeights {
  double share, weight;
};
QT_HD inline MergeWeights merge_weights(int64_t rows_before, int64_t rows) {
  const double share = double(rows) / (double(rows_before) + double(rows));
  return {share, double(rows_before) * share};
}
QT_HD inline void merge_moments_of(double mean, double m2, MergeWeights weights, double& all_mean,
                                   double& all_m2) {
  const double delta = mean - all_mean;
  all_mean += delta * weights.share;
  all_m2 += m2 + delta * delta * weights.weight;
}

// partial [chunks][mean, M2][channels]; the last chunk may have fewer rows. Chunks into groups,
// groups from first to last.
template <class T>
void merge_moments(int64_t rows, int64_t channels, const float* partial, T* mean, T* spread) {
  std::vector<double> m(size_t(channels), 0.0), m2(m), group_m(m), group_m2(m);
  for (int64_t start = 0; start < rows; start += group_rows) {
    const int64_t in_group = std::min(group_rows, rows - start);
    std::fill(group_m.begin(), group_m.end(), 0.0);
    std::fill(group_m2.begin(), group_m2.end(), 0.0);
    for (int64_t first = 0; first < in_group; first += chunk_rows, partial += 2 * channels) {
      const auto weights = merge_weights(first, std::min(chunk_rows, in_group - first));
      for (int64_t c = 0; c < channels; ++c)
        merge_moments_of(double(partial[c]), double(partial[channels + c]), weights,
                         group_m[size_t(c)], group_m2[size_t(c)]);
    }
    const auto weights = merge_weights(start, in_group);
    for (size_t c = 0; c < m.size(); ++c)
      merge_moments_of(group_m[c], group_m2[c], weights, m[c], m2[c]);
  }
  for (int64_t c = 0; c < channels; ++c)
    store_moments(m[size_t(c)], m2[size_t(c)], rows, mean + c, spread + c);
}

template <class F, class... Operands>
void chunk_sum(int64_t first, int64_t end, int64_t channels, F f, float* target,
               Operands... operands) {
  const bool folded = channels <= folded_channels;
  const auto views = make_views(channels, folded ? row_lanes * channels : channels, operands...);
  if (folded)
    sum_folded_chunk<1>(first, end, channels, f, views, target);
  else
    sum_wide_chunk<1>(first, end, channels, f, views, target);
}

template <class T>
void host_column_moments(int64_t rows, int64_t channels, const float* x, float* partial, T* mean,
                         T* spread) {
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
#pragma omp parallel for schedule(static) if (rows * channels >= serial_below)
  for (int64_t i = 0; i < chunks; ++i) {
    const int64_t first = i * chunk_rows, end = std::min(rows, first + chunk_rows);
    float* const target = partial + i * 2 * channels;
    chunk_sum(first, end, channels, Identity{}, target, in(x));
    for (int64_t c = 0; c < channels; ++c) target[c] /= float(end - first);
    chunk_sum(first, end, channels, SquaredDeviation{}, target + channels, in(x),
              per_channel(target));
  }
  merge_moments(rows, channels, partial, mean, spread);
}
template <class... Outs>
void host_column_moments(int64_t rows, int64_t channels, const float* x, float* partial,
                         const Finish<Outs...>& to) {
  std::vector<float> moments(size_t(2 * channels));
  host_column_moments(rows, channels, x, partial, moments.data(), moments.data() + channels);
  host_finish(channels, moments.data(), to, std::make_index_sequence<2>{});
}

// lanes [column_lanes] -> one number, as warp shuffles and a last warp would: strides 16 .. 1
// inside groups of 32, then 4 .. 1.
template <class Combine>
float tree(float* lanes, Combine combine) {
  float groups[column_lanes / 32];
  for (int g = 0; g < column_lanes / 32; ++g) {
    float* const v = lanes + 32 * g;
    for (int half = 16; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) v[i] = combine(v[i], v[i + half]);
    groups[g] = v[0];
  }
  for (int half = column_lanes / 64; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) groups[i] = combine(groups[i], groups[i + half]);
  return groups[0];
}

// Part of a row: the first results of f are stored, the last K added to lanes [K][column_lanes].
template <int K, class F, class Spans, size_t... I, size_t... O>
inline void add_row_part(F f, int64_t first, int64_t n, Spans spans, float* lanes,
                         std::index_sequence<I...>, std::index_sequence<O...>) {
  static_assert(K <= 3);
  constexpr int stored = int(sizeof...(O));
  float *const s0 = lanes, *const s1 = lanes + (K > 1 ? column_lanes : 0),
               *const s2 = lanes + (K > 2 ? 2 * column_lanes : 0);
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const Values<stored + K> v = f(std::get<I>(spans).get(first + j)...);
    (std::get<sizeof...(I) + O>(spans).put(first + j, v.v[O]), ...);
    s0[j] += v.v[stored];
    if constexpr (K > 1) s1[j] += v.v[stored + 1];
    if constexpr (K > 2) s2[j] += v.v[stored + 2];
  }
}

template <int K, class F, class... Operands>
void host_sum_rows(int64_t rows, int64_t channels, F f, float* sums, Operands... operands) {
  constexpr size_t outputs = count_outputs<Operands...>, inputs = sizeof...(Operands) - outputs;
#pragma omp parallel if (rows * channels >= serial_below)
  {
    const auto views = make_views(channels, channels, operands...);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      float lanes[K * column_lanes] = {};
      const auto spans = spans_at(views, r * channels, r);
      for (int64_t c = 0; c < channels; c += column_lanes)
        add_row_part<K>(f, c, std::min<int64_t>(column_lanes, channels - c), spans, lanes,
                        std::make_index_sequence<inputs>{}, std::make_index_sequence<outputs>{});
      for (int k = 0; k < K; ++k)
        sums[k * rows + r] = tree(lanes + k * column_lanes, [](float a, float b) { return a + b; });
    }
  }
}
template <int K, class F, class... Outs, class... Operands>
void host_sum_rows(int64_t rows, int64_t channels, F f, const Finish<Outs...>& to,
                   Operands... operands) {
  std::vector<float> sums(size_t(K * rows));
  host_sum_rows<K>(rows, channels, f, sums.data(), operands...);
  host_finish(rows, sums.data(), to, std::make_index_sequence<K>{});
}

template <class F, class... Operands>
void host_max_rows(int64_t rows, int64_t channels, F f, float* most, Operands... operands) {
#pragma omp parallel if (rows * channels >= serial_below)
  {
    const auto views = make_views(channels, channels, operands...);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      float best = -std::numeric_limits<float>::infinity();
      for (int64_t c = 0; c < channels; ++c) {
        const float v = std::apply(
            [&](const auto&... view) { return f(view.at(r * channels, r).get(c)...); }, views);
        best = v > best ? v : best;
      }
      most[r] = best;
    }
  }
}

}  // namespace qt::kernel
