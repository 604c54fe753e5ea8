// tests/program/unfit_input_test.cpp -- things that are good each, and do not fit one another;
// files that are pipes and devices.
#include <nlohmann/json.hpp>

#include "deploy/model_file.h"
#include "tests/program/program.h"

namespace qt::program {
namespace {

class UnfitInput : public ProgramTest {
 protected:
  static std::vector<std::string> letters(int count) {
    std::vector<std::string> names;
    for (int i = 0; i < count; ++i) names.emplace_back(1, char('a' + i));
    return names;
  }
  std::vector<std::string> eval(const std::string& run,
                                const std::vector<std::string>& more) const {
    std::vector<std::string> all = {"eval", path(run)};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

TEST_F(UnfitInput, AProgramIsNotEvaluatedOnOtherClassesOrOtherSizes) {
  ASSERT_EQ(run(tiny({"train.float.epochs=0"})).code, 0);
  const std::string model = "runs/run/export/model.qat";
  const std::vector<std::string> pictures = {"data.kind=imagefolder",
                                             "data.path=" + path("pictures")};
  picture_folder(letters(8), 2);
  EXPECT_FAILS(run(eval(model, pictures)), 3, "10 classes", "the data set has 8");
  EXPECT_FAILS(run(eval("runs/run", pictures)), 4, "fc.weight", "8 classes");
  picture_folder(letters(12), 2);  // labels 10 and 11 have no logit
  EXPECT_FAILS(run(eval(model, pictures)), 3, "10 classes", "the data set has 12");
  EXPECT_FAILS(run(eval("runs/run", pictures)), 4, "fc.weight", "12 classes");
  std::vector<std::string> other = pictures;
  other.insert(other.end(), {"train.float.epochs=0", "--resume=auto"});
  const std::string config = read(path("runs/run/config.yaml"));
  EXPECT_FAILS(run(tiny(other)), 4, "fc.weight", "12 classes");
  EXPECT_EQ(read(path("runs/run/config.yaml")), config) << "the run is still what it was";
  EXPECT_FAILS(run(eval(model, {"data.image_size=32"})), 3, "16x16", "32x32", "data.image_size");
  for (const char* last : {"k", "l"}) {
    fs::remove_all(path("pictures/train") + "/" + last);
    fs::remove_all(path("pictures/test") + "/" + last);
  }
  const Result ten = run(eval(model, pictures));
  EXPECT_EQ(ten.code, 0) << ten.output;
  EXPECT_TRUE(has(ten.output, "warning: class 0 is 'angle'") && has(ten.output, "and 'a' in"))
      << ten.output;
}

// What is called wrong would be right.
TEST_F(UnfitInput, AProgramIsNotEvaluatedOnItsClassesInAnotherOrder) {
  ASSERT_EQ(run(tiny({"train.float.epochs=0"})).code, 0);
  Program program = load_program(path("runs/run/export/model.qat"));
  std::swap(program.class_names.at(2), program.class_names.at(5));
  save_program(path("swapped.qat"), program);
  EXPECT_FAILS(run(eval("swapped.qat", {"--config", path("runs/run/config.yaml")})), 3,
               "class 2 is 'dots' in the", "another order");
}

TEST_F(UnfitInput, PicturesArePreparedAsTheProgramWasMadeFor) {
  picture_folder(letters(10), 2);
  const std::vector<std::string> set = {"train.float.epochs=0", "data.kind=imagefolder",
                                        "data.path=" + path("pictures"), "train.batch=4"};
  std::vector<std::string> resized = set;
  resized.emplace_back("data.resize_size=18");
  ASSERT_EQ(run(tiny(resized)).code, 0);
  ASSERT_EQ(run(tiny(set, "other")).code, 0);
  const std::string model = "runs/run/export/model.qat";
  const auto predictions = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = {"--predictions", path("p.safetensors")};
    all.insert(all.end(), more.begin(), more.end());
    const Result result = run(eval(model, all));
    EXPECT_EQ(result.code, 0) << result.output;
    const bool warned = has(result.output, "made for pictures whose shorter side becomes 18");
    return std::pair(read(path("p.safetensors")), warned);
  };
  const auto wanted = predictions({});
  EXPECT_FALSE(wanted.second);
  EXPECT_TRUE(predictions({"--config", path("runs/other/config.yaml")}) == wanted);
  const auto smaller = predictions({"data.resize_size=16"});
  EXPECT_TRUE(smaller.second);
  EXPECT_FALSE(smaller.first == wanted.first);
}

TEST_F(UnfitInput, ACheckpointIsNotContinuedInAnotherPhase) {
  // --max-time 0s: stopped after the first step.
  ASSERT_EQ(run(tiny({"--max-time", "0s"}, "float")).code, 75);
  EXPECT_FAILS(run(tiny({"--resume=auto", "train.float.epochs=0"}, "float")), 4,
               "stands in phase 1 of float, qat", "the phases of this config are: qat");
  ASSERT_EQ(run(tiny({"--max-time", "0s", "train.float.epochs=0"}, "qat")).code, 75);
  EXPECT_FAILS(run(tiny({"--resume=auto"}, "qat")), 4, "stands in phase 1 of qat",
               "the phases of this config are: float, qat");
  ASSERT_EQ(run(tiny({}, "both")).code, 0);
  const std::string done = read(path("runs/both/STATUS.json"));
  EXPECT_FAILS(run(tiny({"--resume=auto", "train.qat.epochs=0"}, "both")), 4,
               "beyond the end of this config's training");
  EXPECT_FAILS(run(tiny({"--resume=auto", "train.qat.epochs=3"}, "both")), 4, "after 2 epochs",
               "in this config they have 4", "train.init_from");
  EXPECT_EQ(read(path("runs/both/STATUS.json")), done) << "nothing was done to the complete run";
  // Another phase may follow what is complete.
  ASSERT_EQ(run(tiny({"train.qat.epochs=0"}, "more")).code, 0);
  const Result more = run(tiny({"--resume=auto"}, "more"));
  EXPECT_EQ(more.code, 0) << more.output;
  EXPECT_TRUE(has(more.output, "integer-program top-1")) << more.output;
}

TEST_F(UnfitInput, ACompleteRunIsNotTouchedByAnotherConfig) {
  ASSERT_EQ(run(tiny({"train.float.epochs=0"})).code, 0);
  const auto files = [&] {
    return final_bytes() + read(path("runs/run/export/best.qat")) +
           read(path("runs/run/config.yaml"));
  };
  const std::string before = files();
  const std::string another = "the checkpoint's config is another one";
  for (const auto& [other, change] :
       {std::pair{"data.workers=3", ""},
        {"data.test_images=5", " (data.test_images was 40, is 5): "},
        {"train.qat.lr=0.1", " (train.qat.lr was 0.005, is 0.1): "}}) {
    const Result result = run(tiny({"--resume=auto", "train.float.epochs=0", other}));
    EXPECT_EQ(result.code, 0) << result.output;
    EXPECT_EQ(has(result.output, another), *change != '\0') << result.output;
    EXPECT_TRUE(
        has(result.output, *change ? another + change : "") &&
        has(result.output, "the run is complete: its checkpoints, config and programs stay"))
        << result.output;
  }
  EXPECT_TRUE(files() == before);
  const std::string program = read(path("runs/run/export/model.qat"));
  fs::remove_all(path("runs/run/export"));
  ASSERT_EQ(run(tiny({"--resume=auto", "train.float.epochs=0"})).code, 0);
  EXPECT_TRUE(read(path("runs/run/export/model.qat")) == program) << "it can be had again";
}

TEST_F(UnfitInput, StepsAreNotTakenForOtherCodes) {
  const std::vector<std::string> qat = {"train.float.epochs=0"};
  const auto with = [&](std::vector<std::string> more, const std::string& name = "run") {
    more.insert(more.end(), qat.begin(), qat.end());
    return run(tiny(more, name));
  };
  ASSERT_EQ(with({"--max-time", "0s"}).code, 75);
  const std::string status = read(path("runs/run/STATUS.json"));
  EXPECT_FAILS(with({"--resume=auto", "quant.weights.bits=4"}), 4, "has codes -127..127 for",
               "this config -7..7", "another quant section");
  EXPECT_FAILS(with({"--resume=auto", "quant.residual=both"}), 4, "has no step for",
               "another quant section");
  EXPECT_EQ(read(path("runs/run/STATUS.json")), status);
  ASSERT_EQ(with({"--resume=auto"}).code, 0);
  const std::vector<std::string> from = {"train.init_from=" + path("runs/run"),
                                         "quant.calibration.batches=0"};
  EXPECT_FAILS(with({from[0], from[1], "quant.activations.bits=4"}, "four"), 4, "train.init_from",
               "has codes 0..127 for", "this config 0..15");
  const Result same = with(from, "same");
  EXPECT_EQ(same.code, 0) << same.output;
  EXPECT_TRUE(has(same.output, "quantizer steps are those of " + path("runs/run"))) << same.output;
}

TEST_F(UnfitInput, StepsThatNothingWouldChooseAreFoundAtTheStart) {
  EXPECT_FAILS(run(tiny({"quant.calibration.batches=0"})), 2, "quant.calibration.batches",
               "train.init_from");
  ASSERT_EQ(run(tiny({"train.qat.epochs=0"}, "float")).code, 0);
  const Result result = run(
      tiny({"quant.calibration.batches=0", "train.init_from=" + path("runs/float")}, "without"));
  EXPECT_FAILS(result, 4, "train.init_from", "has no quantizer steps");
  EXPECT_FALSE(has(result.output, "float, epoch 1")) << result.output;
  ASSERT_EQ(run(tiny({"--max-time", "0s"}, "begun")).code, 75);
  EXPECT_FAILS(run(tiny({"--resume=auto", "quant.calibration.batches=0",
                         "train.init_from=" + path("runs/float")},
                        "begun")),
               4, "has no quantizer steps", "where a run is continued");
  const Result none = run(tiny({"quant.calibration.batches=0", "train.forward=fake_quant",
                                "quant.weights.kind=none", "quant.activations.kind=none"},
                               "none"));
  EXPECT_EQ(none.code, 0) << "there is none to choose: " << none.output;
}

// The other way is refused: a checkpoint of lsq has floors, which minmax has not.
TEST_F(UnfitInput, StepsOfMinmaxAreTrainedOnByLsqWithAFloor) {
  const std::vector<std::string> minmax = {"train.float.epochs=0", "quant.weights.kind=minmax",
                                           "quant.activations.kind=minmax", "--max-time", "0s"};
  ASSERT_EQ(run(tiny(minmax)).code, 75);
  const Result result = run(tiny({"--resume=auto", "train.float.epochs=0"}));
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_TRUE(has(read(last_checkpoint() / "model.safetensors"), "conv1.weight_quant.scale_floor"));
}

TEST_F(UnfitInput, AFailedAttemptToResumeAKilledRunIsSaidWithItsStep) {
  ASSERT_EQ(run(tiny({"--max-time", "0s"})).code, 75);
  ASSERT_EQ(run(tiny({"--max-time", "0s", "--resume=auto"})).code, 75);
  const std::string status = path("runs/run/STATUS.json");
  // As a run leaves it that was killed between its second checkpoint and the status of it.
  write("runs/run/STATUS.json", R"({"state": "running", "step": 1})");
  EXPECT_FAILS(run(tiny({"--resume=auto", "train.float.epochs=0"})), 4, "stands in phase 1");
  auto j = nlohmann::json::parse(read(status));
  EXPECT_EQ(j["state"], "failed");
  EXPECT_EQ(j["step"], 2) << "the checkpoint's";
  for (const auto& entry : fs::directory_iterator(last_checkpoint().parent_path()))
    if (entry.is_directory()) fs::resize_file(entry.path() / "model.safetensors", 10);
  EXPECT_FAILS(run(tiny({"--resume=auto"})), 4, "can be used");
  j = nlohmann::json::parse(read(status));
  EXPECT_EQ(j["state"], "failed");
  EXPECT_EQ(j["step"], 2) << "what was known before";
}

TEST_F(UnfitInput, TestPicturesOfAnotherSizeAreFoundBeforeTheFirstStep) {
  picture_folder();
  for (const auto& entry : fs::recursive_directory_iterator(path("pictures/test")))
    if (entry.is_regular_file())
      std::ofstream(entry.path(), std::ios::binary) << "P6\n20 20\n255\n"
                                                    << std::string(20 * 20 * 3, 'x');
  const std::vector<std::string> set = {"data.kind=imagefolder", "data.path=" + path("pictures"),
                                        "data.image_size=0", "train.batch=8"};
  EXPECT_FAILS(run(tiny(set)), 3, "are 16x16", "its test pictures 20x20", "data.image_size");
  EXPECT_FALSE(fs::exists(path("runs")));
  std::vector<std::string> data = {"data", tiny_config()};
  data.insert(data.end(), set.begin(), set.end());
  EXPECT_FAILS(run(data), 3, "are 16x16", "its test pictures 20x20");
}

TEST_F(UnfitInput, DataCountsAllBadPicturesAndDoesWhatTheConfigSays) {
  picture_folder();
  for (const char* file : {"train/pear/3.jpg", "train/pear/4.jpg", "test/apple/x.jpg"})
    write(std::string("pictures/") + file, "\xff\xd8\xff\xe0 this is no picture");
  const auto data = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = {"data", tiny_config(), "data.kind=imagefolder",
                                    "data.path=" + path("pictures")};
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  };
  const auto names_all = [&](const std::string& text) {
    for (const char* file : {"train/pear/3.jpg", "train/pear/4.jpg", "test/apple/x.jpg"})
      EXPECT_TRUE(has(text, std::string("  bad: '") + path("pictures/") + file)) << text;
  };
  write("pictures/train/loose.ppm", "not in a class folder");
  const Result stop = data({});
  EXPECT_TRUE(has(stop.output, "train: 26 pictures of 16x16, 2 classes; 2 cannot be read") &&
              has(stop.output, "outside of class folders: loose.ppm"))
      << stop.output;
  EXPECT_FALSE(has(stop.output, "skipped")) << stop.output;
  EXPECT_FAILS(stop, 3, "3 pictures cannot be read; data.on_error=skip");
  names_all(stop.output);
  const Result few = data({"data.on_error=skip"});
  EXPECT_FAILS(few, 3, "2 of the 26 train pictures cannot be read", "data.max_bad_fraction = 0.01");
  names_all(few.output);
  const Result skip = data({"data.on_error=skip", "data.max_bad_fraction=0.1"});
  EXPECT_EQ(skip.code, 0) << skip.output;
  EXPECT_TRUE(has(skip.output, "3 pictures cannot be read and are skipped")) << skip.output;
  names_all(skip.output);
}

TEST_F(UnfitInput, WhatCannotBeWrittenIsSaidAndTheResultIsNotLost) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full on this system";
  ASSERT_EQ(run(tiny({"train.float.epochs=0"})).code, 0);
  const Result full = run(eval("runs/run", {"--predictions", "/dev/full"}));
  EXPECT_FAILS(full, 4, "cannot write /dev/full: No space left on device", "integer-program top-1");
  EXPECT_TRUE(fs::is_character_file("/dev/full"));
  const Result nowhere = run(eval("runs/run", {"--predictions", path("none/a.safetensors")}));
  EXPECT_FAILS(nowhere, 4, "none/a.safetensors", "No such file");
  EXPECT_FALSE(has(nowhere.output, "top-1")) << "it is known before the pictures are looked at";
  for (const std::string verb :
       {"eval runs/run", "inspect runs/run", "doctor", "data tiny.yaml", "tiny.yaml --dump-config",
        "tiny.yaml --dry-run", "--help", "tiny.yaml --run-dir runs --name again --no-progress"})
    EXPECT_FAILS(shell("\"$QATTRAIN\" " + verb + " >/dev/full"), 4,
                 "error: standard output cannot be written: No space left on device");
  EXPECT_FAILS(shell("\"$QATTRAIN\" eval runs/run --predictions p.safetensors >/dev/full"), 4,
               "standard output");
  EXPECT_TRUE(fs::exists(path("p.safetensors")));
  // The run itself is complete.
  EXPECT_TRUE(fs::exists(path("runs/again/export/model.qat")));
  const Result closed = shell("\"$QATTRAIN\" tiny.yaml --run-dir runs --name closed >&- 2>&-");
  EXPECT_EQ(closed.code, 0) << closed.output;
  EXPECT_TRUE(final_bytes("closed") == final_bytes("again"));
}

TEST_F(UnfitInput, AConfigMayComeFromAPipe) {
  tiny_config();
  const std::string rest =
      " train.float.epochs=0 --run-dir runs --no-progress --limit-train-batches 1";
  const Result piped = shell("cat tiny.yaml | \"$QATTRAIN\" /dev/stdin" + rest);
  EXPECT_EQ(piped.code, 0) << piped.output;
  EXPECT_EQ(read(path("runs/run/config.orig.yaml")), read(path("tiny.yaml")));
  const Result fifo = shell("mkfifo pipe; cat tiny.yaml >pipe & \"$QATTRAIN\" pipe" + rest);
  EXPECT_EQ(fifo.code, 0) << fifo.output;
  EXPECT_TRUE(fs::exists(path("runs/run-2/config.yaml")));
  const Result data = shell("cat tiny.yaml | \"$QATTRAIN\" data /dev/stdin");
  EXPECT_EQ(data.code, 0) << data.output;
  const Result outside = shell(
      "cp runs/run/export/model.qat .; cat tiny.yaml | \"$QATTRAIN\" eval model.qat --config "
      "/dev/stdin");
  EXPECT_EQ(outside.code, 0) << outside.output;
  const Result typo = shell("echo 'trian: {}' | \"$QATTRAIN\" /dev/stdin");
  EXPECT_FAILS(typo, 2, "/dev/stdin:1:1", "did you mean 'train'?");
}

TEST_F(UnfitInput, NumbersThatDoNotFitAreNotBentUntilTheyDo) {
  EXPECT_FAILS(run(tiny({"--seed", "99999999999999999999"})), 2, "--seed", "99999999999999999999");
  EXPECT_FAILS(run(tiny({"--limit-train-batches", "0"})), 2, "got '0', want an integer from 1 to");
  EXPECT_FAILS(run({"eval", path("runs"), "--limit", "1x"}), 2, "--limit", "got '1x'");
}

TEST_F(UnfitInput, ABatchOfOneValuePerChannelIsRefused) {
  EXPECT_FAILS(run(tiny({"model.name=mlp", "train.batch=1"})), 2, "linear0",
               "more than one value per channel", "a larger batch");
}

TEST_F(UnfitInput, ANetworkOfAnotherQuantSectionIsNotTakenForAFloatOne) {
  ASSERT_EQ(run(tiny({"train.float.epochs=0"})).code, 0);
  EXPECT_FAILS(run(eval("runs/run", {"quant.residual=both"})), 4, "has no step for",
               ".add.act_quant", "another quant section");
}

TEST_F(UnfitInput, LayersWithoutCodesAreSimulated) {
  for (const std::string key : {"quant.overrides.fc={weights: {kind: none}}",
                                "quant.overrides.conv1={weights: {kind: none}}",
                                "quant.overrides.avgpool={activations: {kind: none}}",
                                "quant.overrides.\"layer1.*\"={activations: {kind: none}}"}) {
    EXPECT_FAILS(run(tiny({key}, "refused")), 2, "quant.overrides", "'none' needs",
                 "train.forward=fake_quant");
    const Result result = run(tiny(
        {key, "train.forward=fake_quant", "train.float.epochs=0", "--limit-train-batches", "1"},
        "none"));
    EXPECT_EQ(result.code, 0) << result.output;
    EXPECT_TRUE(has(result.output, "simulated top-1")) << result.output;
    const Result again = run(eval("runs/none", {}));
    EXPECT_EQ(again.code, 0) << again.output;
    EXPECT_TRUE(has(again.output, "simulated top-1")) << again.output;
    fs::remove_all(path("runs"));
  }
}

}  // namespace
}  // namespace qt::program
