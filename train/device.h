// train/device.h -- where a run computes: on the CPU, or on one GPU with a compute library of its
// own.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "core/device/gpu.h"
#include "core/library/library.h"

namespace qt {

class Device {
 public:
  // The CPU, with current_library().
  Device() = default;
  // A GPU, with a stream of its own and a library that works on its memory.
  Device(const std::string& name, std::shared_ptr<Library> library);

  const std::string& name() const { return name_; }  // "cpu", "cuda:0"
  bool on_gpu() const { return stream_.has_value(); }
  Stream stream() const { return on_gpu() ? stream_->stream() : Stream{}; }

  // While alive, this thread computes there: new tensors lie there. On the CPU nothing changes.
  class Section {
   public:
    explicit Section(const Device& device);

   private:
    UseStream stream_;
    std::optional<UseLibrary> library_;
  };
  Section enter() const { return Section(*this); }

 private:
  std::string name_ = "cpu";
  std::optional<GpuStream> stream_;
  std::shared_ptr<Library> library_;
};

// "auto" (the CPU), "cpu", "cuda" (the first GPU), "cuda:K". ConfigError, one line, for another
// name, for a build without CUDA and where there is no such GPU.
std::shared_ptr<const Device> open_device(const std::string& name);
// "not in this build", "no device", "2 devices": for people.
std::string cuda_description();
// Whether the name is a GPU's.
bool is_gpu_name(const std::string& name);
// The name of the GPU that a rank takes, local_rank being its number among those of its machine:
// "cuda" goes around among the machine's GPUs, any other name stays.
std::string gpu_of_rank(const std::string& name, int local_rank);
// The same check of a name without looking for a GPU.
bool is_device_name(const std::string& name);

}  // namespace qt
