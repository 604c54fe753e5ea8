// tests/train/checkpoint_test.cpp -- no crash, full disk or flipped bit costs more than the save it
// happens in.
#include "train/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <random>
#include <set>

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
using testing::ElementsAre;
using testing::HasSubstr;

// Every number in it follows from the step, so that a mixture of two checkpoints shows.
Checkpoint content_at(int64_t step, int64_t size = 100) {
  Checkpoint c;
  // Not Tensor::full, which may wake OpenMP's threads: a child of fork() has none.
  const auto tensor = [&](float salt) {
    return Tensor::of({size}, std::vector<float>(size_t(size), float(step) + salt));
  };
  c.files["model.safetensors"] = {{"conv1.weight", tensor(0.25f)}, {"fc.bias", tensor(0.5f)}};
  c.files["optim.safetensors"] = {{"conv1.weight", tensor(0.75f)}};
  c.state_json = "{\"step\": " + std::to_string(step) + "}";
  return c;
}

void expect_content(const LoadedCheckpoint& loaded, int64_t size = 100) {
  const Checkpoint wanted = content_at(loaded.step, size);
  EXPECT_EQ(loaded.content.state_json, wanted.state_json);
  ASSERT_EQ(loaded.content.files.size(), wanted.files.size());
  for (const auto& [file, tensors] : wanted.files) {
    const NamedTensors& found = loaded.content.tensors(file);
    ASSERT_EQ(found.size(), tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_EQ(found[i].first, tensors[i].first);
      EXPECT_EQ(found[i].second.to_vector<float>(), tensors[i].second.to_vector<float>());
    }
  }
}

// Thousands of fsyncs take minutes on a disk, and a killed process loses nothing of the page cache:
// in memory if possible.
std::filesystem::path quick_folder() {
  const bool memory = access("/dev/shm", W_OK | X_OK) == 0;
  return memory ? std::filesystem::path("/dev/shm") : std::filesystem::temp_directory_path();
}

class Checkpoints : public testing::Test {
 protected:
  ~Checkpoints() override { files::set_fault_hook({}); }
  std::string folder() const { return temporary_ / "checkpoints"; }
  CheckpointStore store(int last = 3, int best = 0) const { return {folder(), last, best}; }
  TemporaryFolder temporary_{quick_folder()};
};

TEST_F(Checkpoints, ComeBackAsTheyWereSaved) {
  const std::string path = store().save(12000, content_at(12000), 91.5);
  EXPECT_EQ(path, folder() + "/step-00012000");
  EXPECT_THAT(files::list_folder(path),
              ElementsAre("MANIFEST.json", "model.safetensors", "optim.safetensors", "state.json"));
  EXPECT_EQ(slurp(folder() + "/last"), "step-00012000\n");
  const LoadedCheckpoint loaded = load_checkpoint(path);
  EXPECT_EQ(loaded.step, 12000);
  EXPECT_EQ(loaded.score, 91.5);
  EXPECT_EQ(loaded.folder, path);
  expect_content(loaded);
  EXPECT_THAT(message_of<CheckpointError>([&] { loaded.content.tensors("ema.safetensors"); }),
              HasSubstr("ema.safetensors"));
}

TEST_F(Checkpoints, SameContentGivesSameBytes) {
  CheckpointStore(temporary_ / "a", 1, 0).save(7, content_at(7), 0.1);
  CheckpointStore(temporary_ / "b", 1, 0).save(7, content_at(7), 0.1);
  for (const std::string& name : files::list_folder(temporary_ / "a/step-00000007"))
    EXPECT_EQ(slurp(temporary_ / ("a/step-00000007/" + name)),
              slurp(temporary_ / ("b/step-00000007/" + name)));
}

TEST_F(Checkpoints, NothingSavedIsNothingToLoad) {
  EXPECT_FALSE(store().load_newest());
  store().prepare();
  EXPECT_FALSE(store().load_newest());
  EXPECT_TRUE(files::list_folder(folder()).empty()) << "prepare() leaves no probe behind";
}

TEST_F(Checkpoints, ASaveOfTheSameStepReplaces) {
  store().save(5, content_at(1));
  store().save(5, content_at(5));
  expect_content(*store().load_newest());
  EXPECT_THAT(files::list_folder(folder()), ElementsAre("last", "step-00000005"));
}

TEST_F(Checkpoints, RotationKeepsTheLast) {
  for (int64_t step = 1; step <= 6; ++step) store(2).save(step, content_at(step));
  EXPECT_THAT(store().steps(), ElementsAre(5, 6));
}

