// core/kernel/host_windows.h -- pooling windows on the CPU, vectorized over channels. Included by
// launch.h.
#pragma once
#include <algorithm>
#include <utility>

#include "core/kernel/host_map.h"

namespace qt::kernel {

constexpr int64_t window_channels = 64;  // channels whose states are kept at once

// A functor's state is Values<2>; states of a block of channels lie in two arrays so that the loop
// over channels vectorizes.
struct WindowStates {
  float a[window_channels], b[window_channels];
};

template <class F, class X>
inline void fold_tap(F f, WindowStates& s, const X* x, int64_t channels, float tap) {
#pragma omp simd
  for (int64_t j = 0; j < channels; ++j) {
    const Values<2> next = f(Values<2>{{s.a[j], s.b[j]}}, float(x[j]), tap);
    s.a[j] = next.v[0];
    s.b[j] = next.v[1];
  }
}

template <class F, class X, class... Out>
void fold_pixel(const WindowShape& shape, F f, const X* image, int64_t oy, int64_t ox, int64_t c0,
                Out*... outputs) {
  const int64_t n = std::min(window_channels, shape.c - c0);
  WindowStates s;
  const Values<2> start = f.start();
  std::fill_n(s.a, n, start.v[0]);
  std::fill_n(s.b, n, start.v[1]);
  for (int64_t ky = 0; ky < shape.kernel; ++ky) {
    const int64_t y = oy * shape.stride - shape.padding + ky;
    if (y < 0 || y >= shape.h) continue;
    for (int64_t kx = 0; kx < shape.kernel; ++kx) {
      const int64_t x = ox * shape.stride - shape.padding + kx;
      if (x < 0 || x >= shape.w) continue;
      fold_tap(f, s, image + (y * shape.w + x) * shape.c + c0, n, float(ky * shape.kernel + kx));
    }
  }
  for (int64_t j = 0; j < n; ++j) {
    const Values<2> r = f.finish(Values<2>{{s.a[j], s.b[j]}});
    int k = 0;
    ((outputs[c0 + j] = Store<Out>::from(r.v[k++])), ...);
  }
}

template <class F, class X, class... Out>
void host_fold_windows(const WindowShape& shape, F f, const X* x, Output<Out>... outputs) {
  const int64_t rows = shape.n * shape.out_h;
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t ox = 0; ox < shape.out_w; ++ox)
      for (int64_t c0 = 0; c0 < shape.c; c0 += window_channels)
        fold_pixel(shape, f, x + r / shape.out_h * shape.h * shape.w * shape.c, r % shape.out_h, ox,
                   c0, (outputs.p + (r * shape.out_w + ox) * shape.c)...);
}

// The outputs along one axis whose windows cover position p: first .. last (may be empty).
struct Covering {
  int64_t first, last;
  QT_HD Covering(int64_t p, int64_t kernel, int64_t stride, int64_t padding, int64_t outputs) {
    const int64_t lowest = p + padding - kernel + 1;
    first = lowest <= 0 ? 0 : quotient(lowest + stride - 1, stride);
    last = quotient(p + padding, stride);
    last = last < outputs ? last : outputs - 1;
  }
};

// Channels c0 .. c0 + window_channels - 1 of the pixel (y, x) of one image.
template <class F, class From, class Aux, class To>
void gather_pixel(const WindowShape& shape, F f, int64_t y, int64_t x, int64_t c0, const From* dy,
                  const Aux* aux, To* to) {
  const Covering oys(y, shape.kernel, shape.stride, shape.padding, shape.out_h),
      oxs(x, shape.kernel, shape.stride, shape.padding, shape.out_w);
  const int64_t n = std::min(window_channels, shape.c - c0);
  float sums[window_channels] = {};
  for (int64_t oy = oys.first; oy <= oys.last; ++oy)
    for (int64_t ox = oxs.first; ox <= oxs.last; ++ox) {
      const int64_t from = (oy * shape.out_w + ox) * shape.c + c0;
      const float tap = float((y + shape.padding - oy * shape.stride) * shape.kernel +
                              (x + shape.padding - ox * shape.stride));
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) sums[j] += f(loaded(dy[from + j]), float(aux[from + j]), tap);
    }
  for (int64_t j = 0; j < n; ++j) to[c0 + j] = Store<To>::from(sums[j]);
}

template <class F, class From, class Aux, class To>
void host_gather_windows(const WindowShape& shape, F f, const From* dy, const Aux* aux, To* dx) {
  const int64_t rows = shape.n * shape.h, of_image = shape.out_h * shape.out_w * shape.c;
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t y = r % shape.h, first = r / shape.h * of_image;
    for (int64_t x = 0; x < shape.w; ++x)
      for (int64_t c0 = 0; c0 < shape.c; c0 += window_channels)
        gather_pixel(shape, f, y, x, c0, dy + first, aux + first, dx + (r * shape.w + x) * shape.c);
  }
}

}  // namespace qt::kernel
