// core/kernel/device_kernels.h -- the launchers' CUDA kernels. Included by launch.h where a
// compiler for device code reads it (core/kernel/device_words.h).
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/device/stream.h"
#include "core/kernel/device_words.h"
#include "core/kernel/host_sums.h"
#include "core/kernel/host_windows.h"
#include "core/kernel/operands.h"

namespace qt::kernel {

constexpr int block_threads = 256, tile_columns = 32;

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
  return loaded(*o.p);
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

template <class F, class... Operands>
__global__ void __launch_bounds__(block_threads)
    map_kernel(F f, int64_t rows, int64_t channels, Operands... operands) {
  const int64_t n = rows * channels, step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    apply_at([&](auto... v) { return f(v...); }, i, i / channels, i % channels, channels,
             operands...);
}

void check_launch(const char* kernel);  // core/device/cuda.cpp

inline unsigned blocks_for(int64_t n) {
  return unsigned(std::clamp<int64_t>((n + block_threads - 1) / block_threads, 1, 4096));
}
inline cudaStream_t handle(Stream stream) { return static_cast<cudaStream_t>(stream.cuda); }

template <class F, class... Operands>
void device_map(Stream stream, int64_t rows, int64_t channels, F f, Operands... operands) {
  launch(map_kernel<F, Operands...>, blocks_for(rows * channels), block_threads, 0, handle(stream),
         f, rows, channels, operands...);
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

// A block adds one chunk of rows for 32 channels: lane y adds rows y, y + 4, ...; lanes are added
// as a tree.
template <int K, class F, class... Operands>
__global__ void __launch_bounds__(tile_columns* row_lanes)
    chunk_kernel(F f, int64_t rows, int64_t channels, float* partial, int64_t partial_stride,
                 Operands... operands) {
  SHARED(float, tile, K* row_lanes* tile_columns);
  const int x = threadIdx.x, y = threadIdx.y;
  const int64_t c = int64_t(blockIdx.x) * tile_columns + x,
                first = int64_t(blockIdx.y) * chunk_rows;
  const int64_t end = min(rows, first + chunk_rows);
  Values<K> sum{};
  if (c < channels)
    for (int64_t r = first + y; r < end; r += row_lanes) {
      const Values<K> v = f(value_at(operands, r * channels + c, r, c, channels)...);
      for (int k = 0; k < K; ++k) sum.v[k] += v.v[k];
    }
  for (int k = 0; k < K; ++k) tile[(k * row_lanes + y) * tile_columns + x] = sum.v[k];
  __syncthreads();
  for (int half = row_lanes / 2; half > 0; half /= 2) {
    if (y < half)
      for (int k = 0; k < K; ++k)
        tile[(k * row_lanes + y) * tile_columns + x] +=
            tile[(k * row_lanes + y + half) * tile_columns + x];
    __syncthreads();
  }
  if (y == 0 && c < channels)
    for (int k = 0; k < K; ++k)
      partial[int64_t(blockIdx.y) * partial_stride + k * channels + c] =
          tile[k * row_lanes * tile_columns + x];
}

template <class Sum>
__global__ void __launch_bounds__(block_threads)
    merge_kernel(int64_t chunks, int64_t columns, const float* partial, Sum* sums) {
  const int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j >= columns) return;
  double total = 0;
  for (int64_t i = 0; i < chunks; ++i) total += double(partial[i * columns + j]);
  sums[j] = Sum(total);
}

template <int K, class F, class... Operands>
void launch_chunks(Stream stream, int64_t rows, int64_t channels, F f, float* partial,
                   int64_t partial_stride, Operands... operands) {
  const dim3 grid(unsigned((channels + tile_columns - 1) / tile_columns),
                  unsigned((rows + chunk_rows - 1) / chunk_rows));
  launch(chunk_kernel<K, F, Operands...>, grid, dim3(tile_columns, row_lanes), 0, handle(stream), f,
         rows, channels, partial, partial_stride, operands...);
  check_launch("sum_columns");
}

template <int K, class F, class Sum, class... Operands>
void device_sum_columns(Stream stream, int64_t rows, int64_t channels, F f, float* partial,
                        Sum* sums, Operands... operands) {
  launch_chunks<K>(stream, rows, channels, f, partial, K * channels, operands...);
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  launch(merge_kernel<Sum>, unsigned((K * channels + block_threads - 1) / block_threads),
         block_threads, 0, handle(stream), chunks, K * channels, partial, sums);
  check_launch("merge_chunks");
}

static __global__ void __launch_bounds__(block_threads)
    chunk_mean_kernel(int64_t rows, int64_t channels, float* partial) {
  const int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x,
                first = int64_t(blockIdx.y) * chunk_rows;
  if (c < channels)
    partial[int64_t(blockIdx.y) * 2 * channels + c] /= float(min(rows, first + chunk_rows) - first);
}

static __global__ void __launch_bounds__(tile_columns* row_lanes)
    chunk_deviation_kernel(int64_t rows, int64_t channels, const float* input, float* partial) {
  SHARED(float, tile, row_lanes* tile_columns);
  const int x = threadIdx.x, y = threadIdx.y;
  const int64_t c = int64_t(blockIdx.x) * tile_columns + x,
                first = int64_t(blockIdx.y) * chunk_rows;
  const int64_t end = min(rows, first + chunk_rows);
  float* const target = partial + int64_t(blockIdx.y) * 2 * channels;
  float sum = 0;
  if (c < channels)
    for (int64_t r = first + y; r < end; r += row_lanes)
      sum += SquaredDeviation{}(input[r * channels + c], target[c]).v[0];
  tile[y * tile_columns + x] = sum;
  __syncthreads();
  for (int half = row_lanes / 2; half > 0; half /= 2) {
    if (y < half) tile[y * tile_columns + x] += tile[(y + half) * tile_columns + x];
    __syncthreads();
  }
  if (y == 0 && c < channels) target[channels + c] = tile[x];
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    merge_moments_kernel(int64_t rows, int64_t channels, const float* partial, T* mean, T* spread) {
  const int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  double m = 0, m2 = 0;
  for (int64_t first = 0; first < rows; first += chunk_rows, partial += 2 * channels) {
    const double n = double(min(chunk_rows, rows - first)), total = double(first) + n;
    const double share = n / total, weight = double(first) * share;
    const double delta = double(partial[c]) - m;
    m += delta * share;
    m2 += double(partial[channels + c]) + delta * delta * weight;
  }
  store_moments(m, m2, rows, mean + c, spread + c);
}

template <class T>
void device_column_moments(Stream stream, int64_t rows, int64_t channels, const float* x,
                           float* partial, T* mean, T* spread) {
  const unsigned chunks = unsigned((rows + chunk_rows - 1) / chunk_rows);
  const unsigned blocks = unsigned((channels + block_threads - 1) / block_threads);
  launch_chunks<1>(stream, rows, channels, Identity{}, partial, 2 * channels, in(x));
  launch(chunk_mean_kernel, dim3(blocks, chunks), block_threads, 0, handle(stream), rows, channels,
         partial);
  check_launch("chunk_mean");
  launch(chunk_deviation_kernel,
         dim3(unsigned((channels + tile_columns - 1) / tile_columns), chunks),
         dim3(tile_columns, row_lanes), 0, handle(stream), rows, channels, x, partial);
  check_launch("chunk_deviation");
  launch(merge_moments_kernel<T>, blocks, block_threads, 0, handle(stream), rows, channels, partial,
         mean, spread);
  check_launch("merge_moments");
}

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

template <class F, class X, class... Out>
__global__ void __launch_bounds__(block_threads)
    fold_kernel(WindowShape shape, F f, const X* x, Output<Out>... outputs) {
  const int64_t total = shape.n * shape.out_h * shape.out_w * shape.c;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t c = i % shape.c, pixel = i / shape.c, ox = pixel % shape.out_w,
                  oy = pixel / shape.out_w % shape.out_h;
    const X* const image = x + pixel / shape.out_w / shape.out_h * shape.h * shape.w * shape.c + c;
    Values<2> state = f.start();
    for (int64_t tap = 0; tap < shape.kernel * shape.kernel; ++tap) {
      const int64_t y = oy * shape.stride - shape.padding + tap / shape.kernel;
      const int64_t z = ox * shape.stride - shape.padding + tap % shape.kernel;
      if (y >= 0 && y < shape.h && z >= 0 && z < shape.w)
        state = f(state, float(image[(y * shape.w + z) * shape.c]), float(tap));
    }
    store_results<0>(i, f.finish(state), outputs...);
  }
}

template <class F, class X, class... Out>
void device_fold_windows(Stream stream, const WindowShape& shape, F f, const X* x,
                         Output<Out>... outputs) {
  launch(fold_kernel<F, X, Out...>, blocks_for(shape.n * shape.out_h * shape.out_w * shape.c),
         block_threads, 0, handle(stream), shape, f, x, outputs...);
  check_launch("fold_windows");
}

template <class F, class Aux>
__global__ void __launch_bounds__(block_threads)
    gather_kernel(WindowShape shape, F f, const float* dy, const Aux* aux, float* dx) {
  const int64_t total = shape.n * shape.h * shape.w * shape.c;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t c = i % shape.c, pixel = i / shape.c, x = pixel % shape.w,
                  y = pixel / shape.w % shape.h;
    const int64_t image = pixel / shape.w / shape.h;
    const Covering oys(y, shape.kernel, shape.stride, shape.padding, shape.out_h);
    const Covering oxs(x, shape.kernel, shape.stride, shape.padding, shape.out_w);
    float sum = 0;
    for (int64_t oy = oys.first; oy <= oys.last; ++oy)
      for (int64_t ox = oxs.first; ox <= oxs.last; ++ox) {
        const int64_t from = ((image * shape.out_h + oy) * shape.out_w + ox) * shape.c + c;
        const int64_t tap = (y + shape.padding - oy * shape.stride) * shape.kernel + x +
                            shape.padding - ox * shape.stride;
        sum += f(dy[from], float(aux[from]), float(tap));
      }
    dx[i] = sum;
  }
}

template <class F, class Aux>
void device_gather_windows(Stream stream, const WindowShape& shape, F f, const float* dy,
                           const Aux* aux, float* dx) {
  launch(gather_kernel<F, Aux>, blocks_for(shape.n * shape.h * shape.w * shape.c), block_threads, 0,
         handle(stream), shape, f, dy, aux, dx);
  check_launch("gather_windows");
}

}  // namespace qt::kernel
