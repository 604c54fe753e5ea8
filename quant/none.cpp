// quant/none.cpp -- no codes: real numbers pass through.
#include "quant/norm_act.h"
#include "quant/quantizer.h"

namespace qt {
namespace {

class None : public Quantizer {
 public:
  explicit None(const QuantSpec& spec) : Quantizer(spec) {}
  Var quantize(const Var& x, const Pass&) override { return x; }
  Var norm_act(const NormAct& args, const Pass& pass) override { return norm_act_real(args, pass); }
  bool observes(const Pass&) const override { return false; }
  void observe(const Tensor&) override {}
  bool ready() const override { return true; }
  Parameter* step() override { return nullptr; }
};

const QuantizerRegistry::Add add{
    "none", [](const QuantSpec& spec, int64_t) { return std::make_unique<None>(spec); }};

}  // namespace
}  // namespace qt
