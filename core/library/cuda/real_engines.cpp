// core/library/cuda/real_engines.cpp -- convolutions of reals by cuDNN or as matrix products.
#include "core/library/cuda/real_engines.h"

#include "core/base/log.h"
#include "core/device/gpu.h"
#include "core/library/convert.h"
#include "core/library/cuda/engine_runs.h"
#include "core/library/cuda/real.h"
#include "core/library/cuda/trial.h"

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

// That cuDNN takes a graph whose result is added to says little: InternalError where a gradient of
// zeros does not leave ones as they are.
void require_that_it_adds(Convolutions& convolutions, const ConvolutionRequest& request,
                          size_t engine) {
  const DType type = operand_type(request.type);
  const Tensor sum = ones_for_trial(request.shape.x_shape(), type);
  {
    const Tensor zeros = Tensor::zeros(request.shape.y_shape(), type),
                 weights = Tensor::zeros(request.shape.w_shape(), type);
    run_engine(convolutions, request, engine, zeros, weights, sum);
  }
  QT_CHECK(are_ones(sum), "it does not add to what it is given");
}

}  // namespace

Tensor RealEngines::run(const ConvolutionRequest& request, const Tensor& first,
                        const Tensor& second) {
  Tensor result;  // of the trial, where this is the first call
  const size_t engine = chosen_.of(request, [&]() -> std::optional<size_t> {
    if (is_recording(current_stream())) {
      log::warn(text_of(request) +
                " was first met while a graph was recorded: it runs as products");
      return {};
    }
    return chosen_for(request, [&](size_t i) { result = run_by(i, request, first, second); });
  });
  if (result.defined()) return result;
  return engine == as_products ? run_as_products(request, first, second)
                               : run_by(engine, request, first, second);
}

bool RealEngines::add(Tensor& onto, const ConvolutionRequest& request, const Tensor& dy,
                      const Tensor& w) {
  if (!convolutions_ || onto.dtype() != operand_type(request.type)) return false;
  const size_t engine = chosen_.of(request, [&]() -> std::optional<size_t> {
    if (is_recording(current_stream())) return {};  // by a pass of its own
    bool has_room = true;  // for the trial, which nothing else needs: a later step may have it
    const auto trial = [&](size_t i) {
      try {
        require_that_it_adds(*convolutions_, request, i);
      } catch (const OutOfMemory&) {
        has_room = false;
        throw;
      }
    };
    const size_t chosen = chosen_for(request, trial);
    return has_room ? std::optional(chosen) : std::nullopt;
  });
  if (engine == as_products) return false;
  if (!onto.is_only_handle()) onto = onto.clone();
  run_engine(*convolutions_, request, engine, operand(dy, request.type), operand(w, request.type),
             onto);
  return true;
}

Tensor RealEngines::run_by(size_t engine, const ConvolutionRequest& request, const Tensor& first,
                           const Tensor& second) {
  const Tensor a = operand(first, request.type), b = operand(second, request.type),
               result = Tensor::empty(result_shape(request), operand_type(request.type));
  run_engine(*convolutions_, request, engine, a, b, result);
  return request.pass == ConvolutionPass::forward ? to_float(result) : result;
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

// What an engine's kernel does wrong later is for the whole program to end with; an engine that
// cannot be enqueued leaves the next one.
size_t RealEngines::chosen_for(const ConvolutionRequest& request,
                               const std::function<void(size_t)>& run) {
  const auto works = [&](size_t engine) {
    return engine == as_products ||
           (is_ready(*convolutions_, request, engine) &&
            succeeds(*convolutions_, request, engine, [&] { run(engine); }));
  };
  const std::string what = text_of(request) + ": ";
  if (const std::string* const earlier = chosen_.earlier(request)) {
    const auto engine = names().find(request, *earlier);
    if (engine && works(*engine)) {
      log::info(what + *earlier + " as before");
      return *engine;
    }
    log::warn(what + *earlier + " is not to be had; from now on the last bits may differ");
  }
  const size_t count = convolutions_ ? convolutions_->engines(request).size() : 0;
  for (size_t engine = 0; engine < count; ++engine) {
    if (!works(engine)) continue;
    log::info(what + names().of(request, engine));
    return engine;
  }
  log::info(what + names().of(request, as_products) +
            (convolutions_ ? "; " + convolutions_->name() + " has no engine that runs" +
                                 because(*convolutions_, request)
                           : ""));
  return as_products;
}

}  // namespace qt
