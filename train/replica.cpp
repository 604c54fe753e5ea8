// train/replica.cpp -- sharing state, agreeing on a step's end, averaging, and comparing hashes.
#include "train/replica.h"

#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/device/memory.h"
#include "core/tensor/transfer.h"

namespace qt {
namespace {

// One rank's StepEnd as it travels.
struct StepRecord {
  double loss = 0;
  int64_t correct = 0, images = 0;
  std::array<char, 160> bad{};
  std::array<char, 32> stop{};
};

template <size_t N>
void copy_text(const std::string& text, std::array<char, N>& to) {
  std::memcpy(to.data(), text.data(), std::min(text.size(), N - 1));
}

nlohmann::json description(const std::optional<LoadedCheckpoint>& checkpoint) {
  if (!checkpoint) return nullptr;
  nlohmann::json j = {{"step", checkpoint->step},
                      {"folder", checkpoint->folder},
                      {"state", checkpoint->content.state_json},
                      {"files", nlohmann::json::object()}};
  if (checkpoint->score) j["score"] = *checkpoint->score;
  for (const auto& [file, tensors] : checkpoint->content.files) {
    nlohmann::json list = nlohmann::json::array();
    for (const auto& [name, tensor] : tensors)
      list.push_back({name, int(tensor.dtype()), tensor.shape().vector()});
    j["files"][file] = list;
  }
  return j;
}

LoadedCheckpoint described(const nlohmann::json& j) {
  LoadedCheckpoint checkpoint;
  checkpoint.step = j.at("step");
  checkpoint.folder = j.at("folder");
  checkpoint.content.state_json = j.at("state");
  if (j.contains("score")) checkpoint.score = j.at("score").get<double>();
  for (const auto& [file, list] : j.at("files").items()) {
    NamedTensors& tensors = checkpoint.content.files[file];
    for (const auto& item : list)
      tensors.emplace_back(item.at(0), Tensor::empty(Shape(item.at(2).get<std::vector<int64_t>>()),
                                                     DType(item.at(1).get<int>())));
  }
  return checkpoint;
}

}  // namespace

void by_writer(Communicator& ranks, const std::string& what, const std::function<void()>& work) {
  if (ranks.alone()) return work();
  std::string outcome;
  if (ranks.writes()) {
    try {
      work();
    } catch (const Error& e) {
      outcome = std::string(1, char(e.code())) + e.what();
    }
  }
  outcome = broadcasted(ranks, outcome, what);
  if (!outcome.empty()) throw Error(ExitCode(outcome[0]), outcome.substr(1));
}

void share_checkpoint(Communicator& ranks, std::optional<LoadedCheckpoint>& checkpoint) {
  if (ranks.alone()) return;
  const std::string what = "the checkpoint for all ranks";
  const std::string text =
      broadcasted(ranks, ranks.writes() ? description(checkpoint).dump() : "", what);
  const nlohmann::json j = nlohmann::json::parse(text);
  if (j.is_null()) return;
  if (!ranks.writes()) checkpoint = described(j);
  for (auto& [file, tensors] : checkpoint->content.files)
    for (auto& [name, tensor] : tensors) ranks.broadcast(tensor.raw(), tensor.bytes(), what);
}

void share_state(Communicator& ranks, Model& model) {
  if (ranks.alone()) return;
  NamedTensors shared;
  for (const auto& [name, tensor] : state_of(model)) {
    if (!tensor.defined()) continue;
    const Tensor copy = tensor.clone();
    ranks.broadcast(copy.raw(), copy.bytes(), "first weights for all ranks");
    shared.emplace_back(name, copy);
  }
  load_state(model, shared, true);
}

StepEnd agreed(Communicator& ranks, const StepEnd& mine) {
  if (ranks.alone()) return mine;
  StepRecord record{mine.loss, mine.correct, mine.images, {}, {}};
  copy_text(mine.bad, record.bad);
  copy_text(mine.stop, record.stop);
  std::vector<StepRecord> all{size_t(ranks.world())};
  ranks.gather(&record, sizeof(record), all.data(), "the end of the step");
  StepEnd end;
  for (const StepRecord& theirs : all) {
    end.loss += theirs.loss;
    end.correct += theirs.correct;
    end.images += theirs.images;
    if (end.bad.empty()) end.bad = theirs.bad.data();
    if (end.stop.empty()) end.stop = theirs.stop.data();
  }
  return end;
}

std::string agreed_reason(Communicator& ranks, const std::string& mine) {
  if (ranks.alone()) return mine;
  using Reason = decltype(StepRecord::stop);
  Reason record{};
  copy_text(mine, record);
  std::vector<Reason> all{size_t(ranks.world())};
  ranks.gather(&record, sizeof(record), all.data(), "requests to stop");
  for (const Reason& theirs : all)
    if (theirs[0]) return theirs.data();
  return "";
}

void StatisticsAverage::start() {
  if (ranks_.alone() || norms_.empty()) return;
  int64_t count = 0;
  for (const BatchNormState* norm : norms_) count += 2 * norm->running_mean.elements();
  values_ = Tensor::empty({count}, DType::f32);
  float* at = values_.data<float>();
  for (const BatchNormState* norm : norms_)
    for (const Tensor* t : {&norm->running_mean, &norm->running_var}) {
      copy_bytes(at, t->raw(), t->bytes());
      at += t->elements();
    }
  pending_ = ranks_.start_sum(values_, Wire::f32, "the average of running statistics");
}

void StatisticsAverage::finish() {
  if (!pending_) return;
  pending_->wait();
  pending_.reset();
  const Tensor sums = on_host(values_);
  const float* at = sums.data<float>();
  const double world = ranks_.world();
  const auto next_average = [&](const Shape& shape) {
    const UseStream host(Stream{});
    Tensor average = Tensor::empty(shape, DType::f32);
    for (int64_t i = 0; i < average.elements(); ++i)
      average.data<float>()[i] = float(double(*at++) / world);
    return average;
  };
  for (BatchNormState* norm : norms_)
    for (Tensor* t : {&norm->running_mean, &norm->running_var}) *t = here(next_average(t->shape()));
}

void check_same(Communicator& ranks, const NamedTensors& state, int64_t step) {
  if (ranks.alone()) return;
  constexpr size_t width = 32;
  std::string mine;
  for (const auto& [name, tensor] : state)
    mine += files::hash_of({static_cast<const char*>(tensor.raw()), tensor.bytes()});
  const std::vector<std::string> all = gathered(ranks, mine, "the comparison of ranks");
  for (size_t i = 0; i < state.size(); ++i) {
    std::string who;
    for (size_t r = 1; r < all.size(); ++r)
      if (all[r].compare(i * width, width, all[0], i * width, width) != 0)
        who += (who.empty() ? "" : ", ") + std::to_string(r);
    if (!who.empty())
      throw PeerError("after step " + std::to_string(step) + " tensor '" + state[i].first +
                      "' is not the same on all ranks: rank " + who + " of " +
                      std::to_string(all.size()) +
                      " has another one than rank 0; memory or processors of that machine may be "
                      "at fault. The last checkpoint is untouched");
  }
}

void flip_a_bit(Parameter& parameter) {
  const Tensor& value = parameter.var.value();
  std::vector<float> numbers = on_host(value).to_vector<float>();
  // Of the mantissa, and so large that no update rounds it away.
  numbers.at(0) = std::bit_cast<float>(std::bit_cast<uint32_t>(numbers.at(0)) ^ (1u << 20));
  const auto in_host_memory = [&] {
    const UseStream host(Stream{});
    return Tensor::of<float>(value.shape(), numbers);
  };
  parameter.set(here(in_host_memory()));
}

}  // namespace qt
