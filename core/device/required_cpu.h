// core/device/required_cpu.h -- what the CPU must have before anything of this program may run.
#pragma once
#include <cstddef>

namespace qt {

// An instruction set that all of the program is compiled for, and whether it may be used here.
struct CpuFeature {
  const char* name;
  bool here;
};

// Into text (of `size` bytes, at least 1): one line with its newline that names the features that
// are missing, cut where it does not fit; "" where none is.
void describe_unfit_cpu(const CpuFeature* features, size_t count, char* text, size_t size);

}  // namespace qt
