// distributed/message_communicator.cpp -- the thread that sends and receives, and what callers wait
// for.
#include "distributed/message_communicator.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/log.h"

namespace qt {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr auto look_every = milliseconds(100);  // at the other ranks
constexpr auto stood_still = seconds(2);        // without a look: the process itself did not run
constexpr auto hung_after = seconds(5);  // a rank that does not react to a failure ends itself
constexpr auto goodbye = seconds(8);     // at most, for hearing of the others' errors
constexpr auto last_words = milliseconds(200);
constexpr size_t piece = size_t(256) << 20;  // of a broadcast
constexpr int first_tag = 16, tags = 30000;

double seconds_of_clock(Clock::time_point t) {
  return std::chrono::duration<double>(t.time_since_epoch()).count();
}

// Of a library's call that does not come back and cannot be given up.
[[noreturn]] void give_up(const std::string& call, double seconds_waited) {
  log::error(call + " takes more than " + std::to_string(int(seconds_waited)) +
             " s: a rank may be missing");
  log::flush();
  _exit(int(ExitCode::peer_lost));
}

template <size_t N>
void copy_text(const std::string& text, std::array<char, N>& to) {
  to.fill(0);
  std::memcpy(to.data(), text.data(), std::min(text.size(), N - 1));
}

}  // namespace

class MessageCommunicator::PendingSum : public Pending {
 public:
  PendingSum(MessageCommunicator& communicator, OperationPointer operation)
      : communicator_(communicator), operation_(std::move(operation)) {}
  void wait() override {
    const auto before = Clock::now();
    communicator_.wait(operation_);
    const std::chrono::duration<double> waited =
        operation_->finished - std::max(before, operation_->started);
    waited_ = std::max(0.0, waited.count());
  }
  double started() const override { return seconds_of_clock(operation_->started); }
  double finished() const override { return seconds_of_clock(operation_->finished); }
  double waited() const override { return waited_; }

 private:
  MessageCommunicator& communicator_;
  OperationPointer operation_;
  double waited_ = 0;
};

class MessageCommunicator::WatchedWork : public Watched {
 public:
  WatchedWork(MessageCommunicator& communicator, std::shared_ptr<OutsideOperation> operation)
      : communicator_(communicator), operation_(std::move(operation)) {}
  ~WatchedWork() override { operation_->end(); }
  void check() override {
    const std::lock_guard lock(communicator_.mutex_);
    if (!communicator_.failure_.empty()) throw PeerError(communicator_.failure_);
  }

 private:
  MessageCommunicator& communicator_;
  std::shared_ptr<OutsideOperation> operation_;
};

MessageCommunicator::MessageCommunicator(const Open& open, const std::string& name, double timeout)
    : name_(name), timeout_(timeout) {
  // Signals are for the main thread: what this one and the library's own threads inherit is
  // blocked.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this, open] { run(open); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  {
    std::unique_lock lock(mutex_);
    if (!changes_within(timeout, lock, [&] { return open_ || could_not_open_; }))
      give_up("the start of " + name_, timeout);
  }
  if (could_not_open_) {
    thread_.join();
    std::rethrow_exception(could_not_open_);
  }
  try {
    const Identity mine = own_identity();
    std::vector<Identity> all_identities{size_t(world_)};
    gather(&mine, sizeof(mine), all_identities.data(), "introduction");
    fair_threads_ = qt::fair_threads(all_identities);
    const std::lock_guard lock(mutex_);
    identities_ = std::move(all_identities);
    introduced_ = true;
  } catch (...) {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    to_do_.notify_one();
    thread_.join();
    throw;
  }
}

MessageCommunicator::~MessageCommunicator() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  to_do_.notify_one();
  if (thread_.joinable()) thread_.join();
}

// ---- for callers ----

template <class Kind, class... Arguments>
std::shared_ptr<Kind> MessageCommunicator::start(const std::string& what,
                                                 Arguments&&... arguments) {
  const std::lock_guard lock(mutex_);
  if (!failure_.empty()) throw PeerError(failure_);
  const int tag = first_tag + int(started_++ % tags);
  auto operation = std::make_shared<Kind>(what, tag, std::forward<Arguments>(arguments)...);
  operation->started = Clock::now();
  new_.push_back(operation);
  to_do_.notify_one();
  return operation;
}

// Waits for `over`, which it returns. Time in which this process stood still does not count.
bool MessageCommunicator::changes_within(double seconds, std::unique_lock<std::mutex>& lock,
                                         const std::function<bool()>& over) {
  std::chrono::duration<double> left(seconds);
  while (left.count() > 0 && !over()) {
    const auto slice = std::min<std::chrono::duration<double>>(left, milliseconds(500));
    changed_.wait_for(lock, slice, over);
    left -= slice;
  }
  return over();
}

void MessageCommunicator::wait(const OperationPointer& operation) {
  {
    std::unique_lock lock(mutex_);
    // The thread finds out who is late; that it is itself stuck inside of the library is the last
    // resort.
    changes_within(timeout_.load() + 10, lock,
                   [&] { return operation->complete || !failure_.empty(); });
    if (!operation->complete)
      throw PeerError(failure_.empty() ? operation->what() + ": no progress in " + name_
                                       : failure_);
  }
  operation->deliver();
}

