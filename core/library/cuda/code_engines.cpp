// core/library/cuda/code_engines.cpp -- trial, timing and choice of engines for convolutions of
// codes.
#include "core/library/cuda/code_engines.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <utility>

#include "core/base/log.h"
#include "core/device/cuda/handle.h"
#include "core/device/gpu.h"
#include "core/library/columns.h"
#include "core/library/cuda/engine_runs.h"
#include "core/library/cuda/integer.h"
#include "core/library/cuda/trial.h"

namespace qt {
namespace {

// cuDNN's good int8 engines read 16 channels at a time.
constexpr int64_t channel_packet = 16;

// How many engines are worth a timing; those further down were never the fastest in what NVIDIA
// publishes of its heuristics, and each costs a compilation.
constexpr size_t engines_tried = 6;

// Sums of so many products of codes fit the 24 bits of f32 whatever the codes are.
constexpr int64_t exact_in_f32 = (int64_t{1} << 24) / (128 * 128);

std::string milliseconds(double seconds) {
  char text[32];
  snprintf(text, sizeof text, "%.4f ms", 1e3 * seconds);
  return text;
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
  const Stream stream = current_stream();
  double seconds = 0;
  enqueue();  // a kernel is loaded when it is first used
  {
    const GpuGraph graph(stream, [&] {
      for (int i = 0; i < times; ++i) enqueue();
    });
    GpuEvent begin(true), end(true);
    graph.launch(stream);  // which finds the memory it works in
    graph.launch(stream);  // so that the GPU is busy until the next one is there
    begin.record(stream);
    graph.launch(stream);
    end.record(stream);
    end.synchronize();
    seconds = end.seconds_since(begin) / times;
  }
  int gpu = 0;
  check_cuda(cudaGetDevice(&gpu), "cudaGetDevice");
  check_cuda(cudaDeviceGraphMemTrim(gpu), "cudaDeviceGraphMemTrim");
  return seconds;
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
    if (!is_recording(current_stream())) return chosen_for(request, shape);
    log::warn("convolution of codes " + shape.text() +
              " was first met while a graph was recorded: it runs as matrix products");
    return {};
  });
}

struct CodeEngines::Trial {
  Tensor x, w, wanted;
};

std::vector<CodeEngines::Trial> CodeEngines::trials_of(const Conv2dShape& shape) {
  std::vector<Trial> trials;
  const auto add = [&](TrialCodes codes) {
    Trial t{
        codes_for_trial(shape.x_shape(), codes, 1), codes_for_trial(shape.w_shape(), codes, 2), {}};
    t.wanted = conv2d_as_products(t.x, t.w, shape);
    trials.push_back(t);
  };
  add(TrialCodes::both_ends);
  if (shape.r * shape.s * shape.c > exact_in_f32) add(TrialCodes::upper_end);
  return trials;
}

size_t CodeEngines::chosen_for(const ConvolutionRequest& request, const Conv2dShape& shape) {
  try {
    return tried(request, shape);
  } catch (const Error& error) {  // no memory for a trial, or products that cannot be timed
    static_cast<void>(cudaGetLastError());
    log::warn(text_of(request) + ": " + products_->name() +
              "; engines cannot be tried: " + error.what());
    chosen_.note_untried(request);
    return as_products;
  }
}

size_t CodeEngines::tried(const ConvolutionRequest& request, const Conv2dShape& shape) {
  const std::string what = text_of(request) + ": ";
  const std::string* const earlier = chosen_.earlier(request);
  const std::optional<std::string> known =
      earlier ? *earlier : chosen_.of_other_batch(request, names());
  const std::string why = earlier ? " as before" : " as for another batch";
  const auto engine = known ? names().find(request, *known) : std::nullopt;
  if (engine == as_products || convolutions_->engines(request).empty()) {
    log::info(what + products_->name() +
              (engine ? why
                      : "; " + convolutions_->name() + " has no engine" +
                            because(*convolutions_, request)));
    return as_products;
  }
  const std::vector<Trial> trials = trials_of(shape);
  if (engine && is_ready(*convolutions_, request, *engine) && is_exact(request, *engine, trials)) {
    log::info(what + *known + why);
    return *engine;
  }
  if (earlier && !engine) log::warn(what + *earlier + " is not here; the engine is chosen anew");
  const size_t best = fastest(request, shape, trials);
  convolutions_->keep_only(request, best);
  return best;
}

bool CodeEngines::is_exact(const ConvolutionRequest& request, size_t engine,
                           const std::vector<Trial>& trials) {
  for (const Trial& trial : trials) {
    const Tensor y = unwritten_floats(request.shape.y_shape());
    bool equal = false;
    const auto compare = [&] {
      run(request, engine, trial.x, trial.w, y);
      equal = are_equal(y, trial.wanted);
    };
    if (!succeeds(*convolutions_, request, engine, compare)) return false;
    if (equal) continue;
    log::warn(text_of(request) + ": " + names().of(request, engine) +
              " does not give the exact sums and is not used");
    return false;
  }
  return true;
}

size_t CodeEngines::fastest(const ConvolutionRequest& request, const Conv2dShape& shape,
                            const std::vector<Trial>& trials) {
  const Trial& trial = trials.front();
  size_t best = as_products, ready = 0;
  double best_seconds = measure_([&] { conv2d_as_products(trial.x, trial.w, shape); });
  std::string timed = products_->name() + " " + milliseconds(best_seconds);
  const Tensor y = unwritten_floats(request.shape.y_shape());
  const size_t count = convolutions_->engines(request).size();
  make_ready_together(*convolutions_, request, std::min(count, engines_tried));
  for (size_t i = 0; i < count && ready < engines_tried; ++i) {
    if (!is_ready(*convolutions_, request, i)) continue;
    ++ready;
    double seconds = 0;
    const auto measure = [&] { seconds = measure_([&] { run(request, i, trial.x, trial.w, y); }); };
    if (!is_exact(request, i, trials) || !succeeds(*convolutions_, request, i, measure)) continue;
    timed += "; " + names().of(request, i) + " " + milliseconds(seconds);
    if (seconds >= best_seconds) continue;
    best = i;
    best_seconds = seconds;
  }
  log::info(text_of(request) + ": " + names().of(request, best) + " (" + timed + ")");
  return best;
}

void CodeEngines::run(const ConvolutionRequest& request, size_t engine, const Tensor& x,
                      const Tensor& w, const Tensor& y) {
  run_engine(*convolutions_, request, engine, with_padded_channels(x, request.shape.c),
             with_padded_channels(w, request.shape.c), y);
}

}  // namespace qt
