// tests/emulation/as_gpu.cpp -- the GPU under test is the emulated one.
#include "tests/emulation/emulated_gpu.h"

namespace qt::gpu_under_test {

std::string missing() { return ""; }
bool is_emulated() { return true; }
int orders() { return 3; }
void start(int order) {
  try {
    release_cached_gpu_memory();
  } catch (const InternalError&) {  // a GPU that the test broke
  }
  emulator::reset(unsigned(order));
  emulator::set_order(all_orders[order], 7);
}
std::string name_of_order(int order) { return qt::name_of(all_orders[order]); }
std::string leaks() { return emulator::leaks(); }
size_t bytes_in_use() { return 0; }

}  // namespace qt::gpu_under_test
