// train/checkpoint.cpp -- the manifest, the order of writes, and which checkpoints rotation keeps.
#include "train/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"
#include "core/base/log.h"

namespace qt {
namespace {

using nlohmann::json;

constexpr const char* manifest_name = "MANIFEST.json";
constexpr const char* state_name = "state.json";
constexpr const char* tensors_suffix = ".safetensors";
constexpr const char* format_key = "format";
constexpr const char* format_text = "qattrain-checkpoint";
constexpr const char* version_key = "version";
constexpr const char* self_key = "manifest_xxh3_128";
constexpr int format_version = 1;
constexpr uint64_t manifest_limit = uint64_t(1) << 20;
constexpr uint64_t state_limit = uint64_t(64) << 20;
constexpr uint64_t space_to_spare = uint64_t(4)
                                    << 20;  // headers, manifest, folders, and the log's growth

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

bool is_tensor_file(const std::string& name) {
  return ends_with(name, tensors_suffix) && name.find('/') == std::string::npos && name[0] != '.';
}

// The step of "step-00012000", nothing for any other name.
std::optional<int64_t> step_of(const std::string& name) {
  const std::string start = "step-";
  if (name.compare(0, start.size(), start) != 0) return {};
  const std::string digits = name.substr(start.size());
  if (digits.size() < 8 || digits.size() > 18) return {};
  if (digits.find_first_not_of("0123456789") != std::string::npos) return {};
  return std::stoll(digits);
}

std::string megabytes(uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", double(bytes) / 1048576.0);
  return text;
}

void require_space(const std::string& folder, uint64_t bytes) {
  const uint64_t available = files::free_bytes(folder);
  const uint64_t wanted = bytes + space_to_spare;
  if (available < wanted)
    throw CheckpointError("cannot write a checkpoint under " + folder +
                          ": No space left on device (" + megabytes(wanted) + " are needed, " +
                          megabytes(available) + " are free)");
}

uint64_t bytes_of(const Checkpoint& content) {
  uint64_t bytes = content.state_json.size();
  for (const auto& [file, tensors] : content.files)
    for (const auto& [name, tensor] : tensors) bytes += tensor.bytes() + name.size() + 128;
  return bytes;
}

struct Manifest {
  int64_t step = 0;
  std::optional<double> score;
  std::map<std::string, files::Stamp> files;
};

// The manifest's own hash covers everything but itself: a flipped bit in a score is found too.
std::string manifest_text(const Manifest& manifest) {
  json j = {{format_key, format_text}, {version_key, format_version}, {"step", manifest.step}};
  j["score"] = manifest.score ? json(*manifest.score) : json(nullptr);
  for (const auto& [name, stamp] : manifest.files)
    j["files"][name] = {{"bytes", stamp.bytes}, {"xxh3_128", stamp.hash}};
  j[self_key] = files::hash_of(j.dump(2));
  return j.dump(2) + "\n";
}

Manifest parse_manifest(const std::string& path, const std::string& text) {
  const json j = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (j.is_discarded() || !j.is_object())
    throw CheckpointError(path + ": damaged: not a JSON object");
  if (j.value(format_key, json()) != format_text)
    throw CheckpointError(path + ": not the manifest of a qattrain checkpoint");
  if (j.value(version_key, json()) != format_version)
    throw CheckpointError(path + ": format version " + j.value(version_key, json()).dump() +
                          ", this program reads " + std::to_string(format_version));
  Manifest manifest;
  if (!j.value("step", json()).is_number_integer())
    throw CheckpointError(path + ": damaged: 'step' is no integer");
  try {
    manifest.step = j.at("step").get<int64_t>();
    if (!j.at("score").is_null()) manifest.score = j.at("score").get<double>();
    for (const auto& [name, stamp] : j.at("files").items())
      manifest.files[name] = {stamp.at("bytes").get<uint64_t>(),
                              stamp.at("xxh3_128").get<std::string>()};
  } catch (const json::exception& e) {
    throw CheckpointError(path + ": damaged: " + e.what());
  }
  if (manifest_text(manifest) != text)
    throw CheckpointError(path + ": damaged: it does not match its own hash");
  for (const auto& [name, stamp] : manifest.files)
    if (name != state_name && !is_tensor_file(name))
      throw CheckpointError(path + ": lists '" + name +
                            "'; only state.json and *.safetensors belong here");
  if (!manifest.files.count(state_name)) throw CheckpointError(path + ": lists no state.json");
  return manifest;
}

Manifest read_manifest(const std::string& folder) {
  const std::string path = folder + "/" + manifest_name;
  Manifest manifest = parse_manifest(path, files::read_all(path, manifest_limit));
  const auto named = step_of(std::filesystem::path(folder).filename().string());
  if (named && *named != manifest.step)
    throw CheckpointError(path + ": is of step " + std::to_string(manifest.step) +
                          ", the folder's name says " + std::to_string(*named));
  return manifest;
}

void verify(const std::string& path, const files::Stamp& wanted) {
  const files::Stamp found = files::stamp_of(path);
  if (found.bytes != wanted.bytes)
    throw CheckpointError(path + ": damaged: " + std::to_string(found.bytes) +
                          " bytes, the manifest says " + std::to_string(wanted.bytes));
  if (found.hash != wanted.hash)
    throw CheckpointError(path + ": damaged: its XXH3-128 is " + found.hash +
                          ", the manifest says " + wanted.hash);
}

}  // namespace

const NamedTensors& Checkpoint::tensors(const std::string& file) const {
  const auto found = files.find(file);
  if (found == files.end()) throw CheckpointError("the checkpoint has no " + file);
  return found->second;
}

struct CheckpointStore::Entry {
  int64_t step = 0;
  bool complete = false;  // the manifest is sound and the sizes fit; hashes are for loading
  std::optional<double> score;
};

CheckpointStore::CheckpointStore(const std::string& folder, int keep_last, int keep_best)
    : folder_(folder), keep_last_(keep_last), keep_best_(keep_best) {
  QT_CHECK(keep_last >= 1, "keep_last is at least 1, got " + std::to_string(keep_last));
  QT_CHECK(keep_best >= 0, "keep_best is at least 0, got " + std::to_string(keep_best));
}

std::string CheckpointStore::folder_of(int64_t step) const {
  char name[40];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return folder_ + "/" + name;
}

void CheckpointStore::prepare(uint64_t bytes) const {
  files::make_folder(folder_);
  require_space(folder_, bytes);
  const std::string probe = folder_ + "/probe.tmp";
  files::write_atomically(probe, "can this folder be written?\n");
  files::remove_tree(probe);
}

std::vector<int64_t> CheckpointStore::steps() const {
  std::vector<int64_t> steps;
  if (!files::exists(folder_)) return steps;
  for (const std::string& name : files::list_folder(folder_))
    if (const auto step = step_of(name); step && folder_of(*step) == folder_ + "/" + name)
      steps.push_back(*step);
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::vector<CheckpointStore::Entry> CheckpointStore::entries() const {
  std::vector<Entry> list;
  for (const int64_t step : steps()) {
    Entry entry{step, false, {}};
    try {
      const Manifest manifest = read_manifest(folder_of(step));
      entry.score = manifest.score;
      entry.complete =
          std::all_of(manifest.files.begin(), manifest.files.end(), [&](const auto& file) {
            return files::InputFile(folder_of(step) + "/" + file.first).size() == file.second.bytes;
          });
    } catch (const CheckpointError&) {
      // Damaged, or unreadable just now: rotation neither counts nor removes it, and load_newest()
      // says what is wrong.
    }
    list.push_back(entry);
  }
  return list;
}

// Under another name first: a crash in the middle must not leave half of one under its old name.
void CheckpointStore::remove(const std::string& path) const {
  const std::string condemned = path + ".old.tmp";
  files::remove_tree(condemned);
  files::rename(path, condemned);
  files::remove_tree(condemned);
}

void CheckpointStore::remove_leftovers() const {
  for (const std::string& name : files::list_folder(folder_))
    if (ends_with(name, ".tmp")) files::remove_tree(folder_ + "/" + name);
}

std::string CheckpointStore::save(int64_t step, const Checkpoint& content,
                                  std::optional<double> score, int64_t rivals_after) const {
  QT_CHECK(step >= 0, "checkpoints are of step 0 and later, got " + std::to_string(step));
  const std::string above = std::filesystem::path(folder_).parent_path().string();
  if (!above.empty() && !files::is_folder(above))
    throw CheckpointError("there is no folder '" + above +
                          "' any more: it was removed or renamed while the run went on");
  files::make_folder(folder_);
  remove_leftovers();
  require_space(folder_, bytes_of(content));
  const std::string final_path = folder_of(step), temporary = final_path + ".tmp";
  files::make_new_folder(temporary);
  try {
    Manifest manifest{step, score && std::isfinite(*score) ? score : std::nullopt, {}};
    for (const auto& [name, tensors] : content.files) {
      QT_CHECK(is_tensor_file(name),
               "a checkpoint's tensors go to NAME.safetensors, not to '" + name + "'");
      manifest.files[name] = write_safetensors(temporary + "/" + name, tensors);
    }
    manifest.files[state_name] =
        files::write_atomically(temporary + "/" + state_name, content.state_json);
    files::write_atomically(temporary + "/" + manifest_name, manifest_text(manifest));
    if (files::exists(final_path))
      files::exchange(temporary, final_path);  // the old one is a leftover from now on
    else
      files::rename(temporary, final_path);
  } catch (const CheckpointError& e) {
    std::error_code ignored;  // the space is wanted back; the first error is the news
    std::filesystem::remove_all(temporary, ignored);
    throw CheckpointError(std::string(e.what()) + "; earlier checkpoints in " + folder_ +
                          " are untouched");
  }
  files::write_atomically(folder_ + "/last",
                          std::filesystem::path(final_path).filename().string() + "\n");
  files::remove_tree(temporary);
  rotate(step, rivals_after);
  return final_path;
}

void CheckpointStore::rotate(int64_t saved, int64_t rivals_after) const {
  std::vector<Entry> complete;
  for (const Entry& entry : entries())
    if (entry.complete) complete.push_back(entry);
  std::set<int64_t> keep{saved};
  const size_t newest = std::min(complete.size(), size_t(keep_last_));
  for (size_t i = complete.size() - newest; i < complete.size(); ++i) keep.insert(complete[i].step);
  std::vector<Entry> scored;
  for (const Entry& entry : complete)
    if (entry.score && entry.step > rivals_after) scored.push_back(entry);
  std::sort(scored.begin(), scored.end(), [](const Entry& a, const Entry& b) {
    return *a.score != *b.score ? *a.score > *b.score : a.step > b.step;
  });
  for (size_t i = 0; i < std::min(scored.size(), size_t(keep_best_)); ++i)
    keep.insert(scored[i].step);
  for (const Entry& entry : complete)
    if (!keep.count(entry.step)) remove(folder_of(entry.step));
}

std::optional<std::string> CheckpointStore::best() const {
  std::optional<Entry> best;
  for (const Entry& entry : entries())
    if (entry.complete && entry.score && (!best || *entry.score >= *best->score)) best = entry;
  if (!best) return {};
  return folder_of(best->step);
}

std::string CheckpointStore::set_aside(int64_t step) const {
  const std::string name = folder_of(step) + ".unreadable";
  std::string aside = name;
  for (int number = 2; files::exists(aside); ++number) aside = name + "-" + std::to_string(number);
  files::rename(folder_of(step), aside);
  return aside;
}

void CheckpointStore::discard_after(int64_t step) const {
  for (const int64_t other : steps())
    if (other > step) remove(folder_of(other));
}

std::optional<LoadedCheckpoint> CheckpointStore::load_newest() const {
  const std::vector<int64_t> all = steps();
  std::string causes;
  std::vector<int64_t> passed_over;
  for (auto step = all.rbegin(); step != all.rend(); ++step) {
    try {
      LoadedCheckpoint loaded = load_checkpoint(folder_of(*step));
      loaded.passed_over = passed_over;
      return loaded;
    } catch (const CheckpointError& e) {
      log::warn(std::string("checkpoint skipped: ") + e.what());
      causes += std::string("\n  ") + e.what();
      passed_over.push_back(*step);
    }
  }
  if (all.empty()) return {};
  throw CheckpointError("no checkpoint in " + folder_ + " can be used:" + causes);
}

LoadedCheckpoint load_checkpoint(const std::string& folder) {
  const Manifest manifest = read_manifest(folder);
  LoadedCheckpoint loaded{
      .step = manifest.step, .score = manifest.score, .folder = folder, .content = {}};
  for (const auto& [name, stamp] : manifest.files) verify(folder + "/" + name, stamp);
  for (const auto& [name, stamp] : manifest.files) {
    const std::string path = folder + "/" + name;
    if (name == state_name)
      loaded.content.state_json = files::read_all(path, state_limit);
    else
      loaded.content.files[name] = read_safetensors(path).tensors;
  }
  return loaded;
}

}  // namespace qt
