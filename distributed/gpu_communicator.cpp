// distributed/gpu_communicator.cpp -- sums on a side stream, waiting that can time out, and the
// choice between NCCL and host memory.
#include "distributed/gpu_communicator.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/log.h"
#include "core/library/convert.h"
#include "core/library/library.h"
#include "core/tensor/transfer.h"
#include "distributed/launch.h"

namespace qt {
namespace {

constexpr auto abort_limit = std::chrono::seconds(5);

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  std::array<char, 256> text{};
  gethostname(text.data(), text.size() - 1);
  return text.data();
}

// Work of one stream from now on runs after what another has been given so far.
void order(Stream before, Stream after) {
  GpuEvent event;
  event.record(before);
  event.hold_back(after);
}

// "rank 0 and rank 2 compute on one GPU", "rank 1: ..." or "": why NCCL cannot be used.
std::string obstacle(const std::vector<std::string>& gpus,
                     const std::vector<std::string>& troubles) {
  for (size_t a = 0; a < gpus.size(); ++a)
    for (size_t b = a + 1; b < gpus.size(); ++b)
      if (gpus[a] == gpus[b])
        return "rank " + std::to_string(a) + " and rank " + std::to_string(b) +
               " compute on one GPU";
  for (size_t rank = 0; rank < troubles.size(); ++rank)
    if (!troubles[rank].empty()) return "rank " + std::to_string(rank) + ": " + troubles[rank];
  return "";
}

}  // namespace

// A sum by NCCL.
class GpuCommunicator::PendingSum : public Pending {
 public:
  PendingSum(GpuCommunicator& ranks, Tensor values, const std::string& what)
      : ranks_(ranks), values_(std::move(values)), what_(what), flight_(ranks.flight()) {}

  // Watched over here, where NCCL may have to reach the other ranks first, and in wait(): what the
  // caller computes in between keeps nobody waiting.
  void start(Wire wire) {
    const Stream side = ranks_.side_.stream();
    const auto watched = ranks_.watch(what_);
    const Patience patience = [&] { watched->check(); };
    Collectives& collectives = *ranks_.collectives_;
    order(current_stream(), side);
    begin_.record(side);
    const UseStream use(side);
    if (wire == Wire::f32) {
      collectives.sum(values_.raw(), values_.elements(), wire, side, patience);
    } else {
      const Tensor half = to_bf16(values_);
      collectives.sum(half.raw(), half.elements(), wire, side, patience);
      copy_on_gpu(values_.raw(), to_float(half).raw(), values_.bytes(), side);
    }
    done_.record(side);
    used_on(values_.raw(), side);
  }

  void wait() override {
    const auto watched = ranks_.watch(what_);
    GpuEvent arrived(true);  // the caller's work
    arrived.record(current_stream());
    for (int idle = 0; !done_.reached() || !arrived.reached(); ++idle) {
      watched->check();
      ranks_.collectives_->check();
      if (idle < 20)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    waited_ = std::max(0.0, done_.seconds_since(arrived));
  }
  double started() const override {
    return flight_->on_clock + begin_.seconds_since(flight_->begin);
  }
  double finished() const override {
    return flight_->on_clock + done_.seconds_since(flight_->begin);
  }
  double waited() const override { return waited_; }

 private:
  GpuCommunicator& ranks_;
  Tensor values_;
  std::string what_;
  std::shared_ptr<Flight> flight_;
  GpuEvent begin_{true}, done_{true};
  double waited_ = 0;
};

// A sum through host memory. The copy to the host is waited for at once: sums of the other
// communicator have to be started in the same place of the program on every rank.
class GpuCommunicator::PendingStagedSum : public Pending {
 public:
  PendingStagedSum(GpuCommunicator& ranks, Tensor values, Wire wire, const std::string& what)
      : ranks_(ranks), values_(std::move(values)) {
    const Stream side = ranks_.side_.stream();
    order(current_stream(), side);
    GpuEvent begin(true), end(true);
    begin.record(side);
    host_ = to_host(values_, side);
    end.record(side);
    end.synchronize();  // the copy has been waited for
    copied_ = end.seconds_since(begin);
    began_ = now() - copied_;
    const UseStream host(Stream{});
    sum_ = ranks_.ranks_->start_sum(host_, wire, what);
  }
  void wait() override {
    sum_->wait();
    const Stream side = ranks_.side_.stream();
    copy_to_gpu(values_.raw(), host_.raw(), values_.bytes(), side);
    order(side, current_stream());
    used_on(values_.raw(), side);
  }
  double started() const override { return began_; }
  double finished() const override { return sum_->finished(); }
  double waited() const override { return copied_ + sum_->waited(); }

