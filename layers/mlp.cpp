// layers/mlp.cpp -- a multilayer perceptron: hidden layers of linear + batch normalization + ReLU,
// then a classifier.
#include "layers/model.h"

namespace qt {
namespace {

const ModelRegistry::Add mlp{
    "mlp", [](const ModelSpec& spec) {
      auto net = std::make_unique<Model>(spec);
      int x = net->flatten(net->image());
      for (size_t i = 0; i < spec.hidden.size(); ++i) {
        const std::string number = std::to_string(i);
        x = net->conv("linear" + number, "bn" + number, x,
                      {.out = spec.hidden[i], .kernel = 1, .padding = 0, .first = i == 0});
      }
      net->linear("fc", x);
      return net;
    }};

}  // namespace
}  // namespace qt
