// distributed/module.h -- modules that lie beside the program, for libraries that few runs need.
#pragma once
#include <string>

namespace qt {

// "/path/of/program/NAME".
std::string path_beside_program(const std::string& name);

// The address of `symbol` in the module of that name beside the program. It stays loaded until the
// process ends: libraries have threads of their own. visible: its symbols are for libraries that it
// loads in turn. ConfigError where it cannot be loaded.
void* symbol_of_module(const std::string& name, const char* symbol, bool visible);

}  // namespace qt
