// core/library/cuda/engine_runs.cpp -- an engine of Convolutions at work.
#include "core/library/cuda/engine_runs.h"

#include <cuda_runtime_api.h>

#include <system_error>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/device/cuda/handle.h"
#include "core/library/cuda/engine_names.h"

namespace qt {
namespace {

std::string text_of(Convolutions& convolutions, const ConvolutionRequest& request, size_t engine) {
  return text_of(request) + ": " + convolutions.name() + " " +
         convolutions.engines(request).at(engine);
}

}  // namespace

std::string because(Convolutions& convolutions, const ConvolutionRequest& request,
                    std::optional<size_t> engine) {
  const std::string cause = convolutions.cause(request, engine);
  return cause.empty() ? "" : " (" + cause + ")";
}

void make_ready_together(Convolutions& convolutions, const ConvolutionRequest& request,
                         size_t count) {
  int gpu = 0;
  check_cuda(cudaGetDevice(&gpu), "cudaGetDevice");
  const auto make_ready = [&](size_t engine) {
    try {
      if (gpu != 0) check_cuda(cudaSetDevice(gpu), "cudaSetDevice");
      convolutions.prepare(request, engine);
    } catch (const std::exception&) {
      return;
    }
  };
  std::vector<std::jthread> threads;
  try {
    for (size_t engine = 0; count > 1 && engine < count; ++engine)
      threads.emplace_back(make_ready, engine);
  } catch (const std::system_error&) {  // no more threads: the others come one after another
  }
}

bool is_ready(Convolutions& convolutions, const ConvolutionRequest& request, size_t engine) {
  std::optional<size_t> workspace;
  const auto prepare = [&] { workspace = convolutions.prepare(request, engine); };
  if (!succeeds(convolutions, request, engine, prepare)) return false;
  if (workspace && *workspace <= most_workspace) return true;
  log::info(text_of(convolutions, request, engine) +
            (workspace ? " is passed over: it wants a workspace of " + std::to_string(*workspace) +
                             " bytes, at most " + std::to_string(most_workspace) + " are given"
                       : " cannot be had after all" + because(convolutions, request, engine)));
  return false;
}

void run_engine(Convolutions& convolutions, const ConvolutionRequest& request, size_t engine,
                const Tensor& first, const Tensor& second, const Tensor& result) {
  const auto bytes = int64_t(convolutions.prepare(request, engine).value());
  const Tensor workspace = bytes ? Tensor::empty({bytes}, DType::u8) : Tensor();
  convolutions.run(request, engine, first.raw(), second.raw(), result.raw(), workspace.raw(),
                   current_stream());
}

bool succeeds(Convolutions& convolutions, const ConvolutionRequest& request, size_t engine,
              const std::function<void()>& work) {
  try {
    work();
    return true;
  } catch (const Error& error) {
    static_cast<void>(cudaGetLastError());
    log::warn(text_of(convolutions, request, engine) + " is not used: " + error.what());
    return false;
  }
}

}  // namespace qt
