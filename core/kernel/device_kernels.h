// core/kernel/device_kernels.h -- the launchers' CUDA kernels. Included by launch.h where a
// compiler for device code reads it (core/kernel/device_words.h).
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/device/stream.h"
#include "core/kernel/device_packets.h"
#include "core/kernel/device_words.h"
#include "core/kernel/host_sums.h"
#include "core/kernel/operands.h"

namespace qt::kernel {

constexpr int block_threads = 256;

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

void check_launch(const char* kernel);  // core/device/cuda.cpp

inline int64_t most_blocks = 4096;  // whose threads then go on to further work; tests take fewer
inline unsigned blocks_for(int64_t n) {
  return unsigned(std::clamp<int64_t>((n + block_threads - 1) / block_threads, 1, most_blocks));
}
inline cudaStream_t handle(Stream stream) { return static_cast<cudaStream_t>(stream.cuda); }

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

// ---- merging of the chunks of each group, then of the groups, from first to last ----
// All threads of a block fetch the numbers of some chunks for 32 columns, then one warp adds them
// while the others fetch the next: the order is fixed, and nobody waits for memory one number at a
// time. Groups are few; a warp reads them one after the other.
constexpr int merge_columns = 32, merge_lanes = 8, merge_depth = 32;
inline dim3 merge_block() { return {merge_columns, merge_lanes}; }
inline unsigned merge_blocks(int64_t columns) {
  return unsigned((columns + merge_columns - 1) / merge_columns);
}
inline int64_t groups_of(int64_t rows) { return (rows + group_rows - 1) / group_rows; }
// Without rows there is one group of nothing, whose sums are zeros.
inline dim3 merge_grid(int64_t columns, int64_t rows) {
  return {merge_blocks(columns), unsigned(groups_of(rows) > 0 ? groups_of(rows) : 1)};
}

// sums [groups][columns].
template <class Sum>
__global__ void __launch_bounds__(merge_columns* merge_lanes)
    merge_kernel(int64_t chunks, int64_t columns, const float* partial, Sum* sums) {
  SHARED(float, fetched, 2 * merge_depth * merge_columns);
  const int x = int(threadIdx.x), y = int(threadIdx.y);
  const int64_t column = int64_t(blockIdx.x) * merge_columns + x, group = blockIdx.y;
  const int64_t end = min(chunks, (group + 1) * group_chunks);
  double total = 0;
  int half = 0;
  for (int64_t first = group * group_chunks; first < end; first += merge_depth, half ^= 1) {
    float* const tile = fetched + half * merge_depth * merge_columns;
    const int depth = int(end - first < merge_depth ? end - first : merge_depth);
    if (column < columns)
      for (int i = y; i < depth; i += merge_lanes)
        tile[i * merge_columns + x] = partial[(first + i) * columns + column];
    __syncthreads();
    if (y == 0 && column < columns)
      for (int i = 0; i < depth; ++i) total += double(tile[i * merge_columns + x]);
  }
  if (y == 0 && column < columns) sums[group * columns + column] = Sum(total);
}

template <class Sum>
__global__ void __launch_bounds__(merge_columns)
    merge_groups_kernel(int64_t groups, int64_t columns, const double* of_groups, Sum* sums) {
  const int64_t column = int64_t(blockIdx.x) * merge_columns + int(threadIdx.x);
  if (column >= columns) return;
  double total = 0;
  for (int64_t group = 0; group < groups; ++group) total += of_groups[group * columns + column];
  sums[column] = Sum(total);
}

// groups: room for [groups_of(rows)][K][channels].
template <int K, class F, class Sum, class... Operands>
void device_sum_columns(Stream stream, int64_t rows, int64_t channels, F f, float* partial,
                        double* groups, Sum* sums, Operands... operands) {
  const bool wide =
      channels % column_packet == 0 && (allows_packets<column_packet>(operands) && ...);
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  if (chunks > 0) {
    launch(chunk_kernel<K, F, Operands...>, chunk_grid(rows, channels), chunk_block(), 0,
           handle(stream), f, rows, channels, wide, partial, operands...);
    check_launch("sum_columns");
  }
  const int64_t columns = K * channels;
  const dim3 grid = merge_grid(columns, rows);
  if (grid.y == 1) {
    launch(merge_kernel<Sum>, grid, merge_block(), 0, handle(stream), chunks, columns, partial,
           sums);
  } else {
    launch(merge_kernel<double>, grid, merge_block(), 0, handle(stream), chunks, columns, partial,
           groups);
    check_launch("merge_chunks");
    launch(merge_groups_kernel<Sum>, merge_blocks(columns), dim3(merge_columns), 0, handle(stream),
           int64_t(grid.y), columns, groups, sums);
  }
  check_launch("merge_chunks");
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

// mean and spread of group g: g * 2 * channels numbers behind those of the first.
template <class T>
__global__ void __launch_bounds__(merge_columns* merge_lanes)
    merge_moments_kernel(int64_t all_rows, int64_t channels, const float* partial, T* mean,
                         T* spread) {
  SHARED(float, fetched, 2 * merge_depth * 2 * merge_columns);
  SHARED(MergeWeights, fetched_weights, 2 * merge_depth);
  const int x = int(threadIdx.x), y = int(threadIdx.y);
  const int64_t c = int64_t(blockIdx.x) * merge_columns + x, group = blockIdx.y;
  const int64_t rows = min(group_rows, all_rows - group * group_rows);
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  partial += group * group_chunks * 2 * channels;
  double m = 0, m2 = 0;
  int half = 0;
  for (int64_t start = 0; start < chunks; start += merge_depth, half ^= 1) {
    float* const tile = fetched + half * merge_depth * 2 * merge_columns;
    MergeWeights* const weights = fetched_weights + half * merge_depth;
    const int depth = int(chunks - start < merge_depth ? chunks - start : merge_depth);
    for (int i = y; i < depth; i += merge_lanes) {
      const float* const from = partial + (start + i) * 2 * channels + c;
      if (c < channels) {
        tile[2 * i * merge_columns + x] = from[0];
        tile[(2 * i + 1) * merge_columns + x] = from[channels];
      }
      if (x != 0) continue;
      const int64_t first = (start + i) * chunk_rows;
      weights[i] = merge_weights(first, min(chunk_rows, rows - first));
    }
    __syncthreads();
    if (y == 0 && c < channels)
      for (int i = 0; i < depth; ++i)
        merge_moments_of(double(tile[2 * i * merge_columns + x]),
                         double(tile[(2 * i + 1) * merge_columns + x]), weights[i], m, m2);
  }
  const int64_t to = group * 2 * channels + c;
  if (y == 0 && c < channels) store_moments(m, m2, rows, mean + to, spread + to);
}

// of_groups [groups][mean, squared deviations][channels].
template <class T>
__global__ void __launch_bounds__(merge_columns)
    merge_moment_groups_kernel(int64_t rows, int64_t channels, const double* of_groups, T* mean,
                               T* spread) {
  const int64_t c = int64_t(blockIdx.x) * merge_columns + int(threadIdx.x);
  if (c >= channels) return;
  double m = 0, m2 = 0;
  for (int64_t start = 0; start < rows; start += group_rows, of_groups += 2 * channels)
    merge_moments_of(of_groups[c], of_groups[channels + c],
                     merge_weights(start, min(group_rows, rows - start)), m, m2);
  store_moments(m, m2, rows, mean + c, spread + c);
}

// groups: room for [groups_of(rows)][2][channels].
template <class T>
void device_column_moments(Stream stream, int64_t rows, int64_t channels, const float* x,
                           float* partial, double* groups, T* mean, T* spread) {
  const bool wide = channels % column_packet == 0 && holds_packets<column_packet>(x);
  if (rows > 0) {
    launch(chunk_moments_kernel, chunk_grid(rows, channels), chunk_block(), 0, handle(stream), rows,
           channels, wide, x, partial);
    check_launch("chunk_moments");
  }
  const dim3 grid = merge_grid(channels, rows);
  if (grid.y == 1) {
    launch(merge_moments_kernel<T>, grid, merge_block(), 0, handle(stream), rows, channels, partial,
           mean, spread);
  } else {
    launch(merge_moments_kernel<double>, grid, merge_block(), 0, handle(stream), rows, channels,
           partial, groups, groups + channels);
    check_launch("merge_moments");
    launch(merge_moment_groups_kernel<T>, merge_blocks(channels), dim3(merge_columns), 0,
           handle(stream), rows, channels, groups, mean, spread);
  }
  check_launch("merge_moments");
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

template <int K, class F, class... Operands>
__global__ void __launch_bounds__(column_lanes)
    row_kernel(F f, int64_t rows, int64_t channels, float* sums, Operands... operands) {
  SHARED(float, warps, 8);
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    Values<K> sum{};
    for (int64_t c = threadIdx.x; c < channels; c += column_lanes) {
      const Values<K> v = f(value_at(operands, r * channels + c, r, c, channels)...);
      for (int k = 0; k < K; ++k) sum.v[k] += v.v[k];
    }
    for (int k = 0; k < K; ++k) {
      const float total = block_tree(sum.v[k], warps, Plus{});
      if (threadIdx.x == 0) sums[k * rows + r] = total;
    }
  }
}

template <int K, class F, class... Operands>
void device_sum_rows(Stream stream, int64_t rows, int64_t channels, F f, float* sums,
                     Operands... operands) {
  launch(row_kernel<K, F, Operands...>, unsigned(std::min<int64_t>(rows, 4096)), column_lanes, 0,
         handle(stream), f, rows, channels, sums, operands...);
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
