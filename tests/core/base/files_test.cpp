// tests/core/base/files_test.cpp -- atomic writes under every kind of failure, hashes, locks,
// records.
#include "core/base/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>

#include "core/base/error.h"
#include "tests/core/base/temporary_folder.h"

namespace qt {
namespace {

using files::Fault;
using files::Operation;
using test::message_of;
using test::slurp;
using test::spill;
using test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

class Files : public testing::Test {
 protected:
  ~Files() override { files::set_fault_hook({}); }
  TemporaryFolder folder_;
};

TEST_F(Files, HashIsXxh3OfAllBytes) {
  // The reference value of XXH3-128 for no bytes, printed as `xxhsum -H2` prints it.
  EXPECT_EQ(files::hash_of(""), "99aa06d3014798d86001c324468d497f");
  const std::string big(3'000'001, 'x');
  spill(folder_ / "big", big);
  EXPECT_EQ(files::stamp_of(folder_ / "big"), (files::Stamp{big.size(), files::hash_of(big)}));
}

TEST_F(Files, AtomicWriteReturnsTheStampOfWhatLiesThere) {
  const files::Stamp stamp = files::write_atomically(folder_ / "a", "some text");
  EXPECT_EQ(slurp(folder_ / "a"), "some text");
  EXPECT_EQ(stamp, files::stamp_of(folder_ / "a"));
  EXPECT_EQ(files::list_folder(folder_.path()), std::vector<std::string>{"a"});
}

TEST_F(Files, AFileThatIsNotCommittedLeavesNothing) {
  { files::OutputFile(folder_ / "a").write("half"); }
  EXPECT_TRUE(files::list_folder(folder_.path()).empty());
}

TEST_F(Files, EveryFailingStepKeepsTheOldFileAndNamesPathAndReason) {
  files::write_atomically(folder_ / "a", "old");
  for (const Operation operation :
       {Operation::open, Operation::write, Operation::sync, Operation::rename})
    for (const int error : {ENOSPC, EIO, EROFS, EDQUOT}) {
      files::set_fault_hook([&](Operation asked, const std::string& path) {
        const bool hit = asked == operation && path.find("/a") != std::string::npos;
        return hit ? Fault{error, 2} : Fault{};
      });
      const auto message =
          message_of<CheckpointError>([&] { files::write_atomically(folder_ / "a", "new"); });
      EXPECT_THAT(message, AllOf(HasSubstr(folder_ / "a"), HasSubstr(strerror(error))));
      files::set_fault_hook({});
      EXPECT_EQ(slurp(folder_ / "a"), "old");
      EXPECT_EQ(files::list_folder(folder_.path()).size(), 1u) << "leftovers";
    }
}

TEST_F(Files, ShortWritesAreContinued) {
  files::set_fault_hook([](Operation asked, const std::string&) {
    return asked == Operation::write ? Fault{0, 3} : Fault{};
  });
  files::write_atomically(folder_ / "a", "longer than three bytes");
  EXPECT_EQ(slurp(folder_ / "a"), "longer than three bytes");
}

TEST_F(Files, AFullDeviceIsNamed) {
  if (!files::exists("/dev/full")) GTEST_SKIP() << "no /dev/full on this system";
  files::RecordFile full("/dev/full", files::RecordFile::Open::append);
  EXPECT_THAT(message_of<CheckpointError>([&] { full.append("record"); }),
              AllOf(HasSubstr("/dev/full"), HasSubstr("No space left on device")));
}

TEST_F(Files, WhatIsWrittenToADeviceDoesNotReplaceIt) {
  if (!files::exists("/dev/full")) GTEST_SKIP() << "no /dev/full on this system";
  files::check_writable("/dev/full");
  EXPECT_THAT(message_of<CheckpointError>([&] { files::write_atomically("/dev/full", "text"); }),
              AllOf(HasSubstr("cannot write /dev/full"), HasSubstr("No space left on device")));
  EXPECT_FALSE(files::exists("/dev/full.tmp"));
  EXPECT_EQ(files::write_atomically("/dev/null", "text").bytes, 4u);
  EXPECT_THAT(message_of<CheckpointError>([&] { files::InputFile("/dev/null"); }),
              HasSubstr("not a regular file"));
}

TEST_F(Files, WhetherAFileCanBeWrittenIsToldWithoutWritingIt) {
  spill(folder_ / "a", "old");
  files::check_writable(folder_ / "a");
  files::check_writable(folder_ / "b");
  EXPECT_EQ(slurp(folder_ / "a"), "old");
  EXPECT_EQ(files::list_folder(folder_.path()), std::vector<std::string>{"a"});
  EXPECT_THAT(message_of<CheckpointError>([&] { files::check_writable(folder_ / "no/a"); }),
              HasSubstr("No such file"));
  EXPECT_THAT(message_of<CheckpointError>([&] { files::check_writable(folder_.path()); }),
              HasSubstr("Is a directory"));
}

TEST_F(Files, MissingFoldersAndOddFilesAreNamed) {
  EXPECT_THAT(message_of<CheckpointError>([&] { files::read_all(folder_ / "none"); }),
              AllOf(HasSubstr(folder_ / "none"), HasSubstr("No such file")));
  EXPECT_THAT(message_of<CheckpointError>([&] { files::write_atomically(folder_ / "no/a", ""); }),
              HasSubstr("No such file"));
  EXPECT_THAT(message_of<CheckpointError>([&] { files::read_all(folder_.path()); }),
              HasSubstr("not a regular file"));
  spill(folder_ / "a", "12345");
  EXPECT_THAT(message_of<CheckpointError>([&] { files::read_all(folder_ / "a", 4); }),
              HasSubstr("at most 4"));
  EXPECT_THAT(message_of<CheckpointError>([&] { files::make_folder(folder_ / "a"); }),
              HasSubstr("Not a directory"));
  char out[8];
  EXPECT_THAT(message_of<CheckpointError>([&] { files::InputFile(folder_ / "a").read(2, out, 8); }),
              HasSubstr("ends at byte 5"));
}

TEST_F(Files, APipeIsNoFileToReadAndIsNotWaitedFor) {
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(message_of<CheckpointError>([&] { files::InputFile(folder_ / "pipe"); }),
              HasSubstr("not a regular file"));
}

TEST_F(Files, ARecordThatDoesNotFitIsCutOffAgain) {
  files::RecordFile file(folder_ / "r", files::RecordFile::Open::create);
  file.append("first\n");
  files::set_fault_hook([](Operation asked, const std::string&) {
    return asked == Operation::write ? Fault{ENOSPC, 4} : Fault{};
  });
  EXPECT_THROW(file.append("second\n"), CheckpointError);
  EXPECT_EQ(slurp(folder_ / "r"), "first\n");
  files::set_fault_hook({});
  file.append("third\n");
  EXPECT_EQ(slurp(folder_ / "r"), "first\nthird\n");
  EXPECT_THROW(files::RecordFile(folder_ / "r", files::RecordFile::Open::create), CheckpointError);
}

TEST_F(Files, RemovingATreeDoesNotFollowLinks) {
  files::make_folder(folder_ / "outside");
  spill(folder_ / "outside/precious", "x");
  files::make_folder(folder_ / "tree/inner");
  std::filesystem::create_directory_symlink(folder_ / "outside", folder_ / "tree/inner/link");
  files::remove_tree(folder_ / "tree");
  EXPECT_FALSE(files::exists(folder_ / "tree"));
  EXPECT_EQ(slurp(folder_ / "outside/precious"), "x");
  files::remove_tree(folder_ / "tree");  // nothing there: nothing to do
}

TEST_F(Files, ExchangeSwapsTwoFolders) {
  files::make_folder(folder_ / "a");
  files::make_folder(folder_ / "b");
  spill(folder_ / "a/x", "of a");
  spill(folder_ / "b/x", "of b");
  files::exchange(folder_ / "a", folder_ / "b");
  EXPECT_EQ(slurp(folder_ / "a/x"), "of b");
  EXPECT_EQ(slurp(folder_ / "b/x"), "of a");
}

TEST_F(Files, ALockKeepsOthersOutUntilItsHolderDies) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    files::Lock lock;
    std::string holder;
    const char ok = lock.acquire(folder_ / "lock", "process 42", holder) ? 'y' : 'n';
    if (::write(ready[1], &ok, 1) != 1) _exit(1);
    for (;;) pause();
  }
  char ok = 0;
  ASSERT_EQ(::read(ready[0], &ok, 1), 1);
  ASSERT_EQ(ok, 'y');
  files::Lock lock;
  std::string holder;
  EXPECT_FALSE(lock.acquire(folder_ / "lock", "me", holder));
  EXPECT_EQ(holder, "process 42");
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(lock.acquire(folder_ / "lock", "me", holder));
  close(ready[0]);
  close(ready[1]);
}

TEST_F(Files, ParentsOfPaths) {
  EXPECT_EQ(files::parent_of("a/b"), "a");
  EXPECT_EQ(files::parent_of("a/b/"), "a");
  EXPECT_EQ(files::parent_of("a"), ".");
  EXPECT_EQ(files::parent_of("/a"), "/");
  EXPECT_EQ(files::parent_of("/"), "/");
  EXPECT_EQ(files::parent_of(""), ".");
}

TEST_F(Files, FreeSpaceIsThatOfTheFileSystem) {
  EXPECT_GT(files::free_bytes(folder_.path()), 0u);
  EXPECT_THROW(files::free_bytes(folder_ / "none"), CheckpointError);
}

}  // namespace
}  // namespace qt
