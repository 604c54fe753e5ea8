// core/comm/communicator.cpp -- the communicator of a single process, and what is made of gathers
// and broadcasts.
#include "core/comm/communicator.h"

#include <algorithm>
#include <cstring>
#include <functional>

namespace qt {
namespace {

class Done : public Pending {
 public:
  void wait() override {}
  double started() const override { return 0; }
  double finished() const override { return 0; }
  double waited() const override { return 0; }
};

class NobodyElse : public Watched {
 public:
  void check() override {}
};

class SingleCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int world() const override { return 1; }
  const char* name() const override { return "single"; }
  std::unique_ptr<Pending> start_sum(Tensor, Wire, const std::string&) override {
    return std::make_unique<Done>();
  }
  void gather(const void* mine, size_t bytes, void* all, const std::string&) override {
    if (bytes) std::memcpy(all, mine, bytes);
  }
  void broadcast(void*, size_t, const std::string&) override {}
  std::unique_ptr<Watched> watch(const std::string&) override {
    return std::make_unique<NobodyElse>();
  }
  void note(int64_t, const char*) override {}
  void check() override {}
  void on_loss(SayLoss) override {}
  Ending end_with(ExitCode code, const std::string&) override { return {code, true}; }
  void close() override {}
  void set_timeout(double) override {}
  int fair_threads() const override { return 0; }
};

template <class Combine>
std::vector<double> combined(Communicator& ranks, const std::vector<double>& values,
                             const std::string& what, Combine combine) {
  const size_t n = values.size();
  std::vector<double> all(n * size_t(ranks.world()));
  ranks.gather(values.data(), n * sizeof(double), all.data(), what);
  std::vector<double> result(all.begin(), all.begin() + int64_t(n));
  for (size_t i = n; i < all.size(); ++i) result[i % n] = combine(result[i % n], all[i]);
  return result;
}

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

Communicator& single_communicator() {
  static SingleCommunicator communicator;
  return communicator;
}

std::vector<double> summed(Communicator& ranks, const std::vector<double>& values,
                           const std::string& what) {
  return combined(ranks, values, what, std::plus<>());
}

std::vector<double> largest(Communicator& ranks, const std::vector<double>& values,
                            const std::string& what) {
  return combined(ranks, values, what, [](double a, double b) { return b > a ? b : a; });
}

std::vector<std::string> gathered(Communicator& ranks, const std::string& text,
                                  const std::string& what) {
  const uint64_t mine = text.size();
  std::vector<uint64_t> sizes(size_t(ranks.world()));
  ranks.gather(&mine, sizeof(mine), sizes.data(), what);
  const size_t longest = *std::max_element(sizes.begin(), sizes.end());
  std::string padded = text;
  padded.resize(longest);
  std::vector<char> all(longest * sizes.size());
  ranks.gather(padded.data(), longest, all.data(), what);
  std::vector<std::string> texts;
  for (size_t r = 0; r < sizes.size(); ++r)
    texts.emplace_back(all.data() + r * longest, size_t(sizes[r]));
  return texts;
}

std::string broadcasted(Communicator& ranks, const std::string& text, const std::string& what) {
  uint64_t size = text.size();
  ranks.broadcast(&size, sizeof(size), what);
  std::string result = ranks.rank() == 0 ? text : std::string(size, '\0');
  ranks.broadcast(result.data(), result.size(), what);
  return result;
}

}  // namespace qt
