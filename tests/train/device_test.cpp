// tests/train/device_test.cpp -- devices by name.
#include "train/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qt {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::ThrowsMessage;

TEST(Device, NamesAreKnownOrNot) {
  for (const char* name : {"auto", "cpu", "cuda", "cuda:0", "cuda:12"})
    EXPECT_TRUE(is_device_name(name)) << name;
  for (const char* name :
       {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:99999", "cudb", "cpu:0"}) {
    EXPECT_FALSE(is_device_name(name)) << name;
    EXPECT_THROW(open_device(name), ConfigError) << name;
  }
}

TEST(Device, AutoIsTheCpu) {
  for (const char* name : {"auto", "cpu"}) {
    const auto device = open_device(name);
    EXPECT_EQ(device->name(), "cpu");
    EXPECT_FALSE(device->on_gpu());
    const auto section = device->enter();
    EXPECT_FALSE(current_stream().on_gpu);
  }
}

TEST(Device, AGpuThatIsNotThereIsOneClearLine) {
  EXPECT_THAT([] { open_device("cuda:4711"); },
              ThrowsMessage<ConfigError>(
                  ::testing::AllOf(HasSubstr("device cuda:4711: "), Not(HasSubstr("\n")))));
}

}  // namespace
}  // namespace qt
