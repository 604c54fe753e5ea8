// distributed/peers.cpp -- listening to the other ranks, and finding the one that is missing.
#include "distributed/peers.h"

#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>

namespace qt {
namespace {

// The state letter of a process of this host (proc(5)), 0 where it does not exist.
char state_of(int64_t process) {
  std::ifstream in("/proc/" + std::to_string(process) + "/stat");
  std::string line;
  if (!std::getline(in, line)) return 0;
  const size_t name_ends = line.rfind(')');
  return name_ends + 2 < line.size() ? line[name_ends + 2] : 0;
}

bool on_one_host(const Identity& a, const Identity& b) {
  return a.host == b.host && a.process_space == b.process_space;
}

std::string seconds_text(double seconds) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f s", seconds);
  return text.data();
}

// On the host of `mine`.
int threads_of(const Identity& mine, const std::vector<Identity>& all) {
  int ranks = 0, own = 0, together = 0;
  std::array<uint64_t, 16> joint{};
  for (const Identity& other : all) {
    if (other.host != mine.host) continue;
    ++ranks;
    for (size_t i = 0; i < joint.size(); ++i) joint[i] |= other.processors[i];
  }
  for (uint64_t bits : joint) together += std::popcount(bits);
  for (uint64_t bits : mine.processors) own += std::popcount(bits);
  return std::max(1, std::min(own, together / ranks));
}

}  // namespace

Identity own_identity() {
  Identity identity;
  identity.process = getpid();
  gethostname(identity.host.data(), identity.host.size() - 1);
  struct stat info {};
  if (stat("/proc/self/ns/pid", &info) == 0) identity.process_space = info.st_ino;
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof(set), &set);
  for (size_t i = 0; i < identity.processors.size() * 64; ++i)
    if (CPU_ISSET(i, &set)) identity.processors[i / 64] |= uint64_t(1) << (i % 64);
  return identity;
}

int fair_threads(const std::vector<Identity>& all) {
  int least = threads_of(all.at(0), all);
  for (const Identity& rank : all) least = std::min(least, threads_of(rank, all));
  return least;
}

Peers::Peers(Transport& transport) : transport_(transport) {
  for (int rank = 0; rank < transport.world(); ++rank) {
    if (rank == transport.rank()) continue;
    Peer& peer = peers_[rank];
    peer.receiving = transport.receive(rank, tag, &peer.incoming, sizeof(Notice));
  }
}

bool Peers::poll() {
  bool any = false;
  for (auto& [rank, peer] : peers_) {
    if (peer.sending && transport_.done(*peer.sending)) peer.sending.reset();
    while (transport_.done(*peer.receiving)) {
      any = true;
      peer.heard = Clock::now();
      if (peer.last.kind != Notice::Kind::failed) peer.last = peer.incoming;
      if (peer.last.kind == Notice::Kind::failed && first_failed_ < 0) first_failed_ = rank;
      peer.receiving = transport_.receive(rank, tag, &peer.incoming, sizeof(Notice));
    }
  }
  return any;
}

void Peers::send(const Notice& notice) {
  for (auto& [rank, peer] : peers_) {
    if (peer.sending && transport_.done(*peer.sending)) peer.sending.reset();
    if (peer.sending) continue;
    peer.outgoing = notice;
    peer.sending = transport_.send(rank, tag, &peer.outgoing, sizeof(Notice));
  }
}

bool Peers::tell_all(const Notice& notice) {
  bool all = true;
  for (auto& [rank, peer] : peers_) {
    if (is_gone(rank)) continue;
    if (peer.sending && transport_.done(*peer.sending)) peer.sending.reset();
    if (!peer.told && !peer.sending) {
      peer.outgoing = notice;
      peer.sending = transport_.send(rank, tag, &peer.outgoing, sizeof(Notice));
      peer.told = true;
    }
    all &= peer.told && !peer.sending;
  }
  return all;
}

std::optional<int> Peers::exit_code_of(int rank) const {
  const Notice& last = peers_.at(rank).last;
  return last.kind == Notice::Kind::failed ? std::optional<int>(last.exit_code) : std::nullopt;
}

bool Peers::is_gone(int rank) const {
  if (identities_.empty()) return false;
  const Identity &theirs = identities_.at(size_t(rank)),
                 &mine = identities_.at(size_t(transport_.rank()));
  if (!on_one_host(theirs, mine) || theirs.process == mine.process) return false;
  const char state = state_of(theirs.process);
  return state == 0 || state == 'Z' || state == 'X';
}

bool Peers::is_silent(int rank) const { return Clock::now() - peers_.at(rank).heard > silence_; }

// Long enough for a heartbeat on a machine that is busy with other things.
void Peers::set_timeout(std::chrono::duration<double> timeout) {
  silence_ = std::clamp<std::chrono::duration<double>>(timeout / 2, std::chrono::seconds(3),
                                                       std::chrono::seconds(10));
}

void Peers::forgive(Clock::time_point now, Clock::duration time) {
  for (auto& [rank, peer] : peers_) peer.heard = std::min(now, peer.heard + time);
}

int Peers::gone() const {
  for (const auto& [rank, peer] : peers_)
    if (is_gone(rank)) return rank;
  return -1;
}

std::string Peers::failure() const {
  if (first_failed_ < 0) return "";
  const Notice& last = peers_.at(first_failed_).last;
  return describe(first_failed_, std::string("failed: ") + last.message.data());
}

std::optional<int> Peers::lost() const {
  if (first_failed_ < 0) return {};
  const Notice& last = peers_.at(first_failed_).last;
  return last.lost >= 0 ? std::optional<int>(last.lost) : std::nullopt;
}

std::string Peers::describe(int rank, const std::string& what_happened) const {
  const Notice& last = peers_.at(rank).last;
  std::string text = "rank " + std::to_string(rank) + " of " + std::to_string(transport_.world());
  if (!identities_.empty()) {
    const Identity& identity = identities_.at(size_t(rank));
    text += " (process " + std::to_string(identity.process) + " on " + identity.host.data() + ")";
  }
  if (last.activity[0])
    text +=
        ", last heard of at step " + std::to_string(last.step) + ", " + last.activity.data() + ",";
  return text + " " + what_happened;
}

// A rank that is silent; else the one that has started the fewest operations.
int Peers::culprit(const std::vector<int>& missing) const {
  int worst = missing.front();
  bool found_silent = false;
  for (const auto& [rank, peer] : peers_) {
    const bool silent = is_silent(rank);
    const Peer& before = peers_.at(worst);
    if (silent && (!found_silent || peer.heard < before.heard)) worst = rank, found_silent = true;
    if (!found_silent && peer.last.operations < before.last.operations) worst = rank;
  }
  return worst;
}

std::string Peers::diagnosis(const std::vector<int>& missing, double seconds,
                             const std::string& operation) const {
  const int rank = culprit(missing);
  const double ago = std::chrono::duration<double>(Clock::now() - peers_.at(rank).heard).count();
  std::string how = is_silent(rank) ? "does not answer: not heard of for " + seconds_text(ago)
                                    : "hangs: its process answers but does not go on";
  if (!identities_.empty() &&
      on_one_host(identities_.at(size_t(rank)), identities_.at(size_t(transport_.rank()))) &&
      state_of(identities_.at(size_t(rank)).process) == 'T')
    how += " (its process is stopped)";
  return describe(rank, how + "; the others waited " + seconds_text(seconds) + " for it in " +
                            operation + " (distributed.timeout)");
}

}  // namespace qt
