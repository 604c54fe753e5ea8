// tests/support/memory_transport.h -- ranks as threads of the test: messages through memory.
#pragma once
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <tuple>
#include <vector>

#include "distributed/message_communicator.h"

namespace qt {

class MemoryExchange {
 public:
  explicit MemoryExchange(int world) : world_(world) {}
  int world() const { return world_; }
  void put(int from, int to, int tag, const void* bytes, size_t count) {
    const std::lock_guard lock(mutex_);
    const char* const p = static_cast<const char*>(bytes);
    mail_[{from, to, tag}].emplace_back(p, p + count);
  }
  bool take(int from, int to, int tag, void* bytes, size_t count) {
    const std::lock_guard lock(mutex_);
    auto& box = mail_[{from, to, tag}];
    if (box.empty()) return false;
    if (box.front().size() != count) throw PeerError("a message of another length");
    std::memcpy(bytes, box.front().data(), count);
    box.pop_front();
    return true;
  }

 private:
  const int world_;
  std::mutex mutex_;
  std::map<std::tuple<int, int, int>, std::deque<std::vector<char>>> mail_;
};

class MemoryTransport : public Transport {
 public:
  MemoryTransport(std::shared_ptr<MemoryExchange> exchange, int rank)
      : exchange_(std::move(exchange)), rank_(rank) {}
  int rank() const override { return rank_; }
  int world() const override { return exchange_->world(); }
  TransferPointer send(int to, int tag, const void* bytes, size_t count) override {
    exchange_->put(rank_, to, tag, bytes, count);
    return std::make_unique<Message>();
  }
  TransferPointer receive(int from, int tag, void* bytes, size_t count) override {
    auto message = std::make_unique<Message>();
    *message = Message(from, tag, bytes, count);
    return message;
  }
  bool done(Transfer& transfer) override {
    Message& message = static_cast<Message&>(transfer);
    if (!message.done)
      message.done =
          exchange_->take(message.from, rank_, message.tag, message.bytes, message.count);
    return message.done;
  }
  void close() override {}

 private:
  struct Message : Transfer {
    Message() = default;
    Message(int from, int tag, void* bytes, size_t count)
        : from(from), tag(tag), bytes(bytes), count(count), done(false) {}
    int from = -1, tag = 0;
    void* bytes = nullptr;
    size_t count = 0;
    bool done = true;
  };
  std::shared_ptr<MemoryExchange> exchange_;
  int rank_;
};

// Runs work(communicator) once per rank, each in a thread; the first exception is thrown on.
inline void on_ranks(int world, const std::function<void(Communicator&)>& work,
                     double timeout = 60) {
  const auto exchange = std::make_shared<MemoryExchange>(world);
  std::vector<std::exception_ptr> errors(static_cast<size_t>(world));
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < world; ++rank)
      threads.emplace_back([&, rank] {
        try {
          MessageCommunicator ranks(
              [=] { return std::make_unique<MemoryTransport>(exchange, rank); }, "memory", timeout);
          work(ranks);
          ranks.close();
        } catch (...) {
          errors[size_t(rank)] = std::current_exception();
        }
      });
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace qt
