// core/library/cuda/code_engines.cpp -- trial, timing and choice of engines for convolutions of
// codes.
#include "core/library/cuda/code_engines.h"

#include <chrono>
#include <cstdio>
#include <functional>
#include <utility>

#include "core/base/log.h"
#include "core/device/cuda/handle.h"
#include "core/library/columns.h"
#include "core/library/cuda/integer.h"
#include "core/library/cuda/trial.h"

namespace qt {
namespace {

// cuDNN's good int8 engines read 16 channels at a time.
constexpr int64_t channel_packet = 16;

std::string milliseconds(double seconds) {
  char text[32];
  snprintf(text, sizeof text, "%.4f ms", 1e3 * seconds);
  return text;
}

bool is_recording() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(handle(current_stream()), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

// [..., c] as [..., padded], zeros in the new channels: windows of one pixel.
Tensor with_padded_channels(const Tensor& t, int64_t padded) {
  if (t.channels() == padded) return t;
  auto extents = t.shape().vector();
  extents.back() = padded;
  Tensor wide = Tensor::empty(Shape(extents), DType::i8);
  const ColumnShape pixels{.conv = {.n = 1, .h = 1, .w = t.rows(), .c = t.channels(), .k = 1},
                           .images = 1,
                           .width = padded};
  write_columns(pixels, static_cast<const int8_t*>(t.raw()), wide.data<int8_t>());
  return wide;
}

ConvolutionRequest request_for(const Conv2dShape& shape) {
  Conv2dShape padded = shape;
  padded.c = rounded_up(shape.c, channel_packet);
  return {ConvolutionPass::forward, ProductType::i8, padded};
}

}  // namespace

double measured_on_stream(const std::function<void()>& enqueue) {
  constexpr int times = 10;
  const auto wait = [] {
    check_cuda(cudaStreamSynchronize(handle(current_stream())), "cudaStreamSynchronize");
  };
  enqueue();
  wait();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < times; ++i) enqueue();
  wait();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  return taken.count() / times;
}

CodeEngines::CodeEngines(std::shared_ptr<MatrixProducts> products,
                         std::shared_ptr<Convolutions> convolutions, int64_t column_bytes,
                         Measure measure)
    : products_(std::move(products)),
      convolutions_(std::move(convolutions)),
      column_bytes_(column_bytes),
      measure_(std::move(measure)) {}

// u8 codes above 127 exist for products alone: cuDNN convolves s8 with s8. Outputs are four at a
// time, and one group.
bool CodeEngines::is_eligible(const Tensor& x, const Tensor& w, const Conv2dShape& shape) {
  const auto is_s8 = [](const Tensor& t) { return t.dtype() == DType::i8 || t.hi() <= 127; };
  return is_s8(x) && is_s8(w) && shape.groups == 1 && shape.k % 4 == 0;
}

Tensor CodeEngines::conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) {
  const size_t engine = convolutions_ && is_eligible(x, w, shape) ? choose(shape) : as_products;
  if (engine == as_products) return conv2d_as_products(x, w, shape);
  const Tensor y = Tensor::empty(shape.y_shape(), DType::f32);
  run(request_for(shape), engine, x, w, y);
  return y;
}

Tensor CodeEngines::conv2d_as_products(const Tensor& x, const Tensor& w, const Conv2dShape& shape) {
  return integer_conv2d_as_products(*products_, x, w, shape, column_bytes_);
}

std::string CodeEngines::name_for(const Tensor& x, const Tensor& w, const Conv2dShape& shape) {
  if (!convolutions_ || !is_eligible(x, w, shape)) return products_->name();
  return names().of(request_for(shape), choose(shape));
}

size_t CodeEngines::choose(const Conv2dShape& shape) {
  const ConvolutionRequest request = request_for(shape);
  return chosen_.of(request, [&]() -> std::optional<size_t> {
    if (!is_recording()) return chosen_for(request, shape);
    log::warn("convolution of codes " + shape.text() +
              " was first met while a graph was recorded: it runs as matrix products");
    return {};
  });
}

struct CodeEngines::Trial {
  Tensor x, w, wanted;
  std::function<void()> by_products;
};

size_t CodeEngines::chosen_for(const ConvolutionRequest& request, const Conv2dShape& shape) {
  const std::string what = text_of(request) + ": ";
  const std::string* const earlier = chosen_.earlier(request);
  const auto engine = earlier ? names().find(request, *earlier) : std::nullopt;
  if (engine == as_products || convolutions_->engines(request).empty()) {
    log::info(what + products_->name() +
              (engine ? " as before" : "; " + convolutions_->name() + " has no engine"));
    return as_products;
  }
  Trial trial{codes_for_trial(shape.x_shape(), 1), codes_for_trial(shape.w_shape(), 2), {}, {}};
  trial.by_products = [&] { conv2d_as_products(trial.x, trial.w, shape); };
  trial.wanted = conv2d_as_products(trial.x, trial.w, shape);
  if (engine && is_exact(request, *engine, trial)) {
    log::info(what + *earlier + " as before");
    return *engine;
  }
  if (earlier && !engine) log::warn(what + *earlier + " is not here; the engine is chosen anew");
  return fastest(request, trial);
}

bool CodeEngines::is_exact(const ConvolutionRequest& request, size_t engine, const Trial& trial) {
  const auto refuse = [&](const std::string& why) {
    log::warn(text_of(request) + ": " + names().of(request, engine) + why);
    return false;
  };
  const Tensor y = unwritten_floats(request.shape.y_shape());
  try {
    run(request, engine, trial.x, trial.w, y);
  } catch (const InternalError& error) {
    return refuse(std::string(" is not used: ") + error.what());
  }
  return are_equal(y, trial.wanted) || refuse(" does not give the exact sums and is not used");
}

size_t CodeEngines::fastest(const ConvolutionRequest& request, const Trial& trial) {
  size_t best = as_products;
  double best_seconds = measure_(trial.by_products);
  std::string tried = products_->name() + " " + milliseconds(best_seconds);
  const Tensor y = unwritten_floats(request.shape.y_shape());
  for (size_t i = 0; i < convolutions_->engines(request).size(); ++i) {
    if (!is_exact(request, i, trial)) continue;
    const double seconds = measure_([&] { run(request, i, trial.x, trial.w, y); });
    tried += "; " + names().of(request, i) + " " + milliseconds(seconds);
    if (seconds >= best_seconds) continue;
    best = i;
    best_seconds = seconds;
  }
  log::info(text_of(request) + ": " + names().of(request, best) + " (" + tried + ")");
  return best;
}

void CodeEngines::run(const ConvolutionRequest& request, size_t engine, const Tensor& x,
                      const Tensor& w, const Tensor& y) {
  const Tensor wide_x = with_padded_channels(x, request.shape.c),
               wide_w = with_padded_channels(w, request.shape.c);
  const auto bytes = int64_t(convolutions_->engines(request)[engine].workspace);
  const Tensor workspace = bytes ? Tensor::empty({bytes}, DType::u8) : Tensor();
  convolutions_->run(request, engine, wide_x.raw(), wide_w.raw(), y.raw(), workspace.raw(),
                     current_stream());
}

}  // namespace qt
