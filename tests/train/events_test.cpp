// tests/train/events_test.cpp -- golden records of TensorBoard event files, and what a crash leaves
// of one.
#include "train/events.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cmath>
#include <filesystem>

#include "core/base/error.h"
#include "tests/core/base/temporary_folder.h"

namespace qt {
namespace {

using test::message_of;
using test::slurp;
using test::TemporaryFolder;
using testing::HasSubstr;
using testing::MatchesRegex;

std::string hex(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", uint8_t(c));
    text += two;
  }
  return text;
}

double wall_time_of(const char (&bytes)[9]) {
  double value;
  memcpy(&value, bytes, 8);
  return value;
}

// The payloads of all complete records with good sums.
std::vector<std::string> records(std::string_view bytes) {
  std::vector<std::string> list;
  while (bytes.size() >= 16) {
    uint64_t length;
    memcpy(&length, bytes.data(), 8);
    if (bytes.size() < 16 + length) break;
    const std::string_view record = bytes.substr(0, 16 + length);
    const std::string data(record.substr(12, length));
    EXPECT_EQ(tfrecord::framed(data), record);
    list.push_back(data);
    bytes.remove_prefix(16 + length);
  }
  return list;
}

TEST(EventRecords, Crc32cIsCastagnoli) {
  EXPECT_EQ(tfrecord::crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(tfrecord::crc32c(""), 0u);
  EXPECT_EQ(tfrecord::crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(tfrecord::crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

TEST(EventRecords, FileVersionIsTheGoldenRecord) {
  const double wall_time = wall_time_of("\0\0\x80\x38\x99\xd6\xd7\x41");
  EXPECT_EQ(hex(tfrecord::framed(tfrecord::file_version_event(wall_time))),
            "1800000000000000a37f4b22"
            "090000803899d6d7411a0d627261696e2e4576656e743a32"
            "124b36ab");
}

TEST(EventRecords, ScalarIsTheGoldenRecord) {
  const double wall_time = wall_time_of("\xc4\x05\xb7\x3d\x99\xd6\xd7\x41");
  EXPECT_EQ(hex(tfrecord::framed(tfrecord::scalar_event(wall_time, 77, "accuracy", 0.99f))),
            "3200000000000000241956ec"
            "09c405b73d99d6d741104d2a250a230a086163637572616379420a080112002204a4707d3f4a0b0a090a07"
            "7363616c617273"
            "a55b6433");
}

TEST(EventWriter, NamesItsFileAsReadersExpect) {
  const TemporaryFolder folder;
  const EventWriter a(folder / "new/folder", 1234567), b(folder / "new/folder", 1234567);
  for (const EventWriter* writer : {&a, &b})
    EXPECT_THAT(std::filesystem::path(writer->path()).filename().string(),
                MatchesRegex("events\\.out\\.tfevents\\.0001234567\\.[^/]+\\.[0-9]+\\.[0-9]+"));
  EXPECT_NE(a.path(), b.path()) << "a file is never written by two";
}

TEST(EventWriter, StartsWithTheFileVersionThenTheSession) {
  const TemporaryFolder folder;
  EventWriter writer(folder.path(), 2.0);
  writer.session_start(501, 2.0);
  const auto list = records(slurp(writer.path()));
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0], tfrecord::file_version_event(2.0));
  EXPECT_EQ(hex(list[1]),
            "090000000000000040"
            "10f503"
            "3a020801");
}

TEST(EventWriter, WritesEveryRecordAtOnce) {
  const TemporaryFolder folder;
  EventWriter writer(folder.path());
  int writes = 0;
  files::set_fault_hook([&](files::Operation operation, const std::string&) {
    writes += operation == files::Operation::write;
    return files::Fault{};
  });
  writer.scalar("a", 1, 2);
  writer.histogram("b", 1, {{0, 1}, {1, 2}, {3, 4}});
  writer.text("c", 1, "words");
  writer.image("d", 1, 1, 1, "png");
  files::set_fault_hook({});
  EXPECT_EQ(writes, 4);
  EXPECT_EQ(records(slurp(writer.path())).size(), 5u);
}

TEST(EventWriter, AFullDiskLeavesWholeRecordsOnly) {
  const TemporaryFolder folder;
  EventWriter writer(folder.path());
  writer.scalar("a", 1, 1);
  files::set_fault_hook([](files::Operation operation, const std::string&) {
    return operation == files::Operation::write ? files::Fault{ENOSPC, 17} : files::Fault{};
  });
  EXPECT_THAT(message_of<CheckpointError>([&] { writer.scalar("a", 2, 1); }),
              HasSubstr("No space left"));
  files::set_fault_hook({});
  writer.scalar("a", 3, 1);
  EXPECT_EQ(records(slurp(writer.path())).size(), 3u);
}

TEST(EventWriter, HistogramsNeedListsOfOneLength) {
  const TemporaryFolder folder;
  EventWriter writer(folder.path());
  EXPECT_THROW(writer.histogram("b", 1, {{0, 1}, {1}, {3, 4}}), InternalError);
}

// tests/python/test_events.py sets QATTRAIN_SAMPLE_DIR and reads these files with the tensorboard
// package.
TEST(EventWriter, WritesASampleForOtherPrograms) {
  const TemporaryFolder own;
  const char* given = std::getenv("QATTRAIN_SAMPLE_DIR");
  const std::string folder = given ? given : own.path();
  EventWriter first(folder + "/run", 1000.0);
  first.session_start(0, 1000.0);
  for (int step = 0; step < 100; ++step)
    first.scalar("train/loss", step, 100.0 - step, 1000.5 + step);
  first.scalar("odd/nan", 3, NAN, 1010);
  first.scalar("odd/inf", 3, INFINITY, 1010);
  first.scalar("odd/t\xc3\xa4g", 1 << 30, 1e-30, 1010);
  first.histogram("weights", 5, {{-1, 0, 0.5}, {0, 0.5, 2}, {3, 0, 7}}, 1010);
  first.histogram("weights/empty", 5, {}, 1010);
  first.text("config", 0, "*yaml*: `quant.bits: 8`", 1010);
  const std::string png(
      "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0\x3a\x7e\x9b\x55\0\0\0\nIDATx\x9c"
      "c`\0\0\0\2\0\1H\xaf\xa4q\0\0\0\0IEND\xae"
      "B`\x82",
      67);
  first.image("picture", 5, 1, 1, png, 1010);
  // The run resumes at step 60, having written up to 99: those above 59 are void.
  EventWriter second(folder + "/run", 2000.0);
  second.session_start(60, 2000.0);
  for (int step = 60; step < 70; ++step) second.scalar("train/loss", step, -step, 2000.5 + step);
  EXPECT_EQ(records(slurp(first.path())).size(), 109u);
  EXPECT_EQ(records(slurp(second.path())).size(), 12u);
}

}  // namespace
}  // namespace qt
