// core/library/cuda/cudnn/descriptor.h -- cuDNN's backend descriptors, owned, with attributes that
// are checked.
#pragma once
#include <cudnn.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "core/base/error.h"

namespace qt::cudnn {

inline std::string text_of(cudnnStatus_t status) {
  char why[512] = "";
  cudnnGetLastErrorString(why, sizeof why);
  return std::string(cudnnGetErrorString(status)) + (why[0] ? std::string(": ") + why : "");
}
inline void check(cudnnStatus_t status, const std::string& call) {
  if (status != CUDNN_STATUS_SUCCESS) throw InternalError("cuDNN " + call + ": " + text_of(status));
}

// A copy shares the descriptor.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    cudnnBackendDescriptor_t made = nullptr;
    check(cudnnBackendCreateDescriptor(type, &made),
          "cudnnBackendCreateDescriptor of kind " + std::to_string(int(type)));
    handle_ = {made, [](void* d) { static_cast<void>(cudnnBackendDestroyDescriptor(d)); }};
  }
  cudnnBackendDescriptor_t get() const { return handle_.get(); }

  template <class T>
  Descriptor& set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                  const std::vector<T>& values) {
    check(cudnnBackendSetAttribute(get(), name, type, int64_t(values.size()), values.data()),
          "cudnnBackendSetAttribute of attribute " + std::to_string(int(name)));
    return *this;
  }
  template <class T>
  Descriptor& set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                  const T& value) {
    check(cudnnBackendSetAttribute(get(), name, type, 1, &value),
          "cudnnBackendSetAttribute of attribute " + std::to_string(int(name)));
    return *this;
  }
  // What it refers to is kept as long as it.
  Descriptor& refer(cudnnBackendAttributeName_t name, const std::vector<Descriptor>& others) {
    std::vector<cudnnBackendDescriptor_t> handles;
    for (const Descriptor& other : others) {
      handles.push_back(other.get());
      keep(other);
    }
    return set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, handles);
  }
  Descriptor& refer(cudnnBackendAttributeName_t name, const Descriptor& other) {
    return refer(name, std::vector<Descriptor>{other});
  }

  // A configuration needs its graph, a plan its configuration, though cuDNN does not hold them.
  Descriptor& keep(const Descriptor& other) {
    referred_->push_back(other);
    return *this;
  }

  template <class T>
  T get_one(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type) const {
    T value{};
    int64_t count = 0;
    check(cudnnBackendGetAttribute(get(), name, type, 1, &count, &value),
          "cudnnBackendGetAttribute of attribute " + std::to_string(int(name)));
    return value;
  }
  // At most as many as `room`.
  template <class T>
  std::vector<T> get_many(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                          size_t room) const {
    std::vector<T> values(room);
    int64_t count = 0;
    check(cudnnBackendGetAttribute(get(), name, type, int64_t(room), &count, values.data()),
          "cudnnBackendGetAttribute of attribute " + std::to_string(int(name)));
    values.resize(std::min(room, size_t(count)));
    return values;
  }
  // As many as there is room for. Those that cuDNN does not fill in stay empty.
  std::vector<Descriptor> get_descriptors(cudnnBackendAttributeName_t name,
                                          cudnnBackendDescriptorType_t type, size_t room) const {
    std::vector<Descriptor> made;
    std::vector<cudnnBackendDescriptor_t> handles;
    for (size_t i = 0; i < room; ++i) handles.push_back(made.emplace_back(type).get());
    int64_t count = 0;
    check(cudnnBackendGetAttribute(get(), name, CUDNN_TYPE_BACKEND_DESCRIPTOR, int64_t(room),
                                   &count, handles.data()),
          "cudnnBackendGetAttribute of attribute " + std::to_string(int(name)));
    return made;
  }

  // Errors are for the caller to judge: an engine that is not supported is one.
  cudnnStatus_t try_finalize() { return cudnnBackendFinalize(get()); }
  Descriptor& finalize(const std::string& what) {
    check(try_finalize(), "cudnnBackendFinalize of " + what);
    return *this;
  }

 private:
  std::shared_ptr<void> handle_;
  std::shared_ptr<std::vector<Descriptor>> referred_ = std::make_shared<std::vector<Descriptor>>();
};

}  // namespace qt::cudnn
