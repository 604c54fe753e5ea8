// core/library/cuda/real_engines.cpp -- convolutions of reals by cuDNN or as matrix products.
#include "core/library/cuda/real_engines.h"

#include "core/base/log.h"
#include "core/library/convert.h"
#include "core/library/cuda/real.h"

namespace qt {
namespace {

DType operand_type(ProductType type) {
  return type == ProductType::bf16 ? DType::bf16 : DType::f32;
}
Tensor operand(const Tensor& t, ProductType type) {
  return type == ProductType::bf16 ? to_bf16(t) : to_float(t);
}

Shape result_shape(const ConvolutionRequest& request) {
  switch (request.pass) {
    case ConvolutionPass::forward: return request.shape.y_shape();
    case ConvolutionPass::backward_data: return request.shape.x_shape();
    default: return request.shape.w_shape();
  }
}

const char* name_of(ConvolutionPass pass) {
  return pass == ConvolutionPass::forward         ? "convolution"
         : pass == ConvolutionPass::backward_data ? "gradient of data"
                                                  : "gradient of weights";
}

}  // namespace

Tensor RealEngines::run(const ConvolutionRequest& request, const Tensor& first,
                        const Tensor& second) {
  if (!has_engine(request)) return run_as_products(request, first, second);
  const Tensor a = operand(first, request.type), b = operand(second, request.type);
  const auto bytes = int64_t(convolutions_->engines(request)[0].workspace);
  const Tensor workspace = bytes ? Tensor::empty({bytes}, DType::u8) : Tensor();
  Tensor result = Tensor::empty(result_shape(request), operand_type(request.type));
  convolutions_->run(request, 0, a.raw(), b.raw(), result.raw(), workspace.raw(), current_stream());
  return to_float(result);
}

Tensor RealEngines::run_as_products(const ConvolutionRequest& request, const Tensor& first,
                                    const Tensor& second) {
  const RealConvolution convolution{
      .shape = request.shape, .type = request.type, .column_bytes = column_bytes_};
  switch (request.pass) {
    case ConvolutionPass::forward:
      return conv2d_as_products(*products_, convolution, first, second);
    case ConvolutionPass::backward_data:
      return backward_data_as_products(*products_, convolution, first, second);
    default: return backward_weights_as_products(*products_, convolution, first, second);
  }
}

std::string RealEngines::name_for(const ConvolutionRequest& request) {
  return has_engine(request) ? convolutions_->name() + " " + convolutions_->engines(request)[0].name
                             : products_->name();
}

bool RealEngines::has_engine(const ConvolutionRequest& request) {
  if (!convolutions_) return false;
  const std::lock_guard lock(mutex_);
  const auto found = noted_.find(request);
  if (found != noted_.end()) return found->second;
  const auto& engines = convolutions_->engines(request);
  log::info(std::string(name_of(request.pass)) + " " + request.shape.text() + " in " +
            qt::name_of(request.type) + ": " +
            (engines.empty() ? products_->name() + "; " + convolutions_->name() + " has no engine"
                             : convolutions_->name() + " " + engines[0].name));
  return noted_[request] = !engines.empty();
}

}  // namespace qt