TEST_F(Checkpoints, RotationKeepsTheBestIndependently) {
  const double scores[] = {50, 90, 70, 90, 60, NAN, 10};
  std::vector<std::vector<int64_t>> kept;
  for (int64_t step = 1; step <= 7; ++step) {
    store(2, 2).save(step, content_at(step), scores[step - 1]);
    kept.push_back(store().steps());
  }
  EXPECT_THAT(
      kept, ElementsAre(ElementsAre(1), ElementsAre(1, 2), ElementsAre(2, 3), ElementsAre(2, 3, 4),
                        ElementsAre(2, 4, 5), ElementsAre(2, 4, 5, 6), ElementsAre(2, 4, 6, 7)));
  EXPECT_EQ(store().best(), folder() + "/step-00000004") << "the newer of two equal scores";
}

TEST_F(Checkpoints, ScoresOfAnEarlierPhaseAreNoRivals) {
  const CheckpointStore keeps = store(1, 1);
  keeps.save(1, content_at(1), 90);
  keeps.save(2, content_at(2), 80);
  EXPECT_THAT(store().steps(), ElementsAre(1, 2));
  keeps.save(3, content_at(3), 70, /*rivals_after=*/2);
  EXPECT_THAT(store().steps(), ElementsAre(3));
  keeps.save(4, content_at(4), 60, /*rivals_after=*/2);
  EXPECT_THAT(store().steps(), ElementsAre(3, 4));
}

// Against a plain model of the two lists.
TEST_F(Checkpoints, RotationAgreesWithItsDefinition) {
  std::mt19937 random(3);
  for (const auto& [last, best] :
       std::vector<std::pair<int, int>>{{1, 0}, {1, 1}, {1, 3}, {2, 1}, {3, 2}}) {
    const TemporaryFolder own(quick_folder());
    const CheckpointStore store(own.path(), last, best);
    std::map<int64_t, double> scores;
    for (int64_t step = 1; step <= 12; ++step) {
      scores[step] = random() % 5;
      store.save(step, content_at(step, 1), scores[step]);
      std::set<int64_t> wanted;
      for (int64_t s = std::max<int64_t>(1, step - last + 1); s <= step; ++s) wanted.insert(s);
      std::vector<std::pair<double, int64_t>> order;
      for (const auto& [s, score] : scores) order.emplace_back(-score, -s);
      std::sort(order.begin(), order.end());
      for (size_t i = 0; i < std::min(order.size(), size_t(best)); ++i)
        wanted.insert(-order[i].second);
      EXPECT_EQ(store.steps(), std::vector<int64_t>(wanted.begin(), wanted.end()))
          << last << " " << best;
    }
  }
}

TEST_F(Checkpoints, DamagedOnesAreNeitherCountedNorRemovedByRotation) {
  for (int64_t step = 1; step <= 3; ++step) store(3).save(step, content_at(step));
  std::filesystem::resize_file(folder() + "/step-00000003/model.safetensors", 10);
  store(2).save(4, content_at(4));
  EXPECT_THAT(store().steps(), ElementsAre(2, 3, 4)) << "2 and 4 are the two good ones";
  store(2).save(5, content_at(5));
  EXPECT_THAT(store().steps(), ElementsAre(3, 4, 5));
}

TEST_F(Checkpoints, ALowerStepThanOthersIsNotRotatedAway) {
  for (int64_t step = 10; step <= 12; ++step) store(2).save(step, content_at(step));
  store(2).save(3, content_at(3));
  EXPECT_THAT(store().steps(), ElementsAre(3, 11, 12));
  store(2).discard_after(3);
  EXPECT_THAT(store().steps(), ElementsAre(3));
}

TEST_F(Checkpoints, LeftoversOfACrashGoAtTheNextSave) {
  files::make_folder(folder() + "/step-00000009.tmp");
  spill(folder() + "/step-00000009.tmp/model.safetensors", "half");
  spill(folder() + "/last.tmp", "half");
  EXPECT_FALSE(store().load_newest());
  store().save(10, content_at(10));
  EXPECT_THAT(files::list_folder(folder()), ElementsAre("last", "step-00000010"));
}

TEST_F(Checkpoints, ForeignFilesAreLeftAlone) {
  files::make_folder(folder() + "/step-abc");
  files::make_folder(folder() + "/step-7");
  spill(folder() + "/notes.txt", "mine");
  store(1).save(10, content_at(10));
  store(1).save(11, content_at(11));
  EXPECT_THAT(files::list_folder(folder()),
              ElementsAre("last", "notes.txt", "step-00000011", "step-7", "step-abc"));
}

