// core/kernel/finish.h -- operands in one value, and what becomes of a reduction's results in the
// launch that has them. Included by launch.h.
#pragma once
#include "core/kernel/device_words.h"
#include "core/kernel/host_map.h"

namespace qt {
namespace kernel {

// A tuple of at least one that a launch can copy byte by byte; nothing in it is padding.
template <class First, class... Rest>
struct Pack {
  First first;
  Pack<Rest...> rest;
};
template <class Last>
struct Pack<Last> {
  Last first;
};
template <class Last>
Pack<Last> packed(Last last) {
  return {last};
}
template <class First, class... Rest>
Pack<First, Rest...> packed(First first, Rest... rest) {
  return {first, packed(rest...)};
}
// Calls use() with what is in the pack.
template <class Use, class Last, class... Done>
void unpack(const Use& use, const Pack<Last>& pack, const Done&... done) {
  use(done..., pack.first);
}
template <class Use, class First, class Second, class... Rest, class... Done>
void unpack(const Use& use, const Pack<First, Second, Rest...>& pack, const Done&... done) {
  unpack(use, pack.rest, done..., pack.first);
}

#ifdef QT_DEVICE_CODE
template <class Use, class Last, class... Done>
__device__ void unpack_here(const Use& use, const Pack<Last>& pack, const Done&... done) {
  use(done..., pack.first);
}
template <class Use, class First, class Second, class... Rest, class... Done>
__device__ void unpack_here(const Use& use, const Pack<First, Second, Rest...>& pack,
                            const Done&... done) {
  unpack_here(use, pack.rest, done..., pack.first);
}
#endif

}  // namespace kernel

template <class F, class... Operands>
struct Finish {
  F f;
  kernel::Pack<Operands...> operands;
};

// In the place of a reduction's results: f(results..., values...) of each channel (sum_rows: of
// each row, which the operands then call a channel) goes to the outputs, which come last.
template <class F, class... Operands>
Finish<F, Operands...> finish(F f, Operands... operands) {
  return {f, kernel::packed(operands...)};
}

namespace kernel {

// results [K][n].
template <class F, class... Operands, size_t... K>
void host_finish(int64_t n, const float* results, const Finish<F, Operands...>& to,
                 std::index_sequence<K...>) {
  unpack(
      [&](const auto&... operands) {
        host_map(1, n, to.f, in(results + int64_t(K) * n)..., operands...);
      },
      to.operands);
}

}  // namespace kernel
}  // namespace qt
