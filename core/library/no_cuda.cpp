// core/library/no_cuda.cpp -- stands in for core/library/cuda/ in builds without CUDA.
#include "core/base/error.h"
#include "core/base/registry.h"
#include "core/library/library.h"

namespace qt {
namespace {

const Registry<Library>::Add add{"cuda", []() -> std::unique_ptr<Library> {
                                   throw ConfigError(
                                       "this build has no CUDA: configure with nvcc at hand "
                                       "(QATTRAIN_CUDA=ON) for the library 'cuda'");
                                 }};

}  // namespace
}  // namespace qt
