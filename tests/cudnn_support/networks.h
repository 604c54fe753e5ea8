// tests/cudnn_support/networks.h -- the convolutions of the networks that the CUDA library is
// written for.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "core/library/library.h"

namespace qt {

namespace networks {

// Layers that occur several times are listed once.
class Layers {
 public:
  // A square convolution on what the last one left; padding keeps the extent where stride is 1.
  void add(int64_t kernel, int64_t channels, int64_t stride = 1) {
    Conv2dShape layer = shape(kernel, channels, stride);
    if (std::find(all_.begin(), all_.end(), layer) == all_.end()) all_.push_back(layer);
    extent_ = layer.out_h();
    channels_ = channels;
  }
  // One that leaves the main path as it is: a projection of a skip.
  void add_beside(int64_t kernel, int64_t channels, int64_t stride) {
    const int64_t extent = extent_, before = channels_;
    add(kernel, channels, stride);
    extent_ = extent;
    channels_ = before;
  }
  void pool() { extent_ = (extent_ + 1) / 2; }
  int64_t channels() const { return channels_; }
  const std::vector<Conv2dShape>& all() const { return all_; }
  Layers(int64_t batch, int64_t extent) : batch_(batch), extent_(extent) {}

 private:
  Conv2dShape shape(int64_t kernel, int64_t channels, int64_t stride) const {
    return {.n = batch_,
            .h = extent_,
            .w = extent_,
            .c = channels_,
            .k = channels,
            .r = kernel,
            .s = kernel,
            .stride = stride,
            .padding = kernel / 2};
  }
  int64_t batch_, extent_, channels_ = 3;
  std::vector<Conv2dShape> all_;
};

inline void basic_block(Layers& layers, int64_t channels, int64_t stride) {
  if (stride != 1 || layers.channels() != channels) layers.add_beside(1, channels, stride);
  layers.add(3, channels, stride);
  layers.add(3, channels);
}
inline void bottleneck(Layers& layers, int64_t channels, int64_t stride) {
  if (stride != 1 || layers.channels() != 4 * channels) layers.add_beside(1, 4 * channels, stride);
  layers.add(1, channels);
  layers.add(3, channels, stride);
  layers.add(1, 4 * channels);
}

}  // namespace networks

// "resnet18", "resnet50" (v1.5) at 224, "cifar_resnet18", "cifar_resnet20" at 32; empty for others.
inline std::vector<Conv2dShape> convolutions_of(const std::string& network, int64_t batch) {
  using networks::Layers;
  const bool cifar = network.starts_with("cifar_");
  Layers layers(batch, cifar ? 32 : 224);
  if (network == "cifar_resnet20") {
    layers.add(3, 16);
    for (const int64_t channels : {16, 32, 64})
      for (int block = 0; block < 3; ++block)
        networks::basic_block(layers, channels, channels > 16 && block == 0 ? 2 : 1);
    return layers.all();
  }
  if (network == "cifar_resnet18") {
    layers.add(3, 64);
  } else if (network == "resnet18" || network == "resnet50") {
    layers.add(7, 64, 2);
    layers.pool();
  } else {
    return {};
  }
  const bool deep = network == "resnet50";
  const int64_t blocks[] = {deep ? 3 : 2, deep ? 4 : 2, deep ? 6 : 2, deep ? 3 : 2};
  for (int stage = 0; stage < 4; ++stage)
    for (int64_t block = 0; block < blocks[stage]; ++block) {
      const int64_t channels = int64_t{64} << stage, stride = stage > 0 && block == 0 ? 2 : 1;
      deep ? networks::bottleneck(layers, channels, stride)
           : networks::basic_block(layers, channels, stride);
    }
  return layers.all();
}

}  // namespace qt
