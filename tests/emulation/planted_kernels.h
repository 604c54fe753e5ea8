// tests/emulation/planted_kernels.h -- kernels with mistakes to choose from: what the emulator must
// find. They use vectors, dynamic shared memory and warps as the launchers do or may come to do.
#pragma once
#include <cstdint>

#include "core/device/stream.h"
#include "core/kernel/device_words.h"

namespace qt::planted {

enum class Bug {
  none,
  reads_past_the_end,
  writes_past_the_end,
  misaligned_channels,
  forgets_the_last_element,
  two_blocks_write_one_address,
  returns_before_the_barrier,
  no_barrier_before_the_tree,
  divergent_barrier,
  shared_array_overrun,
  no_barrier_in_the_tree,
  mask_names_absent_lanes,
  reads_a_lane_outside_the_mask,
  next_row_overwrites_shared_memory,
  wrong_bound,
  too_little_dynamic_memory,
  relies_on_lockstep,
};

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};
template <class T, int N>
__device__ Pack<T, N> load(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}

inline cudaStream_t handle(Stream stream) { return static_cast<cudaStream_t>(stream.cuda); }
constexpr int map_threads = 64, width = 4;

// y[i] = x[i] * a[i % channels], four elements per thread and turn.
template <Bug bug>
__global__ void map_kernel(int64_t n, int channels, const float* x, const float* a, float* y) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  const int64_t me = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t packs = bug == Bug::reads_past_the_end ? (n + width - 1) / width : n / width;
  const bool whole = bug == Bug::misaligned_channels || channels % width == 0;
  for (int64_t i = me; i < packs; i += step) {
    const Pack<float, width> values = load<float, width>(x + i * width);
    const int c = int(i * width % channels);
    for (int k = 0; k < width && i * width + k < n; ++k) {
      const float factor = whole ? load<float, width>(a + c).v[k] : a[(i * width + k) % channels];
      y[i * width + k] = values.v[k] * factor;
    }
  }
  const int64_t tail = packs * width + me;
  const int64_t end = bug == Bug::forgets_the_last_element ? n - 1
                      : bug == Bug::writes_past_the_end    ? n + 1
                                                           : n;
  if (tail < end) y[tail] = tail < n ? x[tail] * a[tail % channels] : 0;
  if (bug == Bug::two_blocks_write_one_address && blockIdx.x && me < n)
    y[threadIdx.x] = x[threadIdx.x] * a[threadIdx.x % channels];  // the same value again
}

template <Bug bug>
void map(Stream stream, int64_t n, int channels, const float* x, const float* a, float* y) {
  const auto blocks = unsigned((n / width + map_threads) / map_threads);
  kernel::launch(map_kernel<bug>, blocks, map_threads, 0, handle(stream), n, channels, x, a, y);
}

constexpr int tile_x = 32, tile_y = 8;

// sums[c] over up to eight rows: a tree through shared memory.
template <Bug bug>
__global__ void column_kernel(int rows, int channels, const float* x, float* sums) {
  SHARED(float, tile, tile_y* tile_x);
  const int tx = int(threadIdx.x), ty = int(threadIdx.y), c = int(blockIdx.x) * tile_x + tx;
  if (bug == Bug::returns_before_the_barrier && c >= channels) return;
  tile[ty * tile_x + tx] = c < channels && ty < rows ? x[ty * channels + c] : 0;
  if (bug != Bug::no_barrier_before_the_tree) __syncthreads();
  for (int half = tile_y / 2; half > 0; half /= 2) {
    if (bug == Bug::divergent_barrier && ty >= half) break;
    const int from = ty + half + (bug == Bug::shared_array_overrun ? 4 : 0);
    if (ty < half) tile[ty * tile_x + tx] += tile[from * tile_x + tx];
    if (bug != Bug::no_barrier_in_the_tree) __syncthreads();
  }
  if (ty == 0 && c < channels) sums[c] = tile[tx];
}

template <Bug bug>
void sum_columns(Stream stream, int rows, int channels, const float* x, float* sums) {
  kernel::launch(column_kernel<bug>, unsigned(channels + tile_x - 1) / tile_x, dim3(tile_x, tile_y),
                 0, handle(stream), rows, channels, x, sums);
}

__device__ inline float warp_sum(unsigned mask, float v, int from) {
  for (int by = from; by > 0; by /= 2) v += __shfl_xor_sync(mask, v, by);
  return v;
}

// sums[row]: warps by shuffles, then one warp over the eight warps.
template <Bug bug>
__global__ void row_kernel(int rows, int channels, const float* x, float* sums) {
  SHARED(float, warps, 8);
  for (int r = int(blockIdx.x); r < rows; r += int(gridDim.x)) {
    float sum = 0;
    for (int c = int(threadIdx.x); c < channels; c += 256) sum += x[r * channels + c];
    sum = warp_sum(~0u, sum, 16);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 8) {
      sum = warp_sum(bug == Bug::mask_names_absent_lanes ? ~0u : 0xffu, warps[threadIdx.x],
                     bug == Bug::reads_a_lane_outside_the_mask ? 8 : 4);
      if (threadIdx.x == 0) sums[r] = sum;
    }
    if (bug != Bug::next_row_overwrites_shared_memory) __syncthreads();
  }
}

template <Bug bug>
void sum_rows(Stream stream, int rows, int channels, const float* x, float* sums) {
  kernel::launch(row_kernel<bug>, 2u, 256u, 0, handle(stream), rows, channels, x, sums);
}

// y[c][r] = x[r][c] through a padded tile in dynamic shared memory.
template <Bug bug>
__global__ void transpose_kernel(int rows, int columns, const float* x, float* y) {
  float* const tile = kernel::dynamic_shared<float>();
  const int c0 = int(blockIdx.x) * 32, r0 = int(blockIdx.y) * 32, tx = int(threadIdx.x);
  for (int i = int(threadIdx.y); i < 32; i += tile_y)
    if (r0 + i < rows && (bug == Bug::wrong_bound ? c0 + i : c0 + tx) < columns)
      tile[i * 33 + tx] = x[(r0 + i) * columns + c0 + tx];
  __syncthreads();
  for (int i = int(threadIdx.y); i < 32; i += tile_y)
    if (c0 + i < columns && r0 + tx < rows) y[(c0 + i) * rows + r0 + tx] = tile[tx * 33 + i];
}

template <Bug bug>
void transpose(Stream stream, int rows, int columns, const float* x, float* y) {
  const size_t floats = bug == Bug::too_little_dynamic_memory ? 32 * 32 : 32 * 33;
  kernel::launch(transpose_kernel<bug>, dim3(unsigned(columns + 31) / 32, unsigned(rows + 31) / 32),
                 dim3(32, tile_y), floats * sizeof(float), handle(stream), rows, columns, x, y);
}

// One warp's tree through shared memory, as older code writes it.
template <Bug bug>
__global__ void warp_tree_kernel(const float* x, float* sum) {
  SHARED(float, s, 32);
  s[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  for (unsigned half = 16; half > 0; half /= 2) {
    if (threadIdx.x < half) s[threadIdx.x] += s[threadIdx.x + half];
    if (bug != Bug::relies_on_lockstep) __syncwarp();
  }
  if (threadIdx.x == 0) *sum = s[0];
}

template <Bug bug>
void warp_tree(Stream stream, const float* x, float* sum) {
  kernel::launch(warp_tree_kernel<bug>, 1u, 32u, 0, handle(stream), x, sum);
}

}  // namespace qt::planted
