// tests/core/library/instruction_sets_test.cpp -- the tests of this folder again under weaker
// instruction sets: oneDNN takes a limit once per process, so this program runs itself.
#include <gtest/gtest.h>

#include <cstdlib>
#include <dnnl.hpp>
#include <filesystem>
#include <string>

#include "core/device/cpu.h"
#include "core/library/onednn_integer.h"

namespace qt {
namespace {

class InstructionSets : public testing::TestWithParam<std::string> {};

TEST_P(InstructionSets, GiveTheBitsOfPlainLoops) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string command =
      "QATTRAIN_MAX_ISA=" + GetParam() + " '" + self +
      "' --gtest_brief=1 --gtest_filter='IntegerConvolution.*:IntegerLinear.*:"
      "FloatConvolution.*Equals*:WinogradChoice.*:DirectChoice.*:OneDnnSelfTest.*:ConvolutionPlan.*"
      ":Products.*:UnderLimit.*'";
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

INSTANTIATE_TEST_SUITE_P(OneDnn, InstructionSets,
                         testing::Values("sse41", "avx2", "avx512", "avx512_vnni"),
                         [](const auto& info) { return info.param; });

// In the child: the limit has taken effect, so that the runs above are not all the same.
TEST(UnderLimit, NoKernelUsesMoreThanItWasTold) {
  if (!isa_limit()) GTEST_SKIP() << "QATTRAIN_MAX_ISA is not set";
  EXPECT_LE(cpu_isa(), *isa_limit());
  limit_onednn();
  const int allowed = *isa_limit() == Isa::sse41    ? int(dnnl::cpu_isa::sse41)
                      : *isa_limit() == Isa::avx2   ? int(dnnl::cpu_isa::avx2)
                      : *isa_limit() == Isa::avx512 ? int(dnnl::cpu_isa::avx512_core)
                                                    : int(dnnl::cpu_isa::avx512_core_vnni);
  // The names are bit sets; each holds the bits of weaker sets.
  EXPECT_EQ(int(dnnl::get_effective_cpu_isa()) & ~allowed, 0);
}

}  // namespace
}  // namespace qt
