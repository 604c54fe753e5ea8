// tests/emulation/streams.cpp -- which piece of work runs next.
#include "tests/emulation/streams.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "tests/emulation/emulator.h"

namespace emulator {
namespace {

bool may_run(const CUstream_st& stream) {
  if (stream.queue.empty()) return false;
  const Work& head = stream.queue.front();
  if (head.ready) return head.ready();
  return !head.after || head.after->done >= head.after_count;
}

// A call that waits for other processes cannot time out on a GPU; here it does.
constexpr auto longest_wait = std::chrono::seconds(20);

}  // namespace

Streams::Streams(unsigned seed) : random_(seed), habit_(Habit(seed % 3)) {}

CUstream_st* Streams::create() {
  CUstream_st* const stream = all_.emplace_back(std::make_unique<CUstream_st>()).get();
  alive_.insert(stream);
  return stream;
}

void Streams::enqueue(CUstream_st* stream, std::function<void()> run) {
  if (const auto& capture = stream->capture) {
    capture->nodes.push_back({std::move(run), stream->tails});
    stream->tails = {capture->nodes.size() - 1};
    return;
  }
  stream->queue.push_back({.run = std::move(run)});
  ++stream->issued;
}

void Streams::enqueue_when(CUstream_st* stream, std::function<bool()> ready,
                           std::function<void()> run) {
  stream->queue.push_back({.run = std::move(run), .ready = std::move(ready)});
  ++stream->issued;
}

void Streams::wait(CUstream_st* stream, const CUevent_st& event) {
  if (event.capture) {
    if (!stream->capture) {
      stream->capture = event.capture;
      stream->tails.clear();
      event.capture->streams.insert(stream);
    }
    for (const size_t node : event.nodes)
      if (std::find(stream->tails.begin(), stream->tails.end(), node) == stream->tails.end())
        stream->tails.push_back(node);
    return;
  }
  if (!event.stream) return;
  stream->queue.push_back({.after = event.stream, .after_count = event.count});
  ++stream->issued;
}

// The stream whose next work brings `target` on: itself, or who it waits for.
CUstream_st* Streams::ready_for(CUstream_st* target) {
  while (!may_run(*target)) {
    if (target->queue.front().ready) return nullptr;
    target = target->queue.front().after;
  }
  return target;
}

CUstream_st* Streams::choose(CUstream_st* target) {
  if (habit_ == Habit::late) return ready_for(target);
  std::vector<CUstream_st*> ready;
  for (const auto& s : all_)
    if (may_run(*s) && (habit_ == Habit::random || s.get() != target)) ready.push_back(s.get());
  return ready.empty() ? ready_for(target) : ready[random_() % ready.size()];
}

void Streams::run_head(CUstream_st* stream) {
  const Work work = std::move(stream->queue.front());
  stream->queue.pop_front();
  if (work.run) work.run();
  ++stream->done;
}

void Streams::run_until(CUstream_st* stream, uint64_t count) {
  const auto begin = std::chrono::steady_clock::now();
  while (stream->done < count) {
    if (CUstream_st* const next = choose(stream)) {
      run_head(next);
    } else if (std::chrono::steady_clock::now() - begin < longest_wait) {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    } else {
      throw Violation("a stream is waited for, and it waits for a process that does not come");
    }
  }
}

void Streams::run_all() {
  for (const auto& s : all_) run_until(s.get(), s->issued);
}

bool Streams::any_may_run() const {
  return std::any_of(all_.begin(), all_.end(), [](const auto& s) { return may_run(*s); });
}

void Streams::run_one() {
  std::vector<CUstream_st*> ready;
  for (const auto& s : all_)
    if (may_run(*s)) ready.push_back(s.get());
  if (!ready.empty()) run_head(ready[random_() % ready.size()]);
}

void Streams::drop_all() {
  for (const auto& s : all_) {
    s->queue.clear();
    s->freed.clear();
    s->done = s->issued;
    s->capture = nullptr;
  }
}

bool Streams::capturing() const {
  return std::any_of(all_.begin(), all_.end(), [](const auto& s) { return s->capture != nullptr; });
}

void Streams::invalidate_captures() {
  for (const auto& s : all_)
    if (s->capture) s->capture->invalid = true;
}

void Streams::run_nodes(const std::vector<Node>& nodes) {
  std::vector<bool> done(nodes.size());
  for (size_t ran = 0; ran < nodes.size(); ++ran) {
    std::vector<size_t> ready;
    for (size_t i = 0; i < nodes.size(); ++i)
      if (!done[i] && std::all_of(nodes[i].after.begin(), nodes[i].after.end(),
                                  [&](size_t before) { return done[before]; }))
        ready.push_back(i);
    // Habits: as recorded, any, the last recorded first.
    const size_t chosen = habit_ == Habit::late     ? ready.front()
                          : habit_ == Habit::random ? ready[random_() % ready.size()]
                                                    : ready.back();
    if (nodes[chosen].run) nodes[chosen].run();
    done[chosen] = true;
  }
}

}  // namespace emulator
