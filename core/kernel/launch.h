// core/kernel/launch.h -- the launchers: the only place with an OpenMP pragma or a CUDA kernel
// launch. A pure functor, values in and values out, runs over every (row, channel) of its operands;
// the same functor source serves CPU and GPU.
//
//   map(stream, rows, channels, f, operands..., out(y)...)
//       y = f(values...): one value, or Values<N> for N outputs
//   map_row(channels, f, operands..., out(y)...)
//       map over one row on the calling thread of the host: for what lies in its cache
//   sum_columns<K>(stream, rows, channels, f, sums, operands...)
//       sums[k][c] = sum over rows of f(...).v[k]
//   sum_rows<K>(stream, rows, channels, f, sums, operands..., out(y)...)
//       sums[k][row] = sum over channels of the last K values of f(...); y = those before them
//   max_rows(stream, rows, channels, f, most, operands...)
//       most[row] = largest f(...)
//   column_moments(stream, rows, channels, x, mean, var)
//       mean and biased variance per channel
//   finish(f, operands..., out(y)...)
//       in the place of sums, or of mean and var: y = f(results..., values...), in the same launch
//   fold_windows, gather_windows
//       pooling, forward and backward
//   generate(stream, n, f, to)
//       to[i] = f(i): windows as rows of a matrix, packing
//
// Every launcher gives the same bits whatever the number of threads.
#pragma once
#ifndef QT_KERNEL_FILE
#error \
    "core/kernel/launch.h must be included by the .cpp file itself: CMake makes such a file a kernel file"
#endif

#include "core/device/stream.h"
#include "core/kernel/device_words.h"
#include "core/kernel/finish.h"
#include "core/kernel/host_map.h"
#include "core/kernel/host_sums.h"
#include "core/kernel/host_windows.h"
#include "core/kernel/operands.h"
#include "core/tensor/tensor.h"
#ifdef QT_DEVICE_CODE
#include "core/kernel/device_kernels.h"
#include "core/kernel/device_windows.h"
#endif

namespace qt {

template <class F, class... Operands>
void map(Stream stream, int64_t rows, int64_t channels, F f, Operands... operands) {
  if (rows * channels == 0) return;
#ifdef QT_DEVICE_CODE
  if (stream.on_gpu) return kernel::device_map(stream, rows, channels, f, operands...);
#endif
  (void)stream;
  kernel::host_map(rows, channels, f, operands...);
}

template <class F, class... Operands>
void map_row(int64_t channels, F f, Operands... operands) {
  constexpr size_t outputs = kernel::count_outputs<Operands...>;
  kernel::run_span<outputs>(
      f, channels,
      std::make_tuple(kernel::HostView<Operands>(operands, channels, channels).at(0, 0)...),
      std::make_index_sequence<sizeof...(Operands) - outputs>{});
}

// to[i] = f(i) for 0 <= i < n: for results that are no rows x channels of their sources. f holds
// the addresses that it reads. T may be a packet of several elements, which is stored at once.
template <class F, class T>
void generate(Stream stream, int64_t n, F f, T* to) {
  if (n == 0) return;
#ifdef QT_DEVICE_CODE
  if (stream.on_gpu) return kernel::device_generate(stream, n, f, to);
#endif
  (void)stream;
  kernel::host_generate(n, f, to);
}

// sums: f32 [K, channels], or a finish; or f64, for whoever adds them to other ranks'. Chunks of
// chunk_rows rows, partial sums in f32, merged in double: group_chunks of them, then the groups.
template <int K, class F, class Sums, class... Operands>
void sum_columns(Stream stream, int64_t rows, int64_t channels, F f, Sums sums,
                 Operands... operands) {
  if (channels == 0) return;
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  Tensor partial = Tensor::empty({chunks, K, channels}, DType::f32);
#ifdef QT_DEVICE_CODE
  if (stream.on_gpu) {
    const Tensor groups = Tensor::empty({kernel::groups_of(rows), K, channels}, DType::f64);
    return kernel::device_sum_columns<K>(stream, rows, channels, f, partial.data<float>(),
                                         static_cast<double*>(groups.raw()), sums, operands...);
  }
#endif
  (void)stream;
  kernel::host_sum_columns<K>(rows, channels, f, partial.data<float>(), sums, operands...);
}

// sums: f32 [K, rows], or a finish.
template <int K, class F, class Sums, class... Operands>
void sum_rows(Stream stream, int64_t rows, int64_t channels, F f, Sums sums, Operands... operands) {
  if (rows == 0) return;
#ifdef QT_DEVICE_CODE
  if (stream.on_gpu)
    return kernel::device_sum_rows<K>(stream, rows, channels, f, sums, operands...);
#endif
  (void)stream;
  kernel::host_sum_rows<K>(rows, channels, f, sums, operands...);
}

// most: f32 [rows]; channels >= 1.
template <class F, class... Operands>
void max_rows(Stream stream, int64_t rows, int64_t channels, F f, float* most,
              Operands... operands) {
  if (rows == 0) return;
#ifdef QT_DEVICE_CODE
  if (stream.on_gpu) return kernel::device_max_rows(stream, rows, channels, f, most, operands...);
#endif
  (void)stream;
  kernel::host_max_rows(rows, channels, f, most, operands...);
}

// moments: mean and var, f32 [channels] each, or a finish; var is biased (divided by rows). Per
// chunk the mean, then the squared deviations from it; chunks, then groups are merged in double
// (Chan, Golub & LeVeque 1983). In f64 nothing is rounded afterwards, and in the place of the
// variance stands the sum of squared deviations: what is merged with other ranks' moments.
template <class... Moments>
void column_moments(Stream stream, int64_t rows, int64_t channels, const float* x,
                    Moments... moments) {
  if (channels == 0) return;
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  Tensor partial = Tensor::empty({chunks, 2, channels}, DType::f32);
#ifdef QT_DEVICE_CODE
  if (stream.on_gpu) {
    const Tensor groups = Tensor::empty({kernel::groups_of(rows), 2, channels}, DType::f64);
    return kernel::device_column_moments(stream, rows, channels, x, partial.data<float>(),
                                         static_cast<double*>(groups.raw()), moments...);
  }
#endif
  (void)stream;
  kernel::host_column_moments(rows, channels, x, partial.data<float>(), moments...);
}

// For each output pixel and channel: state = f.start(); state = f(state, x, tap) over the window's
// taps inside the image, in order; results f.finish(state).v[k] go to the outputs.
template <class F, class X, class... Out>
void fold_windows(Stream stream, const WindowShape& shape, F f, const X* x,
                  Output<Out>... outputs) {
#ifdef QT_DEVICE_CODE
  if (stream.on_gpu) return kernel::device_fold_windows(stream, shape, f, x, outputs...);
#endif
  (void)stream;
  kernel::host_fold_windows(shape, f, x, outputs...);
}

// For each input pixel and channel: dx = sum over the windows that cover it of f(dy, aux, tap),
// windows in row-major order. dy and dx: float or BFloat16; sums are f32.
template <class F, class From, class Aux, class To>
void gather_windows(Stream stream, const WindowShape& shape, F f, const From* dy, const Aux* aux,
                    To* dx) {
#ifdef QT_DEVICE_CODE
  if (stream.on_gpu) return kernel::device_gather_windows(stream, shape, f, dy, aux, dx);
#endif
  (void)stream;
  kernel::host_gather_windows(shape, f, dy, aux, dx);
}

}  // namespace qt