TEST_F(Checkpoints, ADamagedNewestFallsBackToThePrevious) {
  store().save(1, content_at(1));
  store().save(2, content_at(2));
  std::filesystem::resize_file(folder() + "/step-00000002/optim.safetensors", 100);
  const auto loaded = store().load_newest();
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->step, 1);
  expect_content(*loaded);
}

// An error of the disk says nothing of what is on it.
TEST_F(Checkpoints, WhatCouldNotBeReadIsKeptAsideWhole) {
  for (int round = 1; round <= 2; ++round) {
    for (int64_t step = 1; step <= 3; ++step) store().save(step, content_at(step));
    files::set_fault_hook([&](Operation operation, const std::string& path) {
      const bool newest =
          path.starts_with(store().folder_of(2)) || path.starts_with(store().folder_of(3));
      return operation == Operation::open && newest ? Fault{EIO} : Fault{};
    });
    const auto loaded = store().load_newest();
    files::set_fault_hook({});
    ASSERT_TRUE(loaded);
    EXPECT_EQ(loaded->step, 1);
    EXPECT_THAT(loaded->passed_over, ElementsAre(3, 2));
    const std::string number = round == 1 ? "" : "-2";
    for (const int64_t step : loaded->passed_over) {
      const std::string aside = store().set_aside(step);
      EXPECT_EQ(aside, store().folder_of(step) + ".unreadable" + number);
      EXPECT_EQ(load_checkpoint(aside).step, step);
      expect_content(load_checkpoint(aside));
    }
    store().discard_after(loaded->step);
    EXPECT_THAT(store().steps(), ElementsAre(1));
    EXPECT_EQ(files::list_folder(folder()).size(), size_t(2 + 2 * round));
  }
  store(1).save(4, content_at(4));
  EXPECT_EQ(files::list_folder(folder()).size(), 6u) << "rotation leaves them alone";
}

TEST_F(Checkpoints, AllDamagedIsAnErrorAndNotAFreshStart) {
  store().save(1, content_at(1));
  store().save(2, content_at(2));
  std::filesystem::remove(folder() + "/step-00000001/state.json");
  std::filesystem::remove(folder() + "/step-00000002/MANIFEST.json");
  EXPECT_THAT(
      message_of<CheckpointError>([&] { store().load_newest(); }),
      AllOf(HasSubstr("step-00000001/state.json"), HasSubstr("step-00000002/MANIFEST.json")));
}

TEST_F(Checkpoints, EveryFlippedBitIsFoundAndNamed) {
  const std::string path = store().save(3, content_at(3, 10), 12.25);
  std::mt19937 random(5);
  for (const std::string& name : files::list_folder(path)) {
    const std::string file = path + "/" + name, bytes = slurp(file);
    for (int i = 0; i < 250; ++i) {
      std::string damaged = bytes;
      const uint32_t at = random() % uint32_t(bytes.size());
      damaged[at] = char(damaged[at] ^ (1 << random() % 8));
      spill(file, damaged);
      EXPECT_THAT(message_of<CheckpointError>([&] { load_checkpoint(path); }), HasSubstr(file))
          << at;
    }
    spill(file, bytes);
  }
  EXPECT_NO_THROW(load_checkpoint(path));
}

TEST_F(Checkpoints, EveryTruncationIsFoundAndNamed) {
  const std::string path = store().save(3, content_at(3, 10), 12.25);
  for (const std::string& name : files::list_folder(path)) {
    const std::string file = path + "/" + name, bytes = slurp(file);
    for (size_t i = 0; i < 16; ++i) {
      spill(file, bytes.substr(0, bytes.size() * i / 16));
      EXPECT_THAT(message_of<CheckpointError>([&] { load_checkpoint(path); }), HasSubstr(file))
          << i;
    }
    spill(file, bytes + "x");
    EXPECT_THAT(message_of<CheckpointError>([&] { load_checkpoint(path); }), HasSubstr(file));
    spill(file, bytes);
  }
}

TEST_F(Checkpoints, SwappedFilesAndFoldersAreFound) {
  const std::string a = store().save(1, content_at(1)), b = store().save(2, content_at(2));
  std::filesystem::rename(a + "/model.safetensors", temporary_ / "aside");
  std::filesystem::copy_file(b + "/model.safetensors", a + "/model.safetensors");
  EXPECT_THAT(message_of<CheckpointError>([&] { load_checkpoint(a); }),
              HasSubstr(a + "/model.safetensors"));
  std::filesystem::remove_all(a);
  std::filesystem::rename(b, a);
  EXPECT_THAT(message_of<CheckpointError>([&] { load_checkpoint(a); }), HasSubstr("is of step 2"));
  std::filesystem::rename(a, temporary_ / "kept");
  EXPECT_EQ(load_checkpoint(temporary_ / "kept").step, 2)
      << "a copy under a name of its own is fine";
}

