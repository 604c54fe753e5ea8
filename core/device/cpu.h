// core/device/cpu.h -- which instruction set kernels may use on this CPU.
#pragma once
#include <optional>
#include <string>

namespace qt {

// Each holds the ones before it. avx512 stands for F, BW, CD, DQ and VL together.
enum class Isa { sse41, avx2, avx512, avx512_vnni, avx512_bf16 };

const char* name_of(Isa isa);  // "avx2": as QATTRAIN_MAX_ISA is written

// The highest set of this CPU and operating system, by CPUID.
Isa detected_isa();

// What the environment variable QATTRAIN_MAX_ISA names, if it is set and not empty; read once per
// process. ConfigError lists the names for one that is none of them.
std::optional<Isa> isa_limit();

// What kernels may use: the lower of the two.
Isa cpu_isa();
inline bool cpu_has(Isa isa) { return cpu_isa() >= isa; }

// The set that the text names; ConfigError as above.
Isa isa_named(const std::string& text);

}  // namespace qt
