// distributed/operations.cpp -- who sends what to whom, and the order of additions.
#include "distributed/operations.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace qt {
namespace {

template <class T>
void add_to(std::vector<double>& sums, const void* values) {
  const T* const from = static_cast<const T*>(values);
  for (size_t i = 0; i < sums.size(); ++i) sums[i] += double(float(from[i]));
}

}  // namespace

void Operation::send(Transport& transport, int to, const void* bytes, size_t count) {
  if (count) messages_.push_back({to, false, transport.send(to, tag_, bytes, count)});
}

void Operation::receive(Transport& transport, int from, void* bytes, size_t count) {
  if (count) messages_.push_back({from, true, transport.receive(from, tag_, bytes, count)});
}

bool Operation::advance(Transport& transport) {
  for (;;) {
    std::erase_if(messages_, [&](Message& message) { return transport.done(*message.transfer); });
    if (!messages_.empty()) return false;
    if (!next_phase(transport)) return true;
  }
}

std::vector<int> Operation::missing() const {
  std::vector<int> ranks;
  for (const bool incoming : {true, false})
    for (const Message& message : messages_)
      if (message.incoming == incoming && (incoming || ranks.empty()))
        ranks.push_back(message.peer);
  return ranks;
}

SumOperation::Part SumOperation::part_of(int rank, int world) const {
  const int64_t count = values_.elements();
  const int64_t begin = count * rank / world;
  return {begin, count * (rank + 1) / world - begin};
}

char* SumOperation::on_wire(int64_t element) {
  if (wire_ == Wire::f32) return reinterpret_cast<char*>(values_.data<float>() + element);
  return reinterpret_cast<char*>(halves_.data() + element);
}

void SumOperation::start(Transport& transport) {
  const int me = transport.rank(), world = transport.world();
  if (wire_ == Wire::bf16) {
    const float* const values = std::as_const(values_).data<float>();
    halves_.resize(size_t(values_.elements()));
    for (size_t i = 0; i < halves_.size(); ++i) halves_[i] = BFloat16(values[i]);
  }
  const Part mine = part_of(me, world);
  received_.resize(size_t(world));
  for (int offset = 1; offset < world; ++offset) {
    const int from = (me + world - offset) % world, to = (me + offset) % world;
    std::vector<char>& buffer = received_[size_t(from)];
    buffer.resize(size_t(mine.count) * width());
    receive(transport, from, buffer.data(), buffer.size());
    const Part theirs = part_of(to, world);
    send(transport, to, on_wire(theirs.begin), size_t(theirs.count) * width());
  }
}

void SumOperation::add_contributions(int rank, int world) {
  const Part mine = part_of(rank, world);
  std::vector<double> sums(size_t(mine.count), 0.0);
  for (int r = 0; r < world; ++r) {
    const void* const from = r == rank ? on_wire(mine.begin) : received_[size_t(r)].data();
    if (wire_ == Wire::f32)
      add_to<float>(sums, from);
    else
      add_to<BFloat16>(sums, from);
  }
  received_.clear();
  for (int64_t i = 0; i < mine.count; ++i) {
    const float sum = float(sums[size_t(i)]);
    if (wire_ == Wire::f32)
      values_.data<float>()[mine.begin + i] = sum;
    else
      halves_[size_t(mine.begin + i)] = BFloat16(sum);
  }
}

void SumOperation::unpack() {
  for (size_t i = 0; i < halves_.size(); ++i) values_.data<float>()[i] = float(halves_[i]);
}

// Messages of the first phase have left their place by now, so that the second may write there.
bool SumOperation::next_phase(Transport& transport) {
  const int me = transport.rank(), world = transport.world();
  if (++phase_ == 1) {
    add_contributions(me, world);
    const Part mine = part_of(me, world);
    for (int offset = 1; offset < world; ++offset) {
      const int from = (me + world - offset) % world, to = (me + offset) % world;
      const Part theirs = part_of(from, world);
      receive(transport, from, on_wire(theirs.begin), size_t(theirs.count) * width());
      send(transport, to, on_wire(mine.begin), size_t(mine.count) * width());
    }
    return true;
  }
  unpack();
  return false;
}

void GatherOperation::start(Transport& transport) {
  const int me = transport.rank(), world = transport.world();
  all_.resize(bytes_ * size_t(world));
  std::copy(mine_.begin(), mine_.end(), all_.begin() + int64_t(bytes_) * me);
  for (int offset = 1; offset < world; ++offset) {
    const int from = (me + world - offset) % world, to = (me + offset) % world;
    receive(transport, from, all_.data() + bytes_ * size_t(from), bytes_);
    send(transport, to, mine_.data(), bytes_);
  }
}

void GatherOperation::deliver() {
  if (!all_.empty()) std::memcpy(target_, all_.data(), all_.size());
}

void OutsideOperation::start(Transport& transport) {
  for (int rank = 0; rank < transport.world(); ++rank)
    if (rank != transport.rank()) others_.push_back(rank);
}

void BroadcastOperation::start(Transport& transport) {
  if (transport.rank() != 0) return receive(transport, 0, bytes_.data(), bytes_.size());
  for (int to = 1; to < transport.world(); ++to) send(transport, to, bytes_.data(), bytes_.size());
}

void BroadcastOperation::deliver() {
  if (!bytes_.empty()) std::memcpy(target_, bytes_.data(), bytes_.size());
}

}  // namespace qt
