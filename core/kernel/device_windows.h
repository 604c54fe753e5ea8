// core/kernel/device_windows.h -- pooling windows in CUDA: a thread has N channels of a pixel side
// by side where addresses and channels allow, else one. Included by launch.h.
#pragma once
#include "core/kernel/device_kernels.h"
#include "core/kernel/host_windows.h"

namespace qt::kernel {

// Elements i .. i + N - 1 of the outputs.
template <int N, class F, class X, class... Out>
__device__ void fold_at(const WindowShape& shape, const F& f, int64_t i, const X* x,
                        const Output<Out>&... outputs) {
  const int64_t c = i % shape.c, pixel = i / shape.c, ox = pixel % shape.out_w,
                oy = pixel / shape.out_w % shape.out_h;
  const X* const image = x + pixel / shape.out_w / shape.out_h * shape.h * shape.w * shape.c + c;
  Values<2> states[N];
  for (int j = 0; j < N; ++j) states[j] = f.start();
  for (int64_t tap = 0; tap < shape.kernel * shape.kernel; ++tap) {
    const int64_t y = oy * shape.stride - shape.padding + tap / shape.kernel;
    const int64_t z = ox * shape.stride - shape.padding + tap % shape.kernel;
    if (y < 0 || y >= shape.h || z < 0 || z >= shape.w) continue;
    const auto values = packet_of<N>(image + (y * shape.w + z) * shape.c);
    for (int j = 0; j < N; ++j) states[j] = f(states[j], float(values.v[j]), float(tap));
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
  const int64_t c = i % shape.c, pixel = i / shape.c, x = pixel % shape.w,
                y = pixel / shape.w % shape.h;
  const int64_t image = pixel / shape.w / shape.h;
  const Covering oys(y, shape.kernel, shape.stride, shape.padding, shape.out_h);
  const Covering oxs(x, shape.kernel, shape.stride, shape.padding, shape.out_w);
  Lanes<float, N> sums = {};
  for (int64_t oy = oys.first; oy <= oys.last; ++oy)
    for (int64_t ox = oxs.first; ox <= oxs.last; ++ox) {
      const int64_t from = ((image * shape.out_h + oy) * shape.out_w + ox) * shape.c + c;
      const int64_t tap = (y + shape.padding - oy * shape.stride) * shape.kernel + x +
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
