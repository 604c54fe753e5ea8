// layers/resnet.cpp -- residual networks (He et al., CVPR 2016) with torchvision's structure and
// parameter names.
#include "layers/model.h"

namespace qt {
namespace {

// Two 3x3 convolutions and a skip; where the shape changes the skip is a projected 1x1 convolution.
int basic_block(Model& net, const std::string& name, int x, int64_t width, int64_t stride) {
  int skip = x, input = x;
  const bool real_stream = net.spec().quant.residual == ResidualPolicy::none;
  if (real_stream) input = net.quantize(name + ".input", x);
  if (stride != 1 || net.channels(x) != width)
    skip = net.conv(name + ".downsample.0", name + ".downsample.1", input,
                    {.out = width, .kernel = 1, .stride = stride, .padding = 0, .relu = false});
  const int y = net.conv(name + ".conv1", name + ".bn1", input, {.out = width, .stride = stride});
  return net.conv(name + ".conv2", name + ".bn2", y, {.out = width, .residual = skip});
}

int stages(Model& net, int x, const std::vector<int64_t>& widths, const std::vector<int>& depths) {
  for (size_t i = 0; i < widths.size(); ++i)
    for (int j = 0; j < depths[i]; ++j)
      x = basic_block(net, "layer" + std::to_string(i + 1) + "." + std::to_string(j), x, widths[i],
                      i > 0 && j == 0 ? 2 : 1);
  return x;
}

int head(Model& net, int x) { return net.linear("fc", net.global_average_pool(x)); }

// resnet18, resnet34: four stages from 64 channels; stem 7x7 stride 2 + max pool, or 3x3 for small
// images.
std::unique_ptr<Model> imagenet_resnet(const ModelSpec& spec, const std::vector<int>& depths) {
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
  head(*net, stages(*net, x, {64, 128, 256, 512}, depths));
  return net;
}

// resnet20, 32, 44, 56 for CIFAR: three stages from 16 channels, projection shortcuts.
std::unique_ptr<Model> cifar_resnet(const ModelSpec& spec, int depth) {
  auto net = std::make_unique<Model>(spec);
  const int x =
      net->conv("conv1", "bn1", net->image(), {.out = 16, .first = true, .feeds_residual = true});
  const int blocks = (depth - 2) / 6;
  head(*net, stages(*net, x, {16, 32, 64}, {blocks, blocks, blocks}));
  return net;
}

const ModelRegistry::Add resnet18{"resnet18", [](const ModelSpec& s) {
                                    return imagenet_resnet(s, {2, 2, 2, 2});
                                  }};
const ModelRegistry::Add resnet34{"resnet34", [](const ModelSpec& s) {
                                    return imagenet_resnet(s, {3, 4, 6, 3});
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
