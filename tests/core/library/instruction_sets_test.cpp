// tests/core/library/instruction_sets_test.cpp -- the tests of this folder again under weaker
// instruction sets: oneDNN reads DNNL_MAX_CPU_ISA once per process, so this program runs itself.
#include <gtest/gtest.h>

#include <cstdlib>
#include <dnnl.hpp>
#include <filesystem>
#include <string>

namespace qt {
namespace {

class InstructionSets : public testing::TestWithParam<std::string> {};

TEST_P(InstructionSets, GiveTheBitsOfPlainLoops) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string command =
      "DNNL_MAX_CPU_ISA=" + GetParam() + " '" + self +
      "' --gtest_brief=1 --gtest_filter='IntegerConvolution.*:IntegerLinear.*:"
      "FloatConvolution.*Equals*:WinogradChoice.*:DirectChoice.*:OneDnnSelfTest.*:ConvolutionPlan.*"
      ":UnderLimit.*'";
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

INSTANTIATE_TEST_SUITE_P(OneDnn, InstructionSets, testing::Values("SSE41", "AVX2", "AVX512_CORE"),
                         [](const auto& info) { return info.param; });

// In the child: the limit has taken effect, so that the runs above are not all the same.
TEST(UnderLimit, OneDnnUsesNoMoreThanItWasTold) {
  const char* limit = std::getenv("DNNL_MAX_CPU_ISA");
  if (!limit) GTEST_SKIP() << "DNNL_MAX_CPU_ISA is not set";
  const int allowed = std::string(limit) == "SSE41"  ? int(dnnl::cpu_isa::sse41)
                      : std::string(limit) == "AVX2" ? int(dnnl::cpu_isa::avx2)
                                                     : int(dnnl::cpu_isa::avx512_core);
  // The names are bit sets; each holds the bits of weaker sets.
  EXPECT_EQ(int(dnnl::get_effective_cpu_isa()) & ~allowed, 0);
}

}  // namespace
}  // namespace qt
