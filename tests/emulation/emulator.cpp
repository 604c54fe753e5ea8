// tests/emulation/emulator.cpp -- the scheduler of emulated CUDA threads. Compiled without
// -fsanitize, and told by EMULATOR_TSAN or EMULATOR_ASAN what the kernels are compiled with: the
// sanitizers see the CUDA threads and nothing of the machinery below.
#include "tests/emulation/emulator.h"

#include <algorithm>
#include <bit>
#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <utility>
#include <vector>
#if defined(EMULATOR_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(EMULATOR_TSAN)
#include <alloca.h>
#include <sanitizer/tsan_interface.h>
#include <sys/mman.h>
#endif

namespace emulator {
namespace {

using std::to_string;
using Context = boost::context::fiber;
enum class State : uint8_t { fresh, ready, at_barrier, in_warp, done };

#if defined(EMULATOR_TSAN)
constexpr bool keep_shared = true;  // freeing a block's memory would order it before the next block
void switch_tsan(void* to) { __tsan_switch_to_fiber(to, __tsan_switch_to_fiber_no_sync); }
void* current_tsan() { return __tsan_get_current_fiber(); }
void* create_tsan() { return __tsan_create_fiber(0); }
void destroy_tsan(void* fiber) { __tsan_destroy_fiber(fiber); }
void release(const void* at) { __tsan_release(const_cast<void*>(at)); }
void acquire(const void* at) { __tsan_acquire(const_cast<void*>(at)); }
#else
constexpr bool keep_shared = false;
void switch_tsan(void*) {}
void* current_tsan() { return nullptr; }
void* create_tsan() { return nullptr; }
void destroy_tsan(void*) {}
void release(const void*) {}
void acquire(const void*) {}
#endif

struct Fiber {
  static constexpr size_t bytes = 128 << 10;
  Context self, scheduler;  // one of them is where to go, the other is running
  const void* bottom = nullptr;
  size_t size = 0;
};

struct Thread {
  State state = State::fresh;
  uint3 index{};
  Site where;
  unsigned mask = 0;
  bool fence = false;  // __syncwarp orders memory, shuffles do not
  uint64_t value = 0, lanes[32] = {};
  Fiber* fiber = nullptr;
  void* tsan = nullptr;
};

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

struct Grid {
  const std::function<void()>* body = nullptr;
  size_t dynamic_bytes = 0;
  std::vector<Thread> threads{};  // of the block that runs
  std::vector<unsigned> turn{};   // the order in which they run
  size_t next = 0;                // position in `turn` of the next one to start
  Thread* current = nullptr;
  std::map<const void*, Memory> arrays{};  // the block's shared memory, by declaration
  void* scheduler_tsan = current_tsan();
  std::exception_ptr error{};
};

// Fibers are kept for the next launch. Those that a failed launch left waiting are never resumed
// (their stacks belong to the kernel that failed); `all` keeps them known to leak checkers.
struct Fibers {
  std::vector<std::unique_ptr<Fiber>> all;
  std::vector<Fiber*> idle;
};

Order chosen_order = Order::ascending;
unsigned chosen_seed = 1;
Grid* grid = nullptr;
const void* scheduler_bottom = nullptr;
size_t scheduler_size = 0;

// Neither is destroyed: unwinding a waiting fiber at exit would run a dead kernel's code.
std::vector<Memory>& kept_memory() {
  static auto* const memory = std::make_unique<std::vector<Memory>>().release();
  return *memory;
}
Fibers& fibers() {
  static Fibers* const instance = std::make_unique<Fibers>().release();
  return *instance;
}

[[noreturn]] void fail(const Thread& t, const std::string& what) {
  const std::string file = t.where.file_name();
  throw Violation(file.substr(file.rfind('/') + 1) + ":" + to_string(t.where.line()) + ": block (" +
                  to_string(blockIdx.x) + ", " + to_string(blockIdx.y) + "), thread (" +
                  to_string(t.index.x) + ", " + to_string(t.index.y) + "): " + what);
}

void go(Context& to, [[maybe_unused]] const void* bottom, [[maybe_unused]] size_t size) {
#if defined(EMULATOR_ASAN)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, bottom, size);
  to = std::move(to).resume();
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  to = std::move(to).resume();
#endif
}

void to_scheduler(Fiber& from) {
  switch_tsan(grid->scheduler_tsan);
  go(from.scheduler, scheduler_bottom, scheduler_size);
}

void make_current(Thread& t) {
  grid->current = &t;
  threadIdx = t.index;
  switch_tsan(t.tsan);
}

#if defined(EMULATOR_TSAN)
// A thread's variables lie where those of the fiber's last thread lay, and nothing orders that
// one's accesses before this one's. Pages mapped anew are, to the sanitizer, memory that only the
// current thread has written. mmap's own frames stay above them.
[[gnu::noinline]] void run_body() {
  constexpr uintptr_t apart = 8 << 10, fresh = 32 << 10, page = 4096;
  const auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  const uintptr_t top = (here - apart) / page * page;
  if (mmap(reinterpret_cast<void*>(top - fresh), fresh, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
    throw std::bad_alloc();
  void* const down = alloca(here - top);
  asm volatile("" : : "r"(down) : "memory");
  (*grid->body)();
}
#else
void run_body() { (*grid->body)(); }
#endif

// Runs threads that have not started, until one of them waits: that one keeps the fiber.
Context carry(Fiber& self, Context&& scheduler) {
#if defined(EMULATOR_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
  self.scheduler = std::move(scheduler);
  for (;;) {
    try {
      run_body();
    } catch (const boost::context::detail::forced_unwind&) {
      throw;
    } catch (...) {
      grid->error = std::current_exception();
    }
    Grid& g = *grid;
    release(&g);
    g.current->state = State::done;
    if (g.next < g.turn.size() && !g.error) {
      Thread& fresh = g.threads[g.turn[g.next++]];
      fresh.fiber = &self;
      make_current(fresh);
    } else {
      g.current->fiber = &self;
      to_scheduler(self);
    }
  }
}

Fiber* new_fiber() {
  Fiber* const fiber = fibers().all.emplace_back(std::make_unique<Fiber>()).get();
  boost::context::protected_fixedsize_stack pool(Fiber::bytes);
  auto stack = pool.allocate();
  fiber->size = stack.size;
  fiber->bottom = static_cast<char*>(stack.sp) - stack.size;
  fiber->self =
      Context(std::allocator_arg, boost::context::preallocated(stack.sp, stack.size, stack), pool,
              [fiber](Context&& from) { return carry(*fiber, std::move(from)); });
  return fiber;
}

void resume(Thread& t) {
  Grid& g = *grid;
  if (t.state == State::fresh) {
    ++g.next;
    auto& idle = fibers().idle;
    if (idle.empty()) idle.push_back(new_fiber());
    t.fiber = idle.back();
    idle.pop_back();
  }
  t.state = State::ready;
  Fiber& fiber = *t.fiber;
  make_current(t);
  go(fiber.self, fiber.bottom, fiber.size);
  if (g.error) std::rethrow_exception(g.error);
  if (g.current->state == State::done) fibers().idle.push_back(g.current->fiber);
}

void wait(State state, Site where) {
  Thread& t = *grid->current;
  t.state = state;
  t.where = where;
  to_scheduler(*t.fiber);
}

// Lets thread t see what the threads released at `at`.
void let_through(Thread& t, const void* at) {
  t.state = State::ready;
  switch_tsan(t.tsan);
  acquire(at);
  switch_tsan(grid->scheduler_tsan);
}

// Waits for all lanes of the mask; then `lanes` of each holds the values of all.
void exchange(unsigned mask, uint64_t value, bool fence, Site where) {
  Thread& t = *grid->current;
  t.mask = mask;
  t.value = value;
  t.fence = fence;
  t.where = where;
  if (!(mask >> lane() & 1)) fail(t, "the mask does not name the calling lane");
  if (fence) release(&t - lane() + std::countr_zero(mask));
  wait(State::in_warp, where);
}

// Ends the warp operation thread t waits in, if all lanes of its mask have come.
void try_warp(Thread& t) {
  Thread* const warp = grid->threads.data() + (&t - grid->threads.data()) / 32 * 32;
  const size_t lanes = std::min<size_t>(32, grid->threads.data() + grid->threads.size() - warp);
  const auto fail_at = [&](unsigned i, const std::string& before, const std::string& after) {
    fail(t, before + "lane " + to_string(i) + after);
  };
  uint64_t values[32] = {};
  for (unsigned i = 0; i < 32; ++i) {
    if (!(t.mask >> i & 1)) continue;
    if (i >= lanes) fail_at(i, "the mask names ", ", which the block does not have");
    if (warp[i].state == State::done) fail_at(i, "the mask names ", ", which has returned");
    if (warp[i].state != State::in_warp) return;
    if (warp[i].mask != t.mask) fail_at(i, "", " came with another mask");
    if (warp[i].where.line() != t.where.line())
      fail_at(i, "", " came from line " + to_string(warp[i].where.line()));
    values[i] = warp[i].value;
  }
  for (unsigned i = 0; i < lanes; ++i) {
    if (!(t.mask >> i & 1)) continue;
    std::copy(values, values + 32, warp[i].lanes);
    warp[i].state = State::ready;
    if (t.fence) let_through(warp[i], &warp[std::countr_zero(t.mask)]);
  }
}

[[noreturn]] void explain_hang() {
  const Thread* at_barrier = nullptr;
  size_t returned = 0, waiting = 0;
  for (const Thread& t : grid->threads) {
    if (t.state == State::in_warp)
      fail(t, "hangs: not all lanes of the mask come to this warp operation");
    if (t.state == State::done) ++returned;
    if (t.state == State::at_barrier) at_barrier = &t, ++waiting;
  }
  fail(*at_barrier, to_string(waiting) + " threads wait at this __syncthreads, " +
                        to_string(returned) + " have returned");
}

// Ends a barrier that all threads have reached.
void open_barrier() {
  Grid& g = *grid;
  const Site first = g.threads[0].where;
  for (Thread& t : g.threads) {
    if (t.where.line() != first.line())
      fail(t, "other threads wait at line " + to_string(first.line()));
    let_through(t, &g.turn);
  }
}

void run_block() {
  Grid& g = *grid;
  for (;;) {
    bool moved = false;
    size_t done = 0, waiting = 0;
    for (const unsigned i : g.turn) {
      Thread& t = g.threads[i];
      if (t.state == State::fresh || t.state == State::ready) moved = true, resume(t);
      if (t.state == State::in_warp) try_warp(t);
      done += t.state == State::done;
      waiting += t.state == State::at_barrier;
    }
    if (done == g.threads.size()) return;
    if (waiting == g.threads.size())
      open_barrier();
    else if (!moved)
      explain_hang();
  }
}

void end_block(bool keep) {
  for (auto& [key, memory] : grid->arrays)
    if (keep) kept_memory().push_back(std::move(memory));
  grid->arrays.clear();
}

void new_block(dim3 block) {
  Grid& g = *grid;
  g.next = 0;
  for (size_t i = 0; i < g.threads.size(); ++i) {
    Thread& t = g.threads[i];
    if (t.tsan) destroy_tsan(t.tsan);
    t.tsan = create_tsan();
    t.state = State::fresh;
    t.index = {unsigned(i % block.x), unsigned(i / block.x % block.y),
               unsigned(i / block.x / block.y)};
  }
}

template <class T>
void arrange(std::vector<T>& turn) {
  for (size_t i = 0; i < turn.size(); ++i) turn[i] = T(i);
  if (chosen_order == Order::descending) std::reverse(turn.begin(), turn.end());
  if (chosen_order == Order::shuffled)
    std::shuffle(turn.begin(), turn.end(), std::mt19937(chosen_seed));
}

}  // namespace

void set_order(Order order, unsigned seed) {
  chosen_order = order;
  chosen_seed = seed;
}

void run_grid(dim3 blocks, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  Grid g{.body = &body, .dynamic_bytes = shared_bytes};
  g.threads.resize(size_t(block.x) * block.y * block.z);
  g.turn.resize(g.threads.size());
  grid = &g;
  gridDim = blocks;
  blockDim = block;
  arrange(g.turn);
  std::vector<uint64_t> block_turn(uint64_t(blocks.x) * blocks.y * blocks.z);
  arrange(block_turn);
  try {
    for (const uint64_t i : block_turn) {
      blockIdx = {unsigned(i % blocks.x), unsigned(i / blocks.x % blocks.y),
                  unsigned(i / blocks.x / blocks.y)};
      new_block(block);
      run_block();
      end_block(keep_shared);
    }
  } catch (...) {
    switch_tsan(g.scheduler_tsan);
    end_block(true);
    throw;
  }
  acquire(&g);  // what follows the launch sees what the threads did
  kept_memory().clear();
  for (Thread& t : g.threads)
    if (t.tsan) destroy_tsan(t.tsan);
}

void barrier(Site where) {
  release(&grid->turn);
  wait(State::at_barrier, where);
}

int lane() { return int(grid->current - grid->threads.data()) % 32; }

void sync_warp(unsigned mask, Site where) { exchange(mask, 0, true, where); }

unsigned ballot(unsigned mask, bool vote, Site where) {
  exchange(mask, vote, false, where);
  unsigned bits = 0;
  for (unsigned i = 0; i < 32; ++i) bits |= unsigned(grid->current->lanes[i]) << i;
  return bits;
}

uint64_t read_lane(unsigned mask, uint64_t value, int from, int width, Site where) {
  Thread& t = *grid->current;
  t.where = where;
  if (from < 0 || from >= lane() / width * width + width) from = lane();
  if (!(mask >> from & 1))
    fail(t, "reads lane " + to_string(from) + ", which the mask does not name");
  exchange(mask, value, false, where);
  return t.lanes[from];
}

void* shared_memory(const void* key, size_t bytes) {
  Grid& g = *grid;
  auto found = g.arrays.find(key);
  if (found == g.arrays.end()) {
    switch_tsan(g.scheduler_tsan);
    void* p = nullptr;
    if (posix_memalign(&p, 16, std::max<size_t>(bytes, 1))) throw std::bad_alloc();
    memset(p, 0xff, bytes);
    found = g.arrays.emplace(key, Memory(p)).first;
    release(key);
    switch_tsan(g.current->tsan);
  }
  acquire(key);
  return found->second.get();
}

void* dynamic_shared_memory() {
  static const char key = 0;
  return shared_memory(&key, grid->dynamic_bytes);
}

}  // namespace emulator
