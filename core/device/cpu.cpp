// core/device/cpu.cpp -- CPUID and QATTRAIN_MAX_ISA.
#include "core/device/cpu.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "core/base/error.h"

namespace qt {
namespace {

constexpr std::array all_sets{Isa::sse41, Isa::avx2, Isa::avx512, Isa::avx512_vnni,
                              Isa::avx512_bf16};

}  // namespace

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::sse41: return "sse41";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512_vnni: return "avx512_vnni";
    default: return "avx512_bf16";
  }
}

// __builtin_cpu_supports also asks whether the operating system saves the registers.
Isa detected_isa() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::sse41;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512cd") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl"))
    return Isa::avx2;
  if (!__builtin_cpu_supports("avx512vnni")) return Isa::avx512;
  return __builtin_cpu_supports("avx512bf16") ? Isa::avx512_bf16 : Isa::avx512_vnni;
}

Isa isa_named(const std::string& text) {
  std::string names;
  for (const Isa isa : all_sets) {
    if (text == name_of(isa)) return isa;
    names += (names.empty() ? "" : ", ") + std::string(name_of(isa));
  }
  throw ConfigError("QATTRAIN_MAX_ISA is '" + text + "'; allowed: " + names);
}

std::optional<Isa> isa_limit() {
  static const std::optional<Isa> limit = []() -> std::optional<Isa> {
    const char* text = std::getenv("QATTRAIN_MAX_ISA");
    if (!text || !*text) return {};
    return isa_named(text);
  }();
  return limit;
}

Isa cpu_isa() {
  const auto limit = isa_limit();
  return limit ? std::min(*limit, detected_isa()) : detected_isa();
}

}  // namespace qt
