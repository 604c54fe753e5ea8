// deploy/engine_cuda.cpp -- the engine "cuda" of builds with CUDA.
#include "deploy/engine.h"

namespace qt {
namespace {

const EngineRegistry::Add add_engine{"cuda", [] {
                                       if (gpu_count() == 0)
                                         throw ConfigError("engine cuda: there is no CUDA device");
                                       return make_gpu_engine(GpuStream(), library_by_name("cuda"));
                                     }};

}  // namespace
}  // namespace qt
