// layers/resnet.cpp -- residual networks (He et al., CVPR 2016) with torchvision's structure and
// parameter names.
#include "layers/model.h"

namespace qt {
namespace {

// What a block's first convolutions read and what its last one adds.
struct Entry {
  int input, skip;
};

// Where the shape changes the skip is a projection, a 1x1 convolution to `out` channels; where the
// residual stream is real (residual: none) the block reads its codes.
Entry enter_block(Model& net, const std::string& name, int x, int64_t out, int64_t stride) {
  Entry at{x, x};
  const bool real_stream = net.spec().quant.residual == ResidualPolicy::none;
  if (real_stream) at.input = net.quantize(name + ".input", x);
  if (stride != 1 || net.channels(x) != out)
    at.skip = net.conv(name + ".downsample.0", name + ".downsample.1", at.input,
                       {.out = out, .kernel = 1, .stride = stride, .padding = 0, .relu = false});
  return at;
}

using Block = int (*)(Model& net, const std::string& name, int x, int64_t width, int64_t stride);

// Two 3x3 convolutions.
int basic_block(Model& net, const std::string& name, int x, int64_t width, int64_t stride) {
  const Entry at = enter_block(net, name, x, width, stride);
  const int y =
      net.conv(name + ".conv1", name + ".bn1", at.input, {.out = width, .stride = stride});
  return net.conv(name + ".conv2", name + ".bn2", y, {.out = width, .residual = at.skip});
}

// 1x1 to `width` channels, 3x3, 1x1 to four times as many. The stride is in the 3x3 ("v1.5"), as in
// torchvision; the paper's v1 has it in the first 1x1 and loses half a point on ImageNet.
int bottleneck(Model& net, const std::string& name, int x, int64_t width, int64_t stride) {
  const int64_t out = 4 * width;
  const Entry at = enter_block(net, name, x, out, stride);
  int y =
      net.conv(name + ".conv1", name + ".bn1", at.input, {.out = width, .kernel = 1, .padding = 0});
  y = net.conv(name + ".conv2", name + ".bn2", y, {.out = width, .stride = stride});
  return net.conv(name + ".conv3", name + ".bn3", y,
                  {.out = out, .kernel = 1, .padding = 0, .residual = at.skip});
}

int stages(Model& net, int x, Block block, const std::vector<int64_t>& widths,
           const std::vector<int>& depths) {
  for (size_t i = 0; i < widths.size(); ++i)
    for (int j = 0; j < depths[i]; ++j)
      x = block(net, "layer" + std::to_string(i + 1) + "." + std::to_string(j), x, widths[i],
                i > 0 && j == 0 ? 2 : 1);
  return x;
}

int head(Model& net, int x) { return net.linear("fc", net.global_average_pool(x)); }

// resnet18, 34, 50: four stages from 64 channels; stem 7x7 stride 2 + max pool, or 3x3 for small
// images.
std::unique_ptr<Model> imagenet_resnet(const ModelSpec& spec, Block block,
                                       const std::vector<int>& depths) {
  auto net = std::make_unique<Model>(spec);
  int x = net->image();
  if (spec.stem == "imagenet") {
    x = net->conv(
        "conv1", "bn1", x,
        {.out = 64, .kernel = 7, .stride = 2, .padding = 3, .first = true, .feeds_residual = true});
    x = net->max_pool(x, 3, 2, 1);
  } else if (spec.stem == "cifar") {
    x = net->conv("conv1", "bn1", x, {.out = 64, .first = true, .feeds_residual = true});
  } else {
    throw ConfigError("model.stem: got '" + spec.stem + "', want one of: imagenet, cifar");
  }
  head(*net, stages(*net, x, block, {64, 128, 256, 512}, depths));
  return net;
}

// resnet20, 32, 44, 56 for CIFAR: three stages from 16 channels, projection shortcuts.
std::unique_ptr<Model> cifar_resnet(const ModelSpec& spec, int depth) {
  auto net = std::make_unique<Model>(spec);
  const int x =
      net->conv("conv1", "bn1", net->image(), {.out = 16, .first = true, .feeds_residual = true});
  const int blocks = (depth - 2) / 6;
  head(*net, stages(*net, x, basic_block, {16, 32, 64}, {blocks, blocks, blocks}));
  return net;
}

const ModelRegistry::Add resnet18{"resnet18", [](const ModelSpec& s) {
                                    return imagenet_resnet(s, basic_block, {2, 2, 2, 2});
                                  }};
const ModelRegistry::Add resnet34{"resnet34", [](const ModelSpec& s) {
                                    return imagenet_resnet(s, basic_block, {3, 4, 6, 3});
                                  }};
const ModelRegistry::Add resnet50{"resnet50", [](const ModelSpec& s) {
                                    return imagenet_resnet(s, bottleneck, {3, 4, 6, 3});
                                  }};
const ModelRegistry::Add resnet20{"resnet20",
                                  [](const ModelSpec& s) { return cifar_resnet(s, 20); }};
const ModelRegistry::Add resnet32{"resnet32",
                                  [](const ModelSpec& s) { return cifar_resnet(s, 32); }};
const ModelRegistry::Add resnet44{"resnet44",
                                  [](const ModelSpec& s) { return cifar_resnet(s, 44); }};
const ModelRegistry::Add resnet56{"resnet56",
                                  [](const ModelSpec& s) { return cifar_resnet(s, 56); }};

}  // namespace
}  // namespace qt