 private:
  GpuCommunicator& ranks_;
  Tensor values_, host_;
  double began_ = 0, copied_ = 0;  // seconds: when the copy to the host began, and how long it took
  std::unique_ptr<Pending> sum_;
};

GpuCommunicator::GpuCommunicator(std::shared_ptr<Communicator> ranks,
                                 std::unique_ptr<Collectives> collectives)
    : ranks_(std::move(ranks)), collectives_(std::move(collectives)) {}

std::shared_ptr<GpuCommunicator::Flight> GpuCommunicator::flight() {
  std::shared_ptr<Flight> flight = flight_.lock();
  if (flight) return flight;
  flight = std::make_shared<Flight>();
  flight->begin.record(side_.stream());
  flight->on_clock = now();
  flight_ = flight;
  return flight;
}

std::unique_ptr<Pending> GpuCommunicator::start_sum(Tensor values, Wire wire,
                                                    const std::string& what) {
  if (!current_stream().on_gpu) return ranks_->start_sum(std::move(values), wire, what);
  QT_CHECK(values.dtype() == DType::f32, "sums over ranks are of f32 values");
  if (!collectives_)
    return std::make_unique<PendingStagedSum>(*this, std::move(values), wire, what);
  auto sum = std::make_unique<PendingSum>(*this, std::move(values), what);
  sum->start(wire);
  return sum;
}

// The others hear of it first; then NCCL is given up, for what other ranks' NCCL still waits for.
// That may hang: it is not waited for long, since the message has yet to be printed.
Communicator::Ending GpuCommunicator::end_with(ExitCode code, const std::string& message) {
  const Ending ending = ranks_->end_with(code, message);
  if (!collectives_) return ending;
  const auto over = std::make_shared<std::promise<void>>();
  std::thread([over, collectives = std::shared_ptr<Collectives>(std::move(collectives_))] {
    collectives->abort();
    over->set_value();
  }).detach();
  over->get_future().wait_for(abort_limit);
  return ending;
}

void GpuCommunicator::close() {
  if (collectives_) {
    const auto watched = watch("the end of NCCL");
    collectives_->close([&] { watched->check(); });
  }
  ranks_->close();
}

int local_rank(const std::vector<std::string>& hosts, const std::vector<int>& told, int rank) {
  bool believed = true;
  for (size_t a = 0; a < hosts.size(); ++a) {
    believed &= told[a] >= 0;
    for (size_t b = 0; b < a; ++b) believed &= hosts[a] != hosts[b] || told[a] != told[b];
  }
  if (believed) return told[size_t(rank)];
  const auto mine = hosts.begin() + rank;
  return int(std::count(hosts.begin(), mine, *mine));
}

int local_rank(Communicator& ranks) {
  const int mine = launched_local_rank();
  std::vector<int> told(size_t(ranks.world()));
  ranks.gather(&mine, sizeof(mine), told.data(), "local ranks");
  return local_rank(gathered(ranks, host_name(), "host names"), told, ranks.rank());
}

std::shared_ptr<Communicator> with_gpus(std::shared_ptr<Communicator> ranks) {
  if (ranks->alone()) return ranks;
  CollectivesModule module{};
  std::string trouble;
  try {
    module = load_nccl();
  } catch (const ConfigError& e) {
    trouble = e.what();
  }
  const auto gpus = gathered(*ranks, host_name() + " " + gpu_identity(), "GPUs");
  const std::string why_not = obstacle(gpus, gathered(*ranks, trouble, "GPUs"));
  if (ranks->writes()) {
    const size_t count = std::set<std::string>(gpus.begin(), gpus.end()).size();
    log::info(std::to_string(gpus.size()) + " ranks on " + std::to_string(count) +
              (count == 1 ? " GPU" : " GPUs") +
              (why_not.empty() ? ": gradients are summed by NCCL, each rank has a GPU of its own"
                               : ": gradients are summed through host memory: " + why_not));
  }
  if (!why_not.empty()) return std::make_shared<GpuCommunicator>(std::move(ranks), nullptr);
  Collectives::Id id{};
  if (ranks->writes()) id = module.make_id();
  ranks->broadcast(id.data(), id.size(), "NCCL's start");
  const auto watched = ranks->watch("NCCL's start");
  auto collectives = module.open(id, ranks->rank(), ranks->world(), [&] { watched->check(); });
  return std::make_shared<GpuCommunicator>(std::move(ranks), std::move(collectives));
}

}  // namespace qt
