// core/kernel/device_kernels.h -- the launchers' CUDA kernels. Included by launch.h where a
// compiler for device code reads it (core/kernel/device_words.h).
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/device/stream.h"
#include "core/kernel/device_merges.h"
#include "core/kernel/device_packets.h"
#include "core/kernel/device_values.h"
#include "core/kernel/device_words.h"
#include "core/kernel/host_sums.h"
#include "core/kernel/operands.h"

namespace qt::kernel {

constexpr int block_threads = 256;

// Element i.
template <class F, class... Operands>
__device__ void map_element(const F& f, int64_t i, int64_t channels, const Operands&... operands) {
  const int64_t row = quotient(i, channels);
  apply_at([&](auto... v) { return f(v...); }, i, row, i - row * channels, channels, operands...);
}

// Work unit `unit` of a map: a packet of N elements for each of the first `packets`, then one
// element each.
template <int N, class F, class... Operands>
__device__ void map_unit(const F& f, int64_t unit, int64_t packets, int64_t channels,
                         const Operands&... operands) {
  if (unit >= packets) return map_element(f, unit + packets * (N - 1), channels, operands...);
  const int64_t i = unit * N, row = quotient(i, channels);
  apply_packets<N>([&](int, auto... v) { return f(v...); }, Place{i, row, i - row * channels},
                   operands...);
}

// The packets of one thread: `at`, and those that follow it, `by` apart, in the same channels.
template <int N, class F, class... Operands>
__device__ void map_packets(const F& f, Place at, const Place& by, int64_t end,
                            const Operands&... operands) {
  const auto call = [&](int, auto... v) { return f(v...); };
  const auto after = [&](const Place& p) { return Place{p.i + by.i, p.row + by.row, p.channel}; };
  Place next = after(at);
  for (; next.i < end; at = after(next), next = after(at))
    apply_packets<N>(call, PlacePair{at, next}, operands...);
  if (at.i < end) apply_packets<N>(call, at, operands...);
}

// First `packets` packets, then element after element. From one packet of a thread to its next are
// `by_rows` whole rows (0 where operands do not ask for rows and channels): no division on the way,
// and what depends on the channel is read once.
template <int N, class F, class... Operands>
__global__ void __launch_bounds__(block_threads)
    map_kernel(F f, int64_t elements, int64_t packets, int64_t channels, int64_t by_rows,
               Operands... operands) {
  const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x,
                step = int64_t(gridDim.x) * blockDim.x;
  if (first < packets) {
    const int64_t i = first * N, row = by_rows > 0 ? quotient(i, channels) : 0;
    const int64_t channel = by_rows > 0 ? i - row * channels : 0;
    map_packets<N>(f, Place{i, row, channel}, Place{step * N, by_rows, 0}, packets * N,
                   hold<N>(operands, channel)...);
  }
  AS_WRITTEN
  for (int64_t i = packets * N + first; i < elements; i += step)
    map_element(f, i, channels, operands...);
}

inline int64_t most_blocks = 4096;  // whose threads then go on to further work; tests take fewer
inline unsigned blocks_for(int64_t n) {
  return unsigned(std::clamp<int64_t>((n + block_threads - 1) / block_threads, 1, most_blocks));
}

template <class F, class... Operands>
void device_map(Stream stream, int64_t rows, int64_t channels, F f, Operands... operands) {
  constexpr int n = packet_elements<Operands...>;
  constexpr bool flat = (IsFlat<Operands>::value && ...);
  const int64_t elements = rows * channels, packets = packets_of<n>(rows, channels, operands...);
  int64_t blocks = blocks_for(packets > 0 ? (packets + 1) / 2 : elements), by_rows = 0;
  if (packets > 0 && !flat) {
    // As many blocks more as it takes for all threads together to have whole rows.
    constexpr int64_t of_block = int64_t{n} * block_threads;
    const int64_t whole = channels / std::gcd(channels, of_block);
    blocks = (blocks + whole - 1) / whole * whole;
    by_rows = blocks * of_block / channels;
  }
  launch(map_kernel<n, F, Operands...>, unsigned(blocks), block_threads, 0, handle(stream), f,
         elements, packets, channels, by_rows, operands...);
  check_launch("map");
}

template <class F, class T>
__global__ void __launch_bounds__(block_threads) generate_kernel(F f, int64_t n, T* to) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) to[i] = f(i);
}

