// core/kernel/segments.h -- one launch for many small tensors: what is done to every parameter of a
// network. For kernel files only: include core/kernel/launch.h first.
//
//   Segments<F, Operands...> list;
//   list.add(n, f, in(x), scalar(s), out(y));      one per tensor; f may hold other numbers in each
//   list.map(stream)                               y = f(x, s), as launch.h's map
//   list.first_where(stream, first)                first[0] = the number of the first segment that
//                                                  f(x...) is true for somewhere, or none_of_them
//   list.count_where(stream, count)                count[0] = how many elements f is true for
//
// Integers that threads of all blocks add up or compare: the same result in any order.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "core/kernel/launch.h"

namespace qt {

constexpr int32_t none_of_them = std::numeric_limits<int32_t>::max();

namespace kernel {

template <class F, class... Operands>
struct Segment {
  int64_t n;
  F f;
  Pack<Operands...> operands;
};

// Kernel arguments are at most 4 KiB.
template <class S>
struct SegmentBatch {
  static constexpr size_t size = std::min<size_t>(64, 3840 / sizeof(S));
  static_assert(size > 0);
  S segments[size];
};

enum class Where { first, count };

struct Integer {
  int32_t value;
  QT_HD int32_t operator()() const { return value; }
};

#ifdef QT_DEVICE_CODE
constexpr int segment_blocks = 32;  // of one segment, at most

template <class F, class... Operands>
__global__ void __launch_bounds__(block_threads)
    map_segments_kernel(SegmentBatch<Segment<F, Operands...>> batch) {
  constexpr int n = packet_elements<Operands...>;
  const Segment<F, Operands...>& s = batch.segments[blockIdx.y];
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  unpack_here(
      [&](const auto&... operands) {
        const int64_t packets = packets_of<n>(1, s.n, operands...);
        for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
             i < s.n - packets * (n - 1); i += step)
          map_unit<n>(s.f, i, packets, s.n, operands...);
      },
      s.operands);
}

template <Where where, class F, class... Operands>
__global__ void __launch_bounds__(block_threads)
    where_kernel(SegmentBatch<Segment<F, Operands...>> batch, int32_t number, int32_t* result) {
  const Segment<F, Operands...>& s = batch.segments[blockIdx.y];
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  int32_t found = 0;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < s.n; i += step)
    unpack_here(
        [&](const auto&... operands) { found += s.f(value_at(operands, i, 0, i, s.n)...) ? 1 : 0; },
        s.operands);
  if (found == 0) return;
  if constexpr (where == Where::first)
    atomicMin(result, number + int32_t(blockIdx.y));
  else
    atomicAdd(result, found);
}

template <class S>
dim3 segments_grid(const SegmentBatch<S>& batch, size_t count) {
  int64_t longest = 1;
  for (size_t i = 0; i < count; ++i) longest = std::max(longest, batch.segments[i].n);
  return {
      unsigned(std::min<int64_t>((longest + block_threads - 1) / block_threads, segment_blocks)),
      unsigned(count)};
}
#endif

// Elements of a segment for which f is true, on the CPU.
template <class F, class... Operands>
int64_t host_count(const Segment<F, Operands...>& s) {
  int64_t found = 0;
  unpack(
      [&](const auto&... operands) {
        const auto views = make_views(s.n, s.n, operands...);
        std::apply(
            [&](const auto&... view) {
              for (int64_t i = 0; i < s.n; ++i) found += s.f(view.at(0, 0).get(i)...) ? 1 : 0;
            },
            views);
      },
      s.operands);
  return found;
}

}  // namespace kernel

template <class F, class... Operands>
class Segments {
 public:
  void add(int64_t n, F f, Operands... operands) {
    One s;
    memset(static_cast<void*>(&s), 0, sizeof s);  // a launch's arguments have no random bytes
    s.n = n, s.f = f, s.operands = kernel::packed(operands...);
    list_.push_back(s);
  }

  void map(Stream stream) const {
#ifdef QT_DEVICE_CODE
    if (stream.on_gpu) {
      for (size_t first = 0; first < list_.size(); first += Batch::size) {
        const size_t count = std::min(Batch::size, list_.size() - first);
        const Batch batch = batch_from(first, count);
        kernel::launch(kernel::map_segments_kernel<F, Operands...>,
                       kernel::segments_grid(batch, count), kernel::block_threads, 0,
                       kernel::handle(stream), batch);
        kernel::check_launch("map_segments");
      }
      return;
    }
#endif
    (void)stream;
    for (const One& s : list_)
      if (s.n > 0)  // as many rows of one: threads share them
        kernel::unpack([&](const auto&... operands) { kernel::host_map(s.n, 1, s.f, operands...); },
                       s.operands);
  }

  // i32 [1]. Segments are numbered from 0 as they were added.
  void first_where(Stream stream, int32_t* first) const {
#ifdef QT_DEVICE_CODE
    if (stream.on_gpu) return find<kernel::Where::first>(stream, none_of_them, first);
#endif
    (void)stream;
    *first = none_of_them;
    for (size_t i = list_.size(); i-- > 0;)
      if (kernel::host_count(list_[i]) > 0) *first = int32_t(i);
  }
  void count_where(Stream stream, int32_t* count) const {
#ifdef QT_DEVICE_CODE
    if (stream.on_gpu) return find<kernel::Where::count>(stream, 0, count);
#endif
    (void)stream;
    *count = 0;
    for (const One& s : list_) *count += int32_t(kernel::host_count(s));
  }

 private:
  using One = kernel::Segment<F, Operands...>;
  using Batch = kernel::SegmentBatch<One>;

#ifdef QT_DEVICE_CODE
  Batch batch_from(size_t first, size_t count) const {
    Batch batch{};
    std::copy_n(list_.begin() + int64_t(first), count, batch.segments);
    return batch;
  }
  template <kernel::Where where>
  void find(Stream stream, int32_t initial, int32_t* result) const {
    qt::map(stream, 1, 1, kernel::Integer{initial}, out(result));
    for (size_t first = 0; first < list_.size(); first += Batch::size) {
      const size_t count = std::min(Batch::size, list_.size() - first);
      const Batch batch = batch_from(first, count);
      kernel::launch(kernel::where_kernel<where, F, Operands...>,
                     kernel::segments_grid(batch, count), kernel::block_threads, 0,
                     kernel::handle(stream), batch, int32_t(first), result);
      kernel::check_launch("where_segments");
    }
  }
#endif

  std::vector<One> list_;
};

}  // namespace qt
