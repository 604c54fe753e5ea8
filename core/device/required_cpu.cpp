// core/device/required_cpu.cpp -- ends the program on a CPU that it was not compiled for.
//
// All other files are compiled for x86-64-v3, what runs before main() included: on an older CPU
// they end with SIGILL. This one is compiled for every x86-64 (CMakeLists.txt), runs before them,
// and calls only the C library: the linker may take an inline function or a template from any file.
#include "core/device/required_cpu.h"

#include <cpuid.h>
#include <unistd.h>

#include <cstring>

#include "core/base/error.h"

namespace qt {
namespace {

constexpr size_t line_length = 256;

// A bit of ECX, for what __builtin_cpu_supports has no name for in every compiler.
bool cpuid_has(unsigned leaf, unsigned bit) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(leaf, &a, &b, &c, &d) != 0 && (c & bit) != 0;
}

// 101 is the first priority that programs may have; initializers of globals come after all of them.
__attribute__((constructor(101))) void require_cpu() {
  constexpr unsigned movbe = 1u << 22, f16c = 1u << 29;  // of leaf 1
  constexpr unsigned lzcnt = 1u << 5;                    // of leaf 0x80000001
  __builtin_cpu_init();
  const CpuFeature features[] = {{"avx2", __builtin_cpu_supports("avx2") != 0},
                                 {"fma", __builtin_cpu_supports("fma") != 0},
                                 {"bmi1", __builtin_cpu_supports("bmi") != 0},
                                 {"bmi2", __builtin_cpu_supports("bmi2") != 0},
                                 {"f16c", cpuid_has(1, f16c)},
                                 {"movbe", cpuid_has(1, movbe)},
                                 {"lzcnt", cpuid_has(0x80000001u, lzcnt)}};
  char text[line_length];
  describe_unfit_cpu(features, sizeof(features) / sizeof(features[0]), text, sizeof(text));
  if (text[0] == '\0') return;
  const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
  (void)written;  // there is nobody else to tell
  _exit(int(ExitCode::usage));
}

}  // namespace

void describe_unfit_cpu(const CpuFeature* features, size_t count, char* text, size_t size) {
  text[0] = '\0';
  const auto append = [&](const char* more) {
    std::strncat(text, more, size - 1 - std::strlen(text));
  };
  bool first = true;
  for (size_t i = 0; i < count; ++i) {
    if (features[i].here) continue;
    append(first ? "error: this CPU cannot run this build, which is for x86-64-v3 (AVX2); missing: "
                 : ", ");
    append(features[i].name);
    first = false;
  }
  if (!first) append("\n");
}

}  // namespace qt
