// distributed/gpu_communicator.h -- a communicator for ranks that compute on GPUs: tensors in GPU
// memory are summed by NCCL, or through host memory where ranks share a GPU. All else is another
// communicator's.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/device/gpu.h"
#include "distributed/collectives.h"

namespace qt {

// Sums run on a stream of their own, beside the caller's: start_sum() makes it wait for what the
// caller's stream has been given so far, wait() returns when the sum is there. Nothing waits for
// the GPU in a way that cannot time out while other ranks are needed.
class GpuCommunicator : public Communicator {
 public:
  // ranks: the communicator of host memory. collectives: null where sums go through it.
  GpuCommunicator(std::shared_ptr<Communicator> ranks, std::unique_ptr<Collectives> collectives);

  int rank() const override { return ranks_->rank(); }
  int world() const override { return ranks_->world(); }
  const char* name() const override { return collectives_ ? "nccl" : ranks_->name(); }
  std::unique_ptr<Pending> start_sum(Tensor values, Wire wire, const std::string& what) override;
  void gather(const void* mine, size_t bytes, void* all, const std::string& what) override {
    ranks_->gather(mine, bytes, all, what);
  }
  void broadcast(void* bytes, size_t count, const std::string& what) override {
    ranks_->broadcast(bytes, count, what);
  }
  std::unique_ptr<Watched> watch(const std::string& what) override { return ranks_->watch(what); }
  void note(int64_t step, const char* activity) override { ranks_->note(step, activity); }
  void check() override { ranks_->check(); }
  void on_loss(SayLoss say) override { ranks_->on_loss(std::move(say)); }
  Ending end_with(ExitCode code, const std::string& message) override;
  void close() override;
  void set_timeout(double seconds) override { ranks_->set_timeout(seconds); }
  int fair_threads() const override { return ranks_->fair_threads(); }

 private:
  class PendingSum;
  class PendingStagedSum;
  // The time from which a group of sums that overlap is counted: floats of milliseconds, as CUDA
  // gives them, do not last for days.
  struct Flight {
    GpuEvent begin{true};
    double on_clock = 0;  // of the host
  };
  std::shared_ptr<Flight> flight();

  std::shared_ptr<Communicator> ranks_;
  std::unique_ptr<Collectives> collectives_;
  GpuStream side_;
  std::weak_ptr<Flight> flight_;
};

// A rank's number among those of its machine: which of its GPUs it takes. hosts: by rank; told: the
// launcher's numbers (launched_local_rank), -1 where it has none. The launcher is believed where it
// numbers all ranks, and those of a machine differently; else ranks are counted.
int local_rank(const std::vector<std::string>& hosts, const std::vector<int>& told, int rank);
// This rank's; collective.
int local_rank(Communicator& ranks);

// The communicator for ranks that work on GPUs from now on, each on the current one of its calling
// thread; collective. By NCCL where every rank has a GPU of its own and can load it; otherwise
// through host memory. The log of rank 0 says which, and why.
std::shared_ptr<Communicator> with_gpus(std::shared_ptr<Communicator> ranks);

}  // namespace qt
