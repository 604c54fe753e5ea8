// tests/emulation/device_memory.h -- the emulated GPU's memory: blocks exactly as long as asked,
// full of NaN before their first and after their last use, out of the host's reach while no work
// runs.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace emulator {

// A place in device memory. One region serves several allocations, one after another.
struct Region {
  char* start = nullptr;
  size_t capacity = 0;
  int ends = 0;  // frees that were enqueued and have not run
};

class DeviceMemory {
 public:
  DeviceMemory();
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // A place for `bytes`, its contents out of bounds until begin(). nullptr where memory is out.
  std::shared_ptr<Region> take(size_t bytes);
  void give_back(const std::shared_ptr<Region>& region) { free_.push_back(region); }
  // In the order of the work that uses the memory: fills it with NaN, and opens or closes it. end()
  // throws Violation where the bytes just after the block were written to.
  void begin(const Region& region, size_t bytes);
  void end(const Region& region, size_t bytes);

  bool contains(const void* address) const {
    const auto* a = static_cast<const char*>(address);
    return a >= base_ && a < base_ + reserved;
  }
  const char* base() const { return base_; }

  // While alive the memory may be touched: work runs.
  class Access {
   public:
    explicit Access(DeviceMemory& memory);
    ~Access();
    Access(const Access&) = delete;
    Access& operator=(const Access&) = delete;

   private:
    DeviceMemory& memory_;
  };
  // While alive it may not, in spite of an Access: a host function runs.
  class NoAccess {
   public:
    explicit NoAccess(DeviceMemory& memory);
    ~NoAccess();
    NoAccess(const NoAccess&) = delete;
    NoAccess& operator=(const NoAccess&) = delete;

   private:
    DeviceMemory& memory_;
  };

 private:
  static constexpr size_t reserved = size_t{4} << 30, alignment = 256, margin = 256;
  void protect(bool open) const;

  char* base_ = nullptr;
  size_t used_ = 0;
  int accesses_ = 0;
  std::vector<std::shared_ptr<Region>> free_;
};

}  // namespace emulator
