// core/device/cuda/arena.h -- the memory that a recording works in: a few large blocks, which are
// the graph's own, divided here. Were each tensor an allocation of the graph, it would have several
// times as many nodes as kernels.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

namespace qt {

// For one stream while it records, and one thread. Parts that are given back are handed out again
// for what is enqueued from then on, as of a pool in the stream's order.
class Arena {
 public:
  explicit Arena(cudaStream_t stream) : stream_(stream) {}
  cudaStream_t stream() const { return stream_; }
  // At least `bytes`, at a multiple of 512 bytes.
  cudaError_t allocate(size_t bytes, void*& memory);
  void give_back(void* memory);
  // Parts that are still out.
  size_t parts_out() const { return parts_.size() - by_size_.size(); }
  // The graph frees its blocks: the last that is recorded. Errors are the recording's.
  void finish();

  // The calling thread's, while it records.
  static std::shared_ptr<Arena>& current();

 private:
  struct Part {
    size_t bytes;
    bool free, first;  // first: of its block
  };
  using Parts = std::map<char*, Part>;
  cudaError_t add_block(size_t bytes);
  void merge_with_next(Parts::iterator part);
  void set_free(Parts::iterator part, bool free);

  cudaStream_t stream_;
  Parts parts_;                                 // all, by address
  std::set<std::pair<size_t, char*>> by_size_;  // those that are free
  std::vector<void*> blocks_;
  size_t total_ = 0;
};

}  // namespace qt
