// core/library/onednn_integer.cpp -- oneDNN's instruction set, and the exactness rules of its int8
// kernels.
#include "core/library/onednn_integer.h"

#include <dnnl.hpp>

#include "core/device/cpu.h"

namespace qt {

namespace {

dnnl::cpu_isa onednn_name(Isa isa) {
  switch (isa) {
    case Isa::sse41: return dnnl::cpu_isa::sse41;
    case Isa::avx2: return dnnl::cpu_isa::avx2;
    case Isa::avx512: return dnnl::cpu_isa::avx512_core;
    case Isa::avx512_vnni: return dnnl::cpu_isa::avx512_core_vnni;
    default: return dnnl::cpu_isa::all;  // with what oneDNN knows beyond: AMX
  }
}

// oneDNN's names of instruction sets are bit sets; each holds the bits of the sets it includes.
bool effective_isa_includes(dnnl::cpu_isa wanted) {
  limit_onednn();
  return (int(dnnl::get_effective_cpu_isa()) & int(wanted)) == int(wanted);
}

}  // namespace

void limit_onednn() {
  static const bool done = [] {
    if (!isa_limit()) return true;
    const dnnl::status status = dnnl::set_max_cpu_isa(onednn_name(*isa_limit()));
    QT_CHECK(status == dnnl::status::success,
             "oneDNN was used before QATTRAIN_MAX_ISA could be told to it");
    return true;
  }();
  (void)done;
}

ByteProducts effective_byte_products() {
  const bool vnni = effective_isa_includes(dnnl::cpu_isa::avx512_core_vnni) ||
                    effective_isa_includes(dnnl::cpu_isa::avx2_vnni);
  return vnni ? ByteProducts::vnni : ByteProducts::saturating_pairs;
}

bool has_native_bf16() { return effective_isa_includes(dnnl::cpu_isa::avx512_core_bf16); }
bool has_avx2() { return effective_isa_includes(dnnl::cpu_isa::avx2); }
bool has_avx2_only() { return has_avx2() && !effective_isa_includes(dnnl::cpu_isa::avx512_core); }

IntegerKernel choose_integer_kernel(const CodeRange& x, const CodeRange& w, ByteProducts unit) {
  const bool w_is_s8 = w.lo >= -128 && w.hi <= 127;
  if (!w_is_s8) return IntegerKernel::exact_float;
  const bool x_is_u8 = x.lo >= 0 && x.hi <= 255;
  const bool x_is_s8 = x.lo >= -128 && x.hi <= 127;
  if (unit == ByteProducts::vnni)
    return x_is_u8   ? IntegerKernel::u8s8
           : x_is_s8 ? IntegerKernel::s8s8
                     : IntegerKernel::exact_float;
  const bool pairs_fit = 2 * x.hi * w.hi <= 32767 && 2 * x.hi * w.lo >= -32768;
  return x_is_u8 && pairs_fit ? IntegerKernel::u8s8 : IntegerKernel::exact_float;
}

std::string text_of(IntegerKernel kernel) {
  switch (kernel) {
    case IntegerKernel::u8s8: return "u8s8s32";
    case IntegerKernel::s8s8: return "s8s8s32";
    default: return "f32";
  }
}

}  // namespace qt
