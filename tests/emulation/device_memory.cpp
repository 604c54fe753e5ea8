// tests/emulation/device_memory.cpp -- an address range of its own for the emulated GPU.
#include "tests/emulation/device_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>
#include <string>

#include "tests/emulation/emulator.h"
#if defined(EMULATOR_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {
namespace {

#if defined(EMULATOR_ASAN)
void close(const char* from, size_t bytes) { __asan_poison_memory_region(from, bytes); }
void open(const char* from, size_t bytes) { __asan_unpoison_memory_region(from, bytes); }
#else
void close(const char*, size_t) {}
void open(const char*, size_t) {}
#endif

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

const char *guarded_from = nullptr, *guarded_to = nullptr;

// A host that reads a GPU's memory dies of it. So does this process, but says why.
[[maybe_unused]] void explain_fault(int signal, siginfo_t* info, void*) {
  const auto* at = static_cast<const char*>(info->si_addr);
  if (at >= guarded_from && at < guarded_to) {
    static const char text[] = "host code touched the memory of the emulated device\n";
    [[maybe_unused]] const auto written = write(STDERR_FILENO, text, sizeof text - 1);
  }
  ::signal(signal, SIG_DFL);  // the access is made again, and ends the process
}

}  // namespace

DeviceMemory::DeviceMemory() {
  void* p = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<char*>(p);
  guarded_from = base_;
  guarded_to = base_ + reserved;
#if !defined(EMULATOR_ASAN) && !defined(EMULATOR_TSAN)
  struct sigaction action {};
  action.sa_sigaction = explain_fault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, nullptr);
#endif
}

DeviceMemory::~DeviceMemory() {
  open(base_, used_);
  munmap(base_, reserved);
}

std::shared_ptr<Region> DeviceMemory::take(size_t bytes) {
  // The last block given back that fits: memory that is still in use somewhere comes back soonest.
  const auto fits = [&](const auto& r) {
    return r->capacity >= bytes && r->capacity <= 2 * bytes + 4096;
  };
  const auto found = std::find_if(free_.rbegin(), free_.rend(), fits);
  if (found != free_.rend()) {
    auto region = *found;
    free_.erase(std::next(found).base());
    return region;
  }
  const size_t capacity = rounded(std::max<size_t>(bytes, 1), alignment);
  if (capacity > reserved || used_ + capacity + margin > reserved) return nullptr;
  auto region = std::make_shared<Region>(Region{.start = base_ + used_, .capacity = capacity});
  const Access access(*this);  // pages of the new end become known with the old ones'
  used_ += capacity + margin;
  protect(true);
  memset(region->start, 0xff, capacity + margin);
  close(region->start, capacity + margin);
  return region;
}

void DeviceMemory::begin(const Region& region, size_t bytes) {
  open(region.start, region.capacity + margin);
  memset(region.start, 0xff, region.capacity + margin);
  close(region.start, region.capacity + margin);
  open(region.start, bytes);
}

void DeviceMemory::end(const Region& region, size_t bytes) {
  open(region.start, region.capacity + margin);
  const auto* after = reinterpret_cast<const unsigned char*>(region.start) + bytes;
  const bool intact =
      std::all_of(after, after + margin, [](unsigned char byte) { return byte == 0xff; });
  memset(region.start, 0xff, region.capacity + margin);
  close(region.start, region.capacity + margin);
  if (!intact)
    throw Violation("a kernel wrote past the end of a buffer of " + std::to_string(bytes) +
                    " bytes");
}

void DeviceMemory::protect(bool open) const {
  if (used_ && mprotect(base_, rounded(used_, 4096), open ? PROT_READ | PROT_WRITE : PROT_NONE))
    throw std::bad_alloc();
}

DeviceMemory::Access::Access(DeviceMemory& memory) : memory_(memory) {
  if (memory_.accesses_++ == 0) memory_.protect(true);
}
DeviceMemory::Access::~Access() {
  if (--memory_.accesses_ == 0) memory_.protect(false);
}
DeviceMemory::NoAccess::NoAccess(DeviceMemory& memory) : memory_(memory) { memory_.protect(false); }
DeviceMemory::NoAccess::~NoAccess() { memory_.protect(true); }

}  // namespace emulator
