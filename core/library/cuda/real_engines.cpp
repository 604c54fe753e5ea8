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

}  // namespace

Tensor RealEngines::run(const ConvolutionRequest& request, const Tensor& first,
                        const Tensor& second) {
  const size_t engine = engine_for(request);
  if (engine == as_products) return run_as_products(request, first, second);
  const Tensor a = operand(first, request.type), b = operand(second, request.type);
  const auto bytes = int64_t(convolutions_->engines(request)[engine].workspace);
  const Tensor workspace = bytes ? Tensor::empty({bytes}, DType::u8) : Tensor();
  Tensor result = Tensor::empty(result_shape(request), operand_type(request.type));
  convolutions_->run(request, engine, a.raw(), b.raw(), result.raw(), workspace.raw(),
                     current_stream());
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
  return names().of(request, engine_for(request));
}

size_t RealEngines::engine_for(const ConvolutionRequest& request) {
  return chosen_.of(request, [&]() -> std::optional<size_t> {
    const std::string what = text_of(request) + ": ";
    if (const std::string* const earlier = chosen_.earlier(request)) {
      if (const auto engine = names().find(request, *earlier)) {
        log::info(what + *earlier + " as before");
        return engine;
      }
      log::warn(what + *earlier + " is not here; from now on the last bits may differ");
    }
    const bool has_engine = convolutions_ && !convolutions_->engines(request).empty();
    const size_t engine = has_engine ? 0 : as_products;
    const bool lacks = convolutions_ && !has_engine;
    log::info(what + names().of(request, engine) +
              (lacks ? "; " + convolutions_->name() + " has no engine" : ""));
    return engine;
  });
}

}  // namespace qt
