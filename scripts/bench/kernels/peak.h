// scripts/bench/kernels/peak.h -- what this machine can do at most, measured here and now, to put
// beside kernels.
#pragma once

namespace qt::bench {

struct Peak {
  double flops = 0;  // f32 multiply-adds on all threads, two operations each, per second
  double bytes = 0;  // copy of memory on all threads, bytes read plus bytes written, per second
};

// Measured at the first call (about a second), with the widest vectors cpu_isa() allows and as many
// threads as OpenMP has.
const Peak& peak();

}  // namespace qt::bench
