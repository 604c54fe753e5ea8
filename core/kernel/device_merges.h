// core/kernel/device_merges.h -- what chunks of rows have given is merged: the chunks of each
// group, then the groups, from first to last. Included by launch.h where a compiler for device code
// reads it.
//
// All threads of a block fetch the numbers of some items for 32 channels, then one warp for each
// sum adds them while the others fetch the next: the order is fixed, and nobody waits for memory
// one number at a time.
#pragma once
#include <utility>

#include "core/device/stream.h"
#include "core/kernel/device_values.h"
#include "core/kernel/device_words.h"
#include "core/kernel/finish.h"
#include "core/kernel/host_sums.h"

namespace qt::kernel {

constexpr int merge_channels = 32, merge_lanes = 8;
// Items that are fetched at a time.
template <class From>
constexpr int merge_depth = 128 / int(sizeof(From));

inline int64_t groups_of(int64_t rows) { return (rows + group_rows - 1) / group_rows; }

// ---- where results go ----
template <class F, int K, size_t... I, class... V>
__device__ auto called_with(const F& f, const Values<K>& results, std::index_sequence<I...>,
                            V... v) {
  return f(results.v[I]..., v...);
}
// The results of number i of n.
template <int K, class F, class... Operands>
__device__ void store_results_of(const Finish<F, Operands...>& to, int64_t i, int64_t n,
                                 const Values<K>& results) {
  unpack_here(
      [&](const auto&... operands) {
        apply_at(
            [&](auto... v) {
              return called_with(to.f, results, std::make_index_sequence<K>{}, v...);
            },
            i, 0, i, n, operands...);
      },
      to.operands);
}
template <int K>
__device__ void store_results_of(float* to, int64_t i, int64_t n, const Values<K>& results) {
  for (int k = 0; k < K; ++k) to[k * n + i] = results.v[k];
}

// ---- what is merged ----
template <int K>
struct Merged {
  double v[K];
};

// [groups][K][channels].
template <class T>
struct ToSums {
  T* sums;
  template <int K>
  __device__ void store(const Merged<K>& merged, int64_t group, int64_t c, int64_t channels,
                        int64_t) const {
    for (int k = 0; k < K; ++k) sums[(group * K + k) * channels + c] = T(merged.v[k]);
  }
};
// Those of group g lie g * 2 * channels numbers behind those of the first.
template <class T>
struct ToMoments {
  T *mean, *spread;
  __device__ void store(const Merged<2>& merged, int64_t group, int64_t c, int64_t channels,
                        int64_t rows) const {
    const int64_t to = group * 2 * channels + c;
    store_moments(merged.v[0], merged.v[1], rows, mean + to, spread + to);
  }
};
// Of one group.
template <class Rule, class F, class... Operands>
struct ToFinish {
  Finish<F, Operands...> finish;
  template <int K>
  __device__ void store(const Merged<K>& merged, int64_t, int64_t c, int64_t channels,
                        int64_t rows) const {
    store_results_of(finish, c, channels, Rule::rounded(merged, rows));
  }
};

// K sums, a warp for each.
template <int K>
struct MergedSums {
  static constexpr int values = K, warps = K;
  static constexpr bool weighted = false;
  double total = 0;
  template <class From>
  __device__ void add(const From* item, int warp, const MergeWeights*) {
    total += double(item[warp * merge_channels]);
  }
  __device__ void put(double* merged, int warp) const { merged[warp * merge_channels] = total; }
  static __device__ Values<K> rounded(const Merged<K>& merged, int64_t) {
    Values<K> r;
    for (int k = 0; k < K; ++k) r.v[k] = float(merged.v[k]);
    return r;
  }
  template <class T>
  static ToSums<T> to(T* sums) {
    return {sums};
  }
  template <class F, class... Operands>
  static ToFinish<MergedSums, F, Operands...> to(const Finish<F, Operands...>& finish) {
    return {finish};
  }
  static ToSums<double> to_groups(double* groups, int64_t) { return {groups}; }
};

// Mean and squared deviations, which need each other.
struct MergedMoments {
  static constexpr int values = 2, warps = 1;
  static constexpr bool weighted = true;
  double mean = 0, m2 = 0;
  template <class From>
  __device__ void add(const From* item, int, const MergeWeights* weights) {
    merge_moments_of(double(item[0]), double(item[merge_channels]), *weights, mean, m2);
  }
  __device__ void put(double* merged, int) const {
    merged[0] = mean;
    merged[merge_channels] = m2;
  }
  static __device__ Values<2> rounded(const Merged<2>& merged, int64_t rows) {
    Values<2> r;
    store_moments(merged.v[0], merged.v[1], rows, &r.v[0], &r.v[1]);
    return r;
  }
  template <class T>
  static ToMoments<T> to(T* mean, T* spread) {
    return {mean, spread};
  }
  template <class F, class... Operands>
  static ToFinish<MergedMoments, F, Operands...> to(const Finish<F, Operands...>& finish) {
    return {finish};
  }
  static ToMoments<double> to_groups(double* groups, int64_t channels) {
    return {groups, groups + channels};
  }
};

// ---- the kernel ----
// Items of `unit` rows each, of_block rows of them to a block.
struct MergeLevel {
  int64_t rows, unit, of_block;
};

// partial [items][Rule::values][channels]. Blocks: 32 channels in x, the groups in y.
template <class Rule, class From, class To>
__global__ void __launch_bounds__(merge_channels* merge_lanes)
    merge_kernel(MergeLevel level, int64_t channels, const From* partial, To to) {
  constexpr int values = Rule::values, most = merge_depth<From>;
  SHARED(From, fetched, 2 * most * values * merge_channels);
  SHARED(MergeWeights, fetched_weights, 2 * most);
  SHARED(double, merged, values* merge_channels);
  const int x = int(threadIdx.x), y = int(threadIdx.y), thread = y * merge_channels + x;
  const int64_t c = int64_t(blockIdx.x) * merge_channels + x, group = blockIdx.y;
  const int64_t rows = min(level.of_block, level.rows - group * level.of_block);
  const int64_t items = quotient(rows + level.unit - 1, level.unit);
  partial += group * quotient(level.of_block, level.unit) * values * channels;
  Rule sums;
  int half = 0;
  for (int64_t start = 0; start < items; start += most, half ^= 1) {
    From* const tile = fetched + half * most * values * merge_channels;
    MergeWeights* const weights = fetched_weights + half * most;
    const int depth = int(items - start < most ? items - start : most);
    if (c < channels)
      for (int i = y; i < depth * values; i += merge_lanes)
        tile[i * merge_channels + x] = partial[(start * values + i) * channels + c];
    if (Rule::weighted && thread < depth) {
      const int64_t before = (start + thread) * level.unit;
      weights[thread] = merge_weights(before, min(level.unit, rows - before));
    }
    __syncthreads();
    if (y < Rule::warps && c < channels)
      for (int i = 0; i < depth; ++i)
        sums.add(tile + i * values * merge_channels + x, y, weights + i);
  }
  if (y < Rule::warps && c < channels) sums.put(merged + x, y);
  __syncthreads();
  if (y > 0 || c >= channels) return;
  Merged<values> all;
  for (int k = 0; k < values; ++k) all.v[k] = merged[k * merge_channels + x];
  to.store(all, group, c, channels, rows);
}

template <class Rule, class From, class To>
void launch_merge(Stream stream, int64_t groups, const MergeLevel& level, int64_t channels,
                  const From* partial, const To& to) {
  const dim3 grid(unsigned((channels + merge_channels - 1) / merge_channels), unsigned(groups)),
      block(merge_channels, merge_lanes);
  launch(merge_kernel<Rule, From, To>, grid, block, 0, handle(stream), level, channels, partial,
         to);
  check_launch("merge_chunks");
}

// groups: room for [groups_of(rows)][Rule::values][channels]. Without rows there is one group of
// nothing.
template <class Rule, class To>
void merge_columns(Stream stream, int64_t rows, int64_t channels, const float* partial,
                   double* groups, const To& to) {
  const int64_t count = groups_of(rows);
  const MergeLevel of_chunks{rows, chunk_rows, group_rows}, of_groups{rows, group_rows, rows};
  if (count <= 1) return launch_merge<Rule>(stream, 1, of_chunks, channels, partial, to);
  launch_merge<Rule>(stream, count, of_chunks, channels, partial,
                     Rule::to_groups(groups, channels));
  launch_merge<Rule>(stream, 1, of_groups, channels, std::as_const(groups), to);
}

}  // namespace qt::kernel