template <class F, class T>
void device_generate(Stream stream, int64_t n, F f, T* to) {
  launch(generate_kernel<F, T>, blocks_for(n), block_threads, 0, handle(stream), f, n, to);
  check_launch("generate");
}

// ---- sums of columns ----
// A warp adds one chunk of rows for 32 channels: eight threads side by side have four channels
// each, lane y adds rows y, y + 4, ...; lanes are added as a tree.
constexpr int column_packet = 4, tile_columns = 32, warps_of_chunks = 4;
constexpr int tile_packets = tile_columns / column_packet;
static_assert(tile_packets * row_lanes == 32, "the lanes of a tile are a warp");

struct ChunkTile {
  int lane, rows;        // of the calling thread, of the chunk
  int64_t chunk, first;  // first row
  int64_t c;             // first of four channels
};
// Blocks side by side have the tiles of one group of chunks. All in x: y ends at 65535.
__device__ inline ChunkTile chunk_tile(int64_t rows, int64_t channels) {
  const auto tiles = unsigned((channels + tile_columns - 1) / tile_columns);
  const unsigned group = blockIdx.x / tiles, tile = blockIdx.x - group * tiles;
  const int64_t chunk = int64_t(group) * warps_of_chunks + threadIdx.z, first = chunk * chunk_rows;
  const int64_t left = rows - first;
  return {int(threadIdx.y), int(left < chunk_rows ? left : chunk_rows), chunk, first,
          int64_t(tile) * tile_columns + int(threadIdx.x) * column_packet};
}
inline unsigned chunk_grid(int64_t rows, int64_t channels) {
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  return unsigned((channels + tile_columns - 1) / tile_columns *
                  ((chunks + warps_of_chunks - 1) / warps_of_chunks));
}
inline dim3 chunk_block() { return {tile_packets, row_lanes, warps_of_chunks}; }

template <int K>
__device__ void add_values(Values<K>& sum, const Values<K>& v) {
  for (int k = 0; k < K; ++k) sum.v[k] += v.v[k];
}

// sums[j] += f(...) of four channels at each of the places, one place after the other.
template <int K, class F, class At, class... Operands>
__device__ void add_packets(Values<K>* sums, const F& f, const At& at,
                            const Operands&... operands) {
  const auto add = [&](const auto&... packets) {
    for (int j = 0; j < column_packet * At::packets; ++j)
      add_values(sums[j % column_packet], f(packets.v[j]...));
  };
  add(packet_at<column_packet>(operands, at)...);
}

// The rows of the calling thread, in packets.
template <int K, class F, class... Operands>
__device__ void add_lane(Values<K>* sums, const F& f, const ChunkTile& tile, int64_t channels,
                         const Operands&... operands) {
  const auto place = [&](int r) {
    const int64_t row = tile.first + r;
    return Place{row * channels + tile.c, row, tile.c};
  };
  int r = tile.lane;
  for (; r + row_lanes < tile.rows; r += 2 * row_lanes)
    add_packets(sums, f, PlacePair{place(r), place(r + row_lanes)}, operands...);
  if (r < tile.rows) add_packets(sums, f, place(r), operands...);
}

// The same where channels or addresses forbid packets.
template <int K, class F, class... Operands>
__device__ void add_lane_by_elements(Values<K>* sums, const F& f, const ChunkTile& tile,
                                     int64_t channels, const Operands&... operands) {
  AS_WRITTEN
  for (int r = tile.lane; r < tile.rows; r += row_lanes)
    for (int j = 0; j < column_packet && tile.c + j < channels; ++j) {
      const int64_t row = tile.first + r, c = tile.c + j;
      add_values(sums[j], f(value_at(operands, row * channels + c, row, c, channels)...));
    }
}

// (lane 0 + lane 2) + (lane 1 + lane 3), in the threads of lane 0.
__device__ inline float lanes_added(float v) {
  v += __shfl_down_sync(~0u, v, 2 * tile_packets);
  return v + __shfl_down_sync(~0u, v, tile_packets);
}