TEST_F(Checkpoints, HostileManifestsAreRefused) {
  const std::string path = store().save(1, content_at(1)), file = path + "/MANIFEST.json";
  for (const char* text : {"", "[]", "{}", "null", "{\"format\": 1}",
                           R"({"format":"qattrain-checkpoint","version":2})",
                           R"({"format":"qattrain-checkpoint","version":1,"files":[]})",
                           R"({"format":"qattrain-checkpoint","version":1,"step":1,"score":null,)"
                           R"("files":{"../x":{}}})"}) {
    spill(file, text);
    EXPECT_THAT(message_of<CheckpointError>([&] { load_checkpoint(path); }), HasSubstr(file))
        << text;
  }
  spill(file, std::string(900'000, '['));
  EXPECT_THAT(message_of<CheckpointError>([&] { load_checkpoint(path); }), HasSubstr(file));
}

// Counts the steps of a second save, then fails each of them in turn, for five reasons.
TEST_F(Checkpoints, EveryFailingStepOfASaveLeavesTheEarlierOnesAndIsNamed) {
  int total = 0;
  store(2).save(1, content_at(1));
  files::set_fault_hook([&](Operation, const std::string&) { return ++total, Fault{}; });
  store(2).save(2, content_at(2));
  EXPECT_GT(total, 25);
  for (int trial = 0; trial < 5 * total; ++trial) {
    const int fail_at = trial / 5 + 1;
    const int error = std::array{EIO, ENOSPC, EROFS, EACCES, EDQUOT}[size_t(trial % 5)];
    files::set_fault_hook({});
    files::remove_tree(folder());
    store(2).save(1, content_at(1));
    int step = 0;
    bool no_space = false, rotating = false;
    files::set_fault_hook([&](Operation operation, const std::string& path) {
      if (++step != fail_at) return Fault{};
      no_space = operation == Operation::space;
      rotating = operation == Operation::open && path.find(".tmp") == std::string::npos &&
                 path.find("step-") != std::string::npos;
      return no_space ? Fault{0, 1000} : Fault{error, 3};
    });
    const std::string message =
        message_of<CheckpointError>([&] { store(2).save(2, content_at(2)); });
    files::set_fault_hook({});
    if (rotating) {
      EXPECT_EQ(message, "") << "what rotation cannot read it leaves alone";
      EXPECT_EQ(store().load_newest()->step, 2);
    } else {
      EXPECT_THAT(message,
                  AllOf(HasSubstr(folder()), HasSubstr(strerror(no_space ? ENOSPC : error))))
          << fail_at;
    }
    const auto loaded = store().load_newest();
    ASSERT_TRUE(loaded) << fail_at;
    expect_content(*loaded);
    EXPECT_NO_THROW(load_checkpoint(folder() + "/step-00000001"));
    store(2).save(3, content_at(3));
    EXPECT_EQ(store().load_newest()->step, 3);
  }
}

// Like the above with the process dying at the step; `keep_last` 1 so that the removal of the old
// one is among them.
TEST_F(Checkpoints, DyingAtAnyStepOfASaveLeavesACompleteCheckpoint) {
  store(1).save(1, content_at(1));
  int total = 0;
  files::set_fault_hook([&](Operation, const std::string&) { return ++total, Fault{}; });
  store(1).save(2, content_at(2));
  files::set_fault_hook({});
  for (const bool same_step : {false, true})
    for (int die_at = 1; die_at <= total; ++die_at) {
      files::remove_tree(folder());
      store(1).save(1, content_at(1));
      const pid_t child = fork();
      if (child == 0) {
        int step = 0;
        files::set_fault_hook([&](Operation, const std::string&) {
          if (++step == die_at) raise(SIGKILL);
          return Fault{};
        });
        store(1).save(same_step ? 1 : 2, content_at(same_step ? 1 : 2));
        _exit(0);
      }
      ASSERT_GT(child, 0);
      waitpid(child, nullptr, 0);
      const auto loaded = store().load_newest();
      ASSERT_TRUE(loaded) << die_at;
      expect_content(*loaded);
      store(1).save(3, content_at(3));
      EXPECT_THAT(files::list_folder(folder()), ElementsAre("last", "step-00000003")) << die_at;
    }
}

// Killed from outside at random moments, inside writes too.
TEST_F(Checkpoints, KilledAtRandomMomentsTheNewestIsAlwaysComplete) {
  constexpr int64_t size = 200'000;
  store(2, 1).save(1, content_at(1, size));
  std::mt19937 random(11);
  int64_t newest = 1;
  for (int round = 0; round < 25; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      for (int64_t step = newest + 1;; ++step)
        store(2, 1).save(step, content_at(step, size), double(step % 3));
    }
    ASSERT_GT(child, 0);
    usleep(2000 + random() % 60000);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    const auto loaded = store().load_newest();
    ASSERT_TRUE(loaded);
    expect_content(*loaded, size);
    EXPECT_GE(loaded->step, newest);
    EXPECT_EQ(loaded->step, store().steps().back())
        << "no folder with a final name is ever incomplete";
    newest = loaded->step;
  }
  EXPECT_GT(newest, 5) << "the rounds were too short to test anything";
}

TEST_F(Checkpoints, AFullDiskIsSaidBeforeAnythingIsWritten) {
  store().save(1, content_at(1));
  files::set_fault_hook([](Operation operation, const std::string&) {
    EXPECT_NE(operation, Operation::write);
    return operation == Operation::space ? Fault{0, 5 << 20} : Fault{};
  });
  EXPECT_THAT(message_of<CheckpointError>([&] { store().save(2, content_at(2, 1 << 20)); }),
              AllOf(HasSubstr(folder()), HasSubstr("No space left on device"),
                    HasSubstr("5.0 MiB are free")));
  EXPECT_THAT(message_of<CheckpointError>([&] { store().prepare(10 << 20); }),
              HasSubstr("14.0 MiB are needed"));
}

TEST_F(Checkpoints, ARealFullFileSystemKeepsThePrevious) {
  files::make_folder(folder());
  if (mount("tmpfs", folder().c_str(), "tmpfs", 0, "size=8m") != 0)
    GTEST_SKIP() << "a small file system cannot be mounted here: " << strerror(errno);
  store().save(1, content_at(1));
  const auto save_too_much = [&] { store().save(2, content_at(2, 1 << 20)); };
  const std::string at_once = message_of<CheckpointError>(save_too_much);
  files::set_fault_hook([](Operation operation, const std::string&) {
    return operation == Operation::space ? Fault{0, uint64_t(1) << 40} : Fault{};
  });
  const std::string in_a_write = message_of<CheckpointError>(save_too_much);
  const auto loaded = store().load_newest();
  const auto names = files::list_folder(folder());
  umount(folder().c_str());
  EXPECT_THAT(at_once, HasSubstr("are needed"));
  EXPECT_THAT(in_a_write, AllOf(HasSubstr("model.safetensors: No space left on device"),
                                HasSubstr("untouched")));
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->step, 1);
  EXPECT_THAT(names, ElementsAre("last", "step-00000001"));
}

TEST_F(Checkpoints, AFolderWithoutPermissionIsNamed) {
  store().save(1, content_at(1));
  chmod(temporary_.path().c_str(), 0755);
  chmod(folder().c_str(), 0555);
  const uid_t me = geteuid(), nobody = 65534;  // root is refused nothing
  ASSERT_EQ(me == 0 ? seteuid(nobody) : 0, 0);
  const std::string save = message_of<CheckpointError>([&] { store().save(2, content_at(2)); });
  const std::string prepare = message_of<CheckpointError>([&] { store().prepare(); });
  const int64_t newest = store().load_newest()->step;
  ASSERT_EQ(me == 0 ? seteuid(me) : 0, 0);
  chmod(folder().c_str(), 0755);
  EXPECT_THAT(save, AllOf(HasSubstr(folder()), HasSubstr("Permission denied")));
  EXPECT_THAT(prepare, AllOf(HasSubstr(folder()), HasSubstr("Permission denied")));
  EXPECT_EQ(newest, 1);
}

TEST_F(Checkpoints, AFolderThatCannotBeIsNamed) {
  spill(temporary_ / "checkpoints", "a file");
  EXPECT_THAT(message_of<CheckpointError>([&] { store().prepare(); }),
              AllOf(HasSubstr(folder()), HasSubstr("Not a directory")));
}

TEST_F(Checkpoints, OnlyFilesOfTheFormatAreTaken) {
  Checkpoint c = content_at(1);
  c.files["../model.safetensors"] = {};
  EXPECT_THROW(store().save(1, c), InternalError);
  EXPECT_THROW(CheckpointStore(folder(), 0, 1), InternalError);
}

}  // namespace
}  // namespace qt
