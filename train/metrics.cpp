// train/metrics.cpp -- lines of metrics.jsonl, and where a resume cuts them.
#include "train/metrics.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/log.h"

namespace qt {
namespace {

using nlohmann::json;

struct Line {
  int64_t step, epoch;
  bool trains;  // of steps, not of what comes after an epoch's
};
// Nothing where it is damaged (a crash can tear the last one).
std::optional<Line> parsed(const std::string& line) {
  const json j = json::parse(line, nullptr, /*allow_exceptions=*/false);
  const auto is_count = [&](const char* key) {
    return j.contains(key) && j[key].is_number_integer();
  };
  if (!j.is_object() || !is_count("step") || !is_count("epoch")) return {};
  return Line{.step = j["step"].get<int64_t>(),
              .epoch = j["epoch"].get<int64_t>(),
              .trains = j.contains("train/loss")};
}

bool is_behind(const Line& line, const MetricsEnd& end) {
  if (line.step > end.step || line.epoch > end.epoch) return true;
  return end.within_epoch && line.step == end.step && line.epoch == end.epoch && !line.trains;
}

void cut_after(const std::string& path, const MetricsEnd& end_of_run) {
  if (!files::exists(path)) return;
  const std::string text = files::read_all(path);
  std::string kept;
  int damaged = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t newline = text.find('\n', begin);
    const size_t end = newline == std::string::npos ? text.size() : newline + 1;
    const std::string line = text.substr(begin, end - begin);
    const auto known = newline == std::string::npos ? std::nullopt : parsed(line);
    damaged += !known;
    if (known && !is_behind(*known, end_of_run)) kept += line;
    begin = end;
  }
  if (damaged) log::warn(path + ": dropped " + std::to_string(damaged) + " damaged line(s)");
  if (kept != text) files::write_atomically(path, kept);
}

files::RecordFile open_lines(const std::string& run_folder,
                             const std::optional<MetricsEnd>& resumed_from) {
  const std::string path = run_folder + "/metrics.jsonl";
  if (resumed_from)
    cut_after(path, *resumed_from);
  else if (files::exists(path) && files::InputFile(path).size() > 0)
    throw CheckpointError(path + " holds another run's numbers, and this run does not resume it");
  return {path, files::RecordFile::Open::append};
}

json number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

}  // namespace

std::string metrics_line(int64_t step, int64_t epoch, const NamedValues& values) {
  std::string line = "{\"step\":" + std::to_string(step) + ",\"epoch\":" + std::to_string(epoch);
  for (const auto& [name, value] : values)
    line += "," + json(name).dump() + ":" + number(value).dump();
  return line + "}\n";
}

MetricsLog::MetricsLog(const std::string& run_folder, std::optional<MetricsEnd> resumed_from)
    : lines_(open_lines(run_folder, resumed_from)), events_(run_folder) {
  events_.session_start(resumed_from && resumed_from->epoch > 0 ? resumed_from->step + 1 : 0);
}

void MetricsLog::write(int64_t step, int64_t epoch, const NamedValues& values) {
  lines_.append(metrics_line(step, epoch, values));
  for (const auto& [name, value] : values) events_.scalar(name, step, value);
}

void MetricsLog::sync() {
  lines_.sync();
  events_.sync();
}

}  // namespace qt
