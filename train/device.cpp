// train/device.cpp -- devices by name.
#include "train/device.h"

#include <algorithm>

namespace qt {
namespace {

constexpr size_t prefix = 5;  // "cuda:"

[[noreturn]] void refuse(const std::string& name, const std::string& cause) {
  throw ConfigError("device " + name + ": " + cause);
}

}  // namespace

bool is_gpu_name(const std::string& name) {
  if (name == "cuda") return true;
  if (!name.starts_with("cuda:") || name.size() == prefix || name.size() > prefix + 4) return false;
  return std::all_of(name.begin() + prefix, name.end(),
                     [](char c) { return c >= '0' && c <= '9'; });
}

std::string gpu_of_rank(const std::string& name, int local_rank) {
  const int count = gpu_count();
  return name == "cuda" && count > 0 ? "cuda:" + std::to_string(local_rank % count) : name;
}

Device::Device(const std::string& name, std::shared_ptr<Library> library)
    : name_(name), stream_(std::in_place), library_(std::move(library)) {}

Device::Section::Section(const Device& device)
    : stream_(device.on_gpu() ? device.stream() : current_stream()) {
  if (device.library_) library_.emplace(device.library_);
}

bool is_device_name(const std::string& name) {
  return name == "auto" || name == "cpu" || is_gpu_name(name);
}

std::string cuda_description() {
  if (!built_with_cuda()) return "not in this build";
  const int count = gpu_count();
  return count == 0 ? "no device" : std::to_string(count) + (count == 1 ? " device" : " devices");
}

std::shared_ptr<const Device> open_device(const std::string& name) {
  if (name == "auto" || name == "cpu") return std::make_shared<const Device>();
  if (!is_gpu_name(name)) refuse(name, "no such device; allowed: auto, cpu, cuda, cuda:K");
  if (!built_with_cuda())
    refuse(name, "this build has no CUDA and runs on the CPU; allowed: auto, cpu");
  const int number = name.size() > prefix ? std::stoi(name.substr(prefix)) : 0, count = gpu_count();
  if (number >= count)
    refuse(name, count == 0 ? "there is no CUDA device (or no driver that this build can use); "
                              "allowed: auto, cpu"
                            : "there is no such CUDA device; allowed: auto, cpu, cuda:0" +
                                  (count > 1 ? " to cuda:" + std::to_string(count - 1) : ""));
  use_gpu(number);
  return std::make_shared<const Device>("cuda:" + std::to_string(number), library_by_name("cuda"));
}

}  // namespace qt
