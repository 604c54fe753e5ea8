// core/library/cuda/engine_runs.h -- an engine of Convolutions at work: made ready, given its
// workspace, tried.
#pragma once
#include <functional>
#include <optional>
#include <string>

#include "core/library/cuda/convolutions.h"
#include "core/tensor/tensor.h"

namespace qt {

// Engines that want more are passed over: a recorded step would hold it beside the activations for
// the whole run. It is what matrix products write windows out to, at most (column_bytes).
constexpr size_t most_workspace = size_t{512} << 20;

// The first `count` engines, each by a thread of its own, as their compilations take long. What
// goes wrong is_ready meets again.
void make_ready_together(Convolutions& convolutions, const ConvolutionRequest& request,
                         size_t count);

// Convolutions::cause in parentheses, to end a sentence with; "" where there is none.
std::string because(Convolutions& convolutions, const ConvolutionRequest& request,
                    std::optional<size_t> engine = {});

// Whether an engine can be had: it is made ready. The log says why not.
bool is_ready(Convolutions& convolutions, const ConvolutionRequest& request, size_t engine);

// Enqueues an engine that is ready on current_stream().
void run_engine(Convolutions& convolutions, const ConvolutionRequest& request, size_t engine,
                const Tensor& first, const Tensor& second, const Tensor& result);

// Whether `work`, which uses an engine, throws no Error. One that it does throw is logged, and
// CUDA's last error forgotten: the next engine may do.
bool succeeds(Convolutions& convolutions, const ConvolutionRequest& request, size_t engine,
              const std::function<void()>& work);

}  // namespace qt
