// core/library/onednn_integer.cpp -- the exactness rules of oneDNN's int8 kernels.
#include "core/library/onednn_integer.h"

#include <dnnl.hpp>

namespace qt {

namespace {

// oneDNN's names of instruction sets are bit sets; each holds the bits of the sets it includes.
bool effective_isa_includes(dnnl::cpu_isa wanted) {
  return (int(dnnl::get_effective_cpu_isa()) & int(wanted)) == int(wanted);
}

}  // namespace

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
