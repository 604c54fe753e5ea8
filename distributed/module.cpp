// distributed/module.cpp -- dlopen of what lies beside the program.
#include "distributed/module.h"

#include <dlfcn.h>

#include <filesystem>

#include "core/base/error.h"

namespace qt {

std::string path_beside_program(const std::string& name) {
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / name).string();
}

void* symbol_of_module(const std::string& name, const char* symbol, bool visible) {
  const std::string path = path_beside_program(name);
  void* const module = dlopen(path.c_str(), RTLD_NOW | (visible ? RTLD_GLOBAL : RTLD_LOCAL));
  if (!module)
    throw ConfigError("the module " + name + " cannot be loaded: " + std::string(dlerror()));
  void* const address = dlsym(module, symbol);
  if (!address) throw ConfigError(path + " is not a module of this program: it lacks " + symbol);
  return address;
}

}  // namespace qt
