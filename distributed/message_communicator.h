// distributed/message_communicator.h -- a communicator over messages: one thread that owns the
// transport, advances all operations at once and watches the other ranks.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "distributed/peers.h"

namespace qt {

class MessageCommunicator : public Communicator {
 public:
  using Open = std::function<std::unique_ptr<Transport>()>;
  // open is called in the communicator's thread; what it throws, this throws. timeout: seconds.
  MessageCommunicator(const Open& open, const std::string& name, double timeout);
  ~MessageCommunicator() override;

  int rank() const override { return rank_; }
  int world() const override { return world_; }
  const char* name() const override { return name_.c_str(); }
  std::unique_ptr<Pending> start_sum(Tensor values, Wire wire, const std::string& what) override;
  void gather(const void* mine, size_t bytes, void* all, const std::string& what) override;
  void broadcast(void* bytes, size_t count, const std::string& what) override;
  std::unique_ptr<Watched> watch(const std::string& what) override;
  void note(int64_t step, const char* activity) override;
  void check() override;
  void on_loss(SayLoss say) override;
  Ending end_with(ExitCode code, const std::string& message) override;
  void close() override;
  void set_timeout(double seconds) override { timeout_ = seconds; }
  int fair_threads() const override { return fair_threads_; }

 private:
  using OperationPointer = std::shared_ptr<Operation>;
  class PendingSum;
  class WatchedWork;

  template <class Kind, class... Arguments>
  std::shared_ptr<Kind> start(const std::string& what, Arguments&&... arguments);
  void wait(const OperationPointer& operation);

  // In the thread.
  void run(const Open& open);
  void work();
  bool advance_all();
  void watch();
  void fail(const std::string& message, std::optional<int> lost = {});
  void lose(const std::string& message, int rank);
  void say(const std::string& message);
  bool changes_within(double seconds, std::unique_lock<std::mutex>& lock,
                      const std::function<bool()>& over);
  void forgive(Clock::time_point now, Clock::duration time);
  [[noreturn]] void end_process();
  void say_goodbye();
  Notice own_notice() const;
  Notice failure_notice(ExitCode code, const std::string& message) const;

  std::string name_;
  std::atomic<double> timeout_;
  int rank_ = 0, world_ = 1, fair_threads_ = 1;

  mutable std::mutex mutex_;
  std::condition_variable changed_;  // for the thread: something to do; for callers: something done
  std::condition_variable to_do_;
  bool open_ = false, closing_ = false, ending_ = false, ended_ = false;
  std::exception_ptr could_not_open_;
  std::deque<OperationPointer> new_;
  uint64_t started_ = 0;
  std::string failure_;      // why nothing goes on
  std::optional<int> lost_;  // where that is the loss of a rank: which
  SayLoss say_loss_;
  std::string said_;  // by say_loss_
  Notice last_words_;
  Ending ending_as_{ExitCode::peer_lost, true};
  int64_t step_ = 0;
  const char* activity_ = "";

  // Of the thread.
  std::unique_ptr<Transport> transport_;
  std::optional<Peers> peers_;
  std::vector<OperationPointer> active_;
  std::vector<Identity> identities_;
  bool introduced_ = false;  // under mutex_
  Clock::time_point last_heartbeat_{}, last_look_{}, failed_at_{};

  std::thread thread_;
};

}  // namespace qt
