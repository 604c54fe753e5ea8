// core/library/onednn_integer.h -- which of oneDNN's int8 kernels, if any, is exact for given codes
// on this CPU.
#pragma once
#include <string>

#include "core/library/arguments.h"

namespace qt {

// How the CPU adds products of bytes: VNNI sums four of them in 32 bits; older vector units sum two
// in 16 bits, saturating.
enum class ByteProducts { saturating_pairs, vnni };
// Tells oneDNN what QATTRAIN_MAX_ISA allows. Called before anything else is asked of oneDNN, which
// takes a limit only until its first use; does something once.
void limit_onednn();

// Of the instruction set oneDNN uses.
ByteProducts effective_byte_products();
// Whether that instruction set multiplies bf16, includes AVX2, and ends there.
bool has_native_bf16();
bool has_avx2();
bool has_avx2_only();

enum class IntegerKernel { u8s8, s8s8, exact_float };

// Without VNNI a pair sum must fit 16 bits: codes 0..127 with weights of 8 bits, or 0..255 with
// weights of 7 bits; and signed sources are out, because oneDNN halves their weights.
IntegerKernel choose_integer_kernel(const CodeRange& x, const CodeRange& w, ByteProducts unit);

std::string text_of(IntegerKernel kernel);  // "u8s8s32", "s8s8s32", "f32"

}  // namespace qt