template <int K, class F, class... Operands>
__global__ void __launch_bounds__(32 * warps_of_chunks)
    chunk_kernel(F f, int64_t rows, int64_t channels, bool wide, float* partial,
                 Operands... operands) {
  const ChunkTile at = chunk_tile(rows, channels);
  Values<K> sums[column_packet] = {};
  if (at.c < channels) {
    if (wide)
      add_lane(sums, f, at, channels, hold<column_packet>(operands, at.c)...);
    else
      add_lane_by_elements(sums, f, at, channels, operands...);
  }
  for (int k = 0; k < K; ++k)
    for (int j = 0; j < column_packet; ++j) {
      const float total = lanes_added(sums[j].v[k]);
      if (at.lane == 0 && at.rows > 0 && at.c + j < channels)
        partial[(at.chunk * K + k) * channels + at.c + j] = total;
    }
}

// groups: room for [groups_of(rows)][K][channels].
template <int K, class F, class Sums, class... Operands>
void device_sum_columns(Stream stream, int64_t rows, int64_t channels, F f, float* partial,
                        double* groups, Sums sums, Operands... operands) {
  const bool wide =
      channels % column_packet == 0 && (allows_packets<column_packet>(operands) && ...);
  if (rows > 0) {
    launch(chunk_kernel<K, F, Operands...>, chunk_grid(rows, channels), chunk_block(), 0,
           handle(stream), f, rows, channels, wide, partial, operands...);
    check_launch("sum_columns");
  }
  merge_columns<MergedSums<K>>(stream, rows, channels, partial, groups, MergedSums<K>::to(sums));
}

// ---- moments of columns ----
// partial [chunks][mean, squared deviations][channels] of one chunk.
__device__ inline float lane_mean(const Values<1>& sum, int rows) {
  return __shfl_sync(~0u, lanes_added(sum.v[0]) / float(rows), int(threadIdx.x));
}
__device__ inline void store_chunk_moments(const ChunkTile& at, int64_t channels,
                                           const float* means, const Values<1>* deviations,
                                           float* partial) {
  for (int j = 0; j < column_packet; ++j) {
    const float total = lanes_added(deviations[j].v[0]);
    if (at.lane != 0 || at.rows <= 0 || at.c + j >= channels) continue;
    float* const target = partial + at.chunk * 2 * channels + at.c + j;
    target[0] = means[j];
    target[channels] = total;
  }
}

// A whole chunk in packets: its numbers stay in registers between the mean and the deviations from
// it, so that memory is read once.
__device__ inline void whole_chunk_moments(const ChunkTile& at, int64_t channels,
                                           const float* input, float* partial) {
  constexpr int lane_rows = int(chunk_rows) / row_lanes;
  Lanes<float, column_packet> numbers[lane_rows] = {};
  const float* from = input + (at.first + at.lane) * channels + at.c;
  if (at.c < channels) {
    UNROLLED
    for (int r = 0; r < lane_rows; ++r, from += row_lanes * channels)
      numbers[r] = packet_of<column_packet>(from);
  }
  Values<1> sums[column_packet] = {}, deviations[column_packet] = {};
  float means[column_packet];
  UNROLLED
  for (int r = 0; r < lane_rows; ++r)
    for (int j = 0; j < column_packet; ++j) sums[j].v[0] += numbers[r].v[j];
  for (int j = 0; j < column_packet; ++j) means[j] = lane_mean(sums[j], at.rows);
  UNROLLED
  for (int r = 0; r < lane_rows; ++r)
    for (int j = 0; j < column_packet; ++j)
      add_values(deviations[j], SquaredDeviation{}(numbers[r].v[j], means[j]));
  store_chunk_moments(at, channels, means, deviations, partial);
}

static __global__ void __launch_bounds__(32 * warps_of_chunks)
    chunk_moments_kernel(int64_t rows, int64_t channels, bool wide, const float* input,
                         float* partial) {
  const ChunkTile at = chunk_tile(rows, channels);  // a warp has one chunk
  if (wide && at.rows == chunk_rows) return whole_chunk_moments(at, channels, input, partial);
  Values<1> sums[column_packet] = {}, deviations[column_packet] = {};
  float means[column_packet];
  const Element<float> x{input};
  add_lane_by_elements(sums, Identity{}, at, channels, x);
  for (int j = 0; j < column_packet; ++j) means[j] = lane_mean(sums[j], at.rows);
  AS_WRITTEN
  for (int r = at.lane; r < at.rows; r += row_lanes)
    for (int j = 0; j < column_packet && at.c + j < channels; ++j)
      add_values(deviations[j],
                 SquaredDeviation{}(input[(at.first + r) * channels + at.c + j], means[j]));
  store_chunk_moments(at, channels, means, deviations, partial);
}