std::unique_ptr<Pending> MessageCommunicator::start_sum(Tensor values, Wire wire,
                                                        const std::string& what) {
  QT_CHECK(values.dtype() == DType::f32, "sums over ranks are of f32 values");
  return std::make_unique<PendingSum>(*this, start<SumOperation>(what, std::move(values), wire));
}

void MessageCommunicator::gather(const void* mine, size_t bytes, void* all,
                                 const std::string& what) {
  wait(start<GatherOperation>(what, mine, bytes, all));
}

void MessageCommunicator::broadcast(void* bytes, size_t count, const std::string& what) {
  for (size_t at = 0; at < count; at += piece)
    wait(start<BroadcastOperation>(what, static_cast<char*>(bytes) + at,
                                   std::min(piece, count - at)));
}

std::unique_ptr<Watched> MessageCommunicator::watch(const std::string& what) {
  return std::make_unique<WatchedWork>(*this, start<OutsideOperation>(what));
}

void MessageCommunicator::note(int64_t step, const char* activity) {
  const std::lock_guard lock(mutex_);
  step_ = step;
  activity_ = activity;
}

void MessageCommunicator::check() {
  const std::lock_guard lock(mutex_);
  if (lost_) throw PeerError(failure_);
}

void MessageCommunicator::on_loss(SayLoss say) {
  const std::lock_guard lock(mutex_);
  say_loss_ = std::move(say);
}

Communicator::Ending MessageCommunicator::end_with(ExitCode code, const std::string& message) {
  std::unique_lock lock(mutex_);
  last_words_ = failure_notice(code, message);
  ending_as_ = {ExitCode::peer_lost, true};
  ending_ = true;
  to_do_.notify_one();
  changed_.wait_for(lock, goodbye + seconds(2), [&] { return ended_; });
  return {ending_as_.code, ending_as_.speaks && (said_.empty() || said_ != message)};
}

void MessageCommunicator::close() {
  char nothing = 0;
  std::vector<char> all(size_t(world_), 0);
  gather(&nothing, 1, all.data(), "the end");
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  to_do_.notify_one();
  {
    std::unique_lock lock(mutex_);
    if (!changes_within(timeout_.load(), lock, [&] { return ended_; }))
      give_up("the end of " + name_, timeout_.load());
  }
  thread_.join();
}

// ---- in the thread ----

void MessageCommunicator::run(const Open& open) {
  try {
    transport_ = open();
    peers_.emplace(*transport_);
    const std::lock_guard lock(mutex_);
    rank_ = transport_->rank(), world_ = transport_->world();
    open_ = true;
  } catch (...) {
    const std::lock_guard lock(mutex_);
    could_not_open_ = std::current_exception();
  }
  changed_.notify_all();
  if (!open_) return;
  try {
    work();
  } catch (const std::exception& e) {
    fail(std::string("messages between ranks: ") + e.what());
    std::unique_lock lock(mutex_);
    to_do_.wait(lock, [&] { return ending_; });
  }
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
}

void MessageCommunicator::work() {
  last_look_ = Clock::now();
  for (int idle = 0;;) {
    std::deque<OperationPointer> fresh;
    bool ending = false, leaving = false, failed = false;
    {
      const std::lock_guard lock(mutex_);
      fresh.swap(new_);
      ending = ending_, failed = !failure_.empty();
      leaving = closing_ && fresh.empty() && active_.empty();
      if (introduced_ && !identities_.empty()) peers_->introduce(std::exchange(identities_, {}));
    }
    if (leaving) {
      transport_->close();
      return;
    }
    if (ending) return say_goodbye();
    for (OperationPointer& operation : fresh) {
      if (!failed) operation->start(*transport_);
      active_.push_back(std::move(operation));
    }
    const bool moved = (!failed && advance_all()) | peers_->poll();
    watch();
    if (moved) {
      idle = 0;
    } else if (active_.empty() || failed) {
      std::unique_lock lock(mutex_);
      to_do_.wait_for(lock, milliseconds(20), [&] { return !new_.empty() || ending_ || closing_; });
    } else if (++idle < 20) {
      std::this_thread::yield();
    } else {
      // The longer the wait, the less it costs those who compute.
      std::this_thread::sleep_for(std::chrono::microseconds(std::min(1000, 50 + 2 * idle)));
    }
  }
}

bool MessageCommunicator::advance_all() {
  bool any = false;
  for (OperationPointer& operation : active_) {
    if (!operation->advance(*transport_)) continue;
    any = true;
    {
      const std::lock_guard lock(mutex_);
      operation->finished = Clock::now();
      operation->complete = true;
    }
    operation.reset();
  }
  if (any) {
    std::erase(active_, nullptr);
    changed_.notify_all();
  }
  return any;
}

// Under mutex_, as the next.
Notice MessageCommunicator::own_notice() const {
  Notice notice;
  notice.step = step_;
  notice.operations = started_;
  copy_text(activity_, notice.activity);
  return notice;
}

