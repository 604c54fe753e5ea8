// core/kernel/device_windows.h -- pooling windows in CUDA: a thread has N channels of a pixel side
// by side where addresses and channels allow, else one. Included by launch.h.
#pragma once
#include "core/kernel/device_kernels.h"
#include "core/kernel/host_windows.h"

namespace qt::kernel {

// Where element i of pictures [image][y][x][c] lies.
struct PixelChannel {
  int64_t c, x, y, image;
  __device__ PixelChannel(int64_t i, int64_t channels, int64_t width, int64_t height) {
    const int64_t pixel = quotient(i, channels), line = quotient(pixel, width);
    image = quotient(line, height);
    c = i - pixel * channels, x = pixel - line * width, y = line - image * height;
  }
};

// Elements i .. i + N - 1 of the outputs.
template <int N, class F, class X, class... Out>
__device__ void fold_at(const WindowShape& shape, const F& f, int64_t i, const X* x,
                        const Output<Out>&... outputs) {
  const PixelChannel at(i, shape.c, shape.out_w, shape.out_h);
  const X* const image = x + at.image * shape.h * shape.w * shape.c + at.c;
  Values<2> states[N];
  for (int j = 0; j < N; ++j) states[j] = f.start();
  const int64_t top = at.y * shape.stride - shape.padding,
                left = at.x * shape.stride - shape.padding;
  for (int64_t ky = 0; ky < shape.kernel; ++ky)
    for (int64_t kx = 0; kx < shape.kernel; ++kx) {
      const int64_t y = top + ky, z = left + kx;
      if (y < 0 || y >= shape.h || z < 0 || z >= shape.w) continue;
      const auto values = packet_of<N>(image + (y * shape.w + z) * shape.c);
      const auto tap = float(ky * shape.kernel + kx);
      for (int j = 0; j < N; ++j) states[j] = f(states[j], float(values.v[j]), tap);
    }
  Lanes<decltype(f.finish(states[0])), N> results;
  for (int j = 0; j < N; ++j) results.v[j] = f.finish(states[j]);
  store_packets<N>(Place{i, 0, 0}, results, outputs...);
}

template <int N, class F, class X, class... Out>
__global__ void __launch_bounds__(block_threads)
    fold_kernel(WindowShape shape, F f, bool wide, const X* x, Output<Out>... outputs) {
  const int64_t total = shape.n * shape.out_h * shape.out_w * shape.c, n = wide ? N : 1;
  for (int64_t i = n * (int64_t(blockIdx.x) * blockDim.x + threadIdx.x); i < total;
       i += n * gridDim.x * blockDim.x)
    if (wide)
      fold_at<N>(shape, f, i, x, outputs...);
    else
      fold_at<1>(shape, f, i, x, outputs...);
}

template <class F, class X, class... Out>
void device_fold_windows(Stream stream, const WindowShape& shape, F f, const X* x,
                         Output<Out>... outputs) {
  constexpr int n = packet_elements<Element<X>, Output<Out>...>;
  const bool wide = shape.c % n == 0 && holds_packets<n>(x) && (allows_packets<n>(outputs) && ...);
  const int64_t elements = shape.n * shape.out_h * shape.out_w * shape.c;
  launch(fold_kernel<n, F, X, Out...>, blocks_for(wide ? elements / n : elements), block_threads, 0,
         handle(stream), shape, f, wide, x, outputs...);
  check_launch("fold_windows");
}

// Elements i .. i + N - 1 of dx.
template <int N, class F, class From, class Aux, class To>
__device__ void gather_at(const WindowShape& shape, const F& f, int64_t i, const From* dy,
                          const Aux* aux, To* dx) {
  const PixelChannel at(i, shape.c, shape.w, shape.h);
  const Covering oys(at.y, shape.kernel, shape.stride, shape.padding, shape.out_h);
  const Covering oxs(at.x, shape.kernel, shape.stride, shape.padding, shape.out_w);
  Lanes<float, N> sums = {};
  for (int64_t oy = oys.first; oy <= oys.last; ++oy)
    for (int64_t ox = oxs.first; ox <= oxs.last; ++ox) {
      const int64_t from = ((at.image * shape.out_h + oy) * shape.out_w + ox) * shape.c + at.c;
      const int64_t tap = (at.y + shape.padding - oy * shape.stride) * shape.kernel + at.x +
                          shape.padding - ox * shape.stride;
      const auto dys = packet_of<N>(dy + from);
      const auto others = packet_of<N>(aux + from);
      for (int j = 0; j < N; ++j) sums.v[j] += f(dys.v[j], float(others.v[j]), float(tap));
    }
  store_packets<N>(Place{i, 0, 0}, sums, Output<To>{dx});
}

template <int N, class F, class From, class Aux, class To>
__global__ void __launch_bounds__(block_threads)
    gather_kernel(WindowShape shape, F f, bool wide, const From* dy, const Aux* aux, To* dx) {
  const int64_t total = shape.n * shape.h * shape.w * shape.c, n = wide ? N : 1;
  for (int64_t i = n * (int64_t(blockIdx.x) * blockDim.x + threadIdx.x); i < total;
       i += n * gridDim.x * blockDim.x)
    if (wide)
      gather_at<N>(shape, f, i, dy, aux, dx);
    else
      gather_at<1>(shape, f, i, dy, aux, dx);
}

template <class F, class From, class Aux, class To>
void device_gather_windows(Stream stream, const WindowShape& shape, F f, const From* dy,
                           const Aux* aux, To* dx) {
  constexpr int n = packet_elements<Element<From>, Element<Aux>, Output<To>>;
  const bool wide =
      shape.c % n == 0 && holds_packets<n>(dy) && holds_packets<n>(aux) && holds_packets<n>(dx);
  const int64_t elements = shape.n * shape.h * shape.w * shape.c;
  launch(gather_kernel<n, F, From, Aux, To>, blocks_for(wide ? elements / n : elements),
         block_threads, 0, handle(stream), shape, f, wide, dy, aux, dx);
  check_launch("gather_windows");
}

}  // namespace qt::kernel