// groups: room for [groups_of(rows)][2][channels].
template <class... Moments>
void device_column_moments(Stream stream, int64_t rows, int64_t channels, const float* x,
                           float* partial, double* groups, Moments... moments) {
  const bool wide = channels % column_packet == 0 && holds_packets<column_packet>(x);
  if (rows > 0) {
    launch(chunk_moments_kernel, chunk_grid(rows, channels), chunk_block(), 0, handle(stream), rows,
           channels, wide, x, partial);
    check_launch("chunk_moments");
  }
  merge_columns<MergedMoments>(stream, rows, channels, partial, groups,
                               MergedMoments::to(moments...));
}

// ---- sums of rows ----
struct Plus {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Largest {
  __device__ float operator()(float a, float b) const { return b > a ? b : a; }
};

// The tree of host_sums.h: strides 16 .. 1 in each warp, then 4 .. 1 over the eight warps. Thread 0
// has the result. The last shuffles are eight lanes wide: no lane reads one that does not take
// part.
template <class Combine>
__device__ float block_tree(float v, float* warps, Combine combine) {
  for (int by = 16; by > 0; by /= 2) v = combine(v, __shfl_down_sync(~0u, v, by));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x < 8) {
    v = warps[threadIdx.x];
    for (int by = 4; by > 0; by /= 2) v = combine(v, __shfl_down_sync(0xffu, v, by, 8));
  }
  __syncthreads();
  return v;
}

// What f gives for element i of row r: the last K values are added to sum, those before them
// stored.
template <int K, class F, class... Operands>
__device__ void add_element(Values<K>& sum, const F& f, int64_t i, int64_t r, int64_t c,
                            int64_t channels, const Operands&... operands) {
  constexpr int outputs = int(count_outputs<Operands...>);
  const auto added = [&](auto... v) {
    const Values<outputs + K> results = f(v...);
    for (int k = 0; k < K; ++k) sum.v[k] += results.v[outputs + k];
    return results;
  };
  if constexpr (outputs > 0)
    apply_at(added, i, r, c, channels, operands...);
  else
    added(value_at(operands, i, r, c, channels)...);
}

template <int K, class F, class To, class... Operands>
__global__ void __launch_bounds__(column_lanes)
    row_kernel(F f, int64_t rows, int64_t channels, To to, Operands... operands) {
  SHARED(float, warps, 8);
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    Values<K> sum{};
    for (int64_t c = threadIdx.x; c < channels; c += column_lanes)
      add_element<K>(sum, f, r * channels + c, r, c, channels, operands...);
    for (int k = 0; k < K; ++k) sum.v[k] = block_tree(sum.v[k], warps, Plus{});
    if (threadIdx.x == 0) store_results_of(to, r, rows, sum);
  }
}

template <int K, class F, class Sums, class... Operands>
void device_sum_rows(Stream stream, int64_t rows, int64_t channels, F f, Sums sums,
                     Operands... operands) {
  launch(row_kernel<K, F, Sums, Operands...>, unsigned(std::min<int64_t>(rows, 4096)), column_lanes,
         0, handle(stream), f, rows, channels, sums, operands...);
  check_launch("sum_rows");
}

template <class F, class... Operands>
__global__ void __launch_bounds__(column_lanes)
    row_max_kernel(F f, int64_t rows, int64_t channels, float* most, Operands... operands) {
  SHARED(float, warps, 8);
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    float best = -INFINITY;
    for (int64_t c = threadIdx.x; c < channels; c += column_lanes)
      best = Largest{}(best, f(value_at(operands, r * channels + c, r, c, channels)...));
    best = block_tree(best, warps, Largest{});
    if (threadIdx.x == 0) most[r] = best;
  }
}

template <class F, class... Operands>
void device_max_rows(Stream stream, int64_t rows, int64_t channels, F f, float* most,
                     Operands... operands) {
  launch(row_max_kernel<F, Operands...>, unsigned(std::min<int64_t>(rows, 4096)), column_lanes, 0,
         handle(stream), f, rows, channels, most, operands...);
  check_launch("max_rows");
}

}  // namespace qt::kernel