Notice MessageCommunicator::failure_notice(ExitCode code, const std::string& message) const {
  Notice notice = own_notice();
  notice.kind = Notice::Kind::failed;
  notice.exit_code = int(code);
  notice.lost = lost_.value_or(-1);
  copy_text(message, notice.message);
  return notice;
}

void MessageCommunicator::watch() {
  const auto now = Clock::now();
  const auto since = now - last_look_;
  if (since < look_every) return;
  last_look_ = now;
  if (since > stood_still) forgive(now, since);
  bool failed = false, ending = false;
  Notice notice;
  {
    const std::lock_guard lock(mutex_);
    failed = !failure_.empty(), ending = ending_;
    notice = own_notice();
  }
  if (failed) {
    if (ending || now - failed_at_ < hung_after) return;
    end_process();
  }
  const std::chrono::duration<double> timeout(timeout_.load());
  peers_->set_timeout(timeout);
  if (now - last_heartbeat_ > std::min<std::chrono::duration<double>>(seconds(1), timeout / 4)) {
    last_heartbeat_ = now;
    peers_->send(notice);
  }
  const int gone = peers_->gone();
  peers_->poll();  // one that left may have said why
  if (const std::string why = peers_->failure(); !why.empty())
    return peers_->lost() ? lose(why, *peers_->lost()) : fail(why);
  const OperationPointer oldest = active_.empty() ? nullptr : active_.front();
  if (gone >= 0)
    return lose(peers_->describe(gone, "is lost: its process is gone") + "; rank " +
                    std::to_string(rank_) + " was at step " + std::to_string(notice.step) + ", " +
                    notice.activity.data() + (oldest ? ", in " + oldest->what() : ""),
                gone);
  if (!oldest || now - oldest->started <= timeout) return;
  const std::vector<int> missing = oldest->missing();
  if (missing.empty()) return;
  lose(peers_->diagnosis(missing, std::chrono::duration<double>(now - oldest->started).count(),
                         oldest->what()),
       peers_->culprit(missing));
}

// Nobody is late by time in which this process did not run.
void MessageCommunicator::forgive(Clock::time_point now, Clock::duration time) {
  for (const OperationPointer& operation : active_)
    operation->started = std::min(now, operation->started + time);
  failed_at_ = std::min(now, failed_at_ + time);
  peers_->forgive(now, time);
}

void MessageCommunicator::fail(const std::string& message, std::optional<int> lost) {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) return;
    failure_ = message, lost_ = lost;
  }
  failed_at_ = Clock::now();
  changed_.notify_all();
}

void MessageCommunicator::lose(const std::string& message, int rank) {
  fail(message, rank);
  for (int r = 0; r < rank_; ++r)
    if (r != rank && !peers_->is_gone(r) && !peers_->is_silent(r)) return;
  say(message);
}

void MessageCommunicator::say(const std::string& message) {
  SayLoss say;
  int64_t step = 0;
  {
    const std::lock_guard lock(mutex_);
    say = say_loss_, step = step_;
    if (say) said_ = message;
  }
  if (say) say(step, message);
}

// The callers do not come back to hear that it is over.
void MessageCommunicator::end_process() {
  Notice words;
  {
    const std::lock_guard lock(mutex_);
    words = failure_notice(ExitCode::peer_lost, failure_);
  }
  const auto until = Clock::now() + last_words;
  while (!peers_->tell_all(words) && Clock::now() < until) {
    peers_->poll();
    std::this_thread::sleep_for(milliseconds(2));
  }
  const std::string text = "rank " + std::to_string(rank_) + " was told to end and hangs (" +
                           words.activity.data() + ", step " + std::to_string(words.step) +
                           "): " + failure_;
  if (said_.empty()) say(text);
  if (said_ != text) log::error(text);
  log::flush();
  _exit(int(ExitCode::peer_lost));
}

// Tells everyone, hears everyone who still lives, and finds the exit code.
void MessageCommunicator::say_goodbye() {
  Notice words;
  {
    const std::lock_guard lock(mutex_);
    words = last_words_;
  }
  if (words.kind != Notice::Kind::failed) return;  // nobody asked
  const auto until = Clock::now() + goodbye;
  bool same = false;
  while (Clock::now() < until) {
    peers_->poll();
    const bool told = peers_->tell_all(words);
    bool heard_all = true;
    same = true;
    for (int r = 0; r < world_; ++r) {
      if (r == rank_) continue;
      const auto code = peers_->exit_code_of(r);
      if (!code && !peers_->is_gone(r) && !peers_->is_silent(r)) heard_all = false;
      if (code != words.exit_code) same = false;
    }
    if (heard_all && told) break;
    std::this_thread::sleep_for(milliseconds(2));
  }
  const std::lock_guard lock(mutex_);
  ending_as_ = {same ? ExitCode(words.exit_code) : ExitCode::peer_lost, true};
  for (int r = 0; r < rank_; ++r)
    if (peers_->exit_code_of(r) == words.exit_code) ending_as_.speaks = false;
}

}  // namespace qt
