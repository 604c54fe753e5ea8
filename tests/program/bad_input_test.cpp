// tests/program/bad_input_test.cpp -- what people get wrong, the line they see for it, and the exit
// code.
#include "tests/program/program.h"

namespace qt::program {
namespace {

class BadInput : public ProgramTest {
 protected:
  // The lines that carry an error.
  static size_t error_lines(const std::string& output) {
    size_t count = 0;
    std::istringstream in(output);
    for (std::string line; std::getline(in, line);)
      count += line.find("error: ") != std::string::npos;
    return count;
  }

  std::vector<std::string> on_pictures(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {"data.kind=imagefolder", "data.path=" + path("pictures"),
                                    "train.batch=8"};
    all.insert(all.end(), more.begin(), more.end());
    return tiny(all);
  }
};

TEST_F(BadInput, AnUnknownKeyIsNamedWithPlaceAndSuggestion) {
  const std::string config = write("a.yaml", "quant:\n  weigths: {bits: 8}\n");
  EXPECT_FAILS(run({config}), 2, "a.yaml:2:3", "unknown key 'quant.weigths'",
               "did you mean 'weights'");
}

TEST_F(BadInput, NineBitsAreRefused) {
  EXPECT_FAILS(run(tiny({"quant.weights.bits=9"})), 2, "quant.weights.bits", "9", "[2, 8]");
}

TEST_F(BadInput, ANegativeLearningRateIsRefused) {
  EXPECT_FAILS(run(tiny({"train.float.lr=-0.1"})), 2, "train.float.lr", "-0.1", "greater than 0");
}

TEST_F(BadInput, AllConfigErrorsComeAtOnceAndNothingIsRun) {
  const Result result = run(tiny({"train.batch=0", "data.workers=-1", "model.name=resnet19"}));
  EXPECT_FAILS(result, 2, "train.batch", "data.workers", "resnet19", "resnet18");
  EXPECT_EQ(error_lines(result.output), 3u) << result.output;
  EXPECT_FALSE(fs::exists(path("runs")));
}

TEST_F(BadInput, AMissingConfigFileIsNamed) {
  EXPECT_FAILS(run({path("none.yaml")}), 2, "none.yaml");
}

TEST_F(BadInput, UnknownOptionsAreRefused) {
  EXPECT_FAILS(run({tiny_config(), "--fast"}), 2, "--fast");
  EXPECT_FAILS(run({tiny_config(), "--max-time", "soon"}), 2, "soon", "3h50m");
  EXPECT_FAILS(run({}), 2, "no config file");
}

TEST_F(BadInput, AGpuThatIsNotThereIsRefused) {
  EXPECT_FAILS(run(tiny({"--device", "cuda:999"})), 2, "cuda:999", "allowed: auto, cpu");
}

TEST_F(BadInput, Bf16IsRefusedByAProcessorThatDoesNotMultiplyIt) {
  const std::string limit = "export QATTRAIN_MAX_ISA=avx2";
  EXPECT_FAILS(run(tiny({"train.backward=bf16"}), limit), 2, "train.backward bf16",
               "instruction set is avx2", "takes auto or f32");
  EXPECT_FAILS(run(tiny({"train.float_forward=bf16"}), limit), 2, "train.float_forward bf16",
               "instruction set is avx2", "takes auto or f32");
  for (const char* allowed : {"train.backward=auto", "train.backward=f32"}) {
    const Result result = run(tiny({allowed, "--dry-run"}), limit);
    EXPECT_EQ(result.code, 0) << result.output;
  }
}

TEST_F(BadInput, EvalLooksForTheGpuThatTheConfigNames) {
  ASSERT_EQ(run(tiny({"--limit-train-batches", "1"})).code, 0);
  const std::vector<std::string> eval = {"eval", path("runs/run"), "device=cuda:999"};
  EXPECT_FAILS(run(eval), 2, "device cuda:999");
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{"--device", "cpu"}, {"--engine", "reference"}}) {
    std::vector<std::string> all = eval;
    all.insert(all.end(), more.begin(), more.end());
    const Result result = run(all);
    EXPECT_EQ(result.code, 0) << result.output;
  }
}

TEST_F(BadInput, AMissingDataFolderIsNamed) {
  const Result result = run(tiny({"data.kind=imagefolder", "data.path=/nowhere/pictures"}));
  EXPECT_FAILS(result, 3, "/nowhere/pictures");
  EXPECT_EQ(error_lines(result.output), 1u) << result.output;
}

TEST_F(BadInput, ACorruptPictureStopsTheRunAndIsNamed) {
  picture_folder();
  write("pictures/train/pear/3.jpg", "\xff\xd8\xff\xe0 this is no picture");
  const Result result = run(on_pictures());
  EXPECT_FAILS(result, 3, "train/pear/3.jpg");
  EXPECT_EQ(error_lines(result.output), 1u) << result.output;
}

TEST_F(BadInput, ACorruptPictureIsSkippedAndListedWhereAsked) {
  picture_folder();
  write("pictures/train/pear/3.jpg", "\xff\xd8\xff\xe0 this is no picture");
  const Result result = run(on_pictures({"data.on_error=skip", "data.max_bad_fraction=0.1"}));
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_NE(read(path("runs/run/bad_samples.txt")).find("train/pear/3.jpg"), std::string::npos);
}

// The lines of bad_samples.txt, which are sorted and different.
TEST_F(BadInput, TheListOfBadPicturesGrowsOverStopsAndErrors) {
  picture_folder();
  const auto list = [&] {
    std::vector<std::string> lines;
    std::istringstream in(read(path("runs/run/bad_samples.txt")));
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    EXPECT_TRUE(std::is_sorted(lines.begin(), lines.end()));
    EXPECT_EQ(std::adjacent_find(lines.begin(), lines.end()), lines.end());
    return lines;
  };
  // Known from the start, whatever pictures the first step sees.
  write("pictures/train/pear/3.bmp", "BM no picture");
  const std::vector<std::string> skipping = {"data.on_error=skip", "data.max_bad_fraction=0.1",
                                             "--resume=auto"};
  std::vector<std::string> one_step = skipping;
  one_step.insert(one_step.end(), {"--max-time", "0s"});
  ASSERT_EQ(run(on_pictures(one_step)).code, 75);
  ASSERT_EQ(list().size(), 1u);
  EXPECT_NE(list()[0].find("train/pear/3.bmp': BMP is not supported"), std::string::npos);
  // What an earlier process has seen stays.
  write("runs/run/bad_samples.txt", "'gone.jpg': the file is empty\n" + list()[0] + "\n");
  ASSERT_EQ(run(on_pictures(one_step)).code, 75);
  ASSERT_EQ(list().size(), 2u);
  EXPECT_EQ(list()[1], "'gone.jpg': the file is empty");
  for (const char* name : {"4", "5", "6"})
    write(std::string("pictures/test/pear/") + name + ".ppm", "no picture");
  EXPECT_FAILS(run(on_pictures(skipping)), 3, "data.max_bad_fraction = 0.1");
  EXPECT_EQ(list().size(), 5u) << "the third of 24 test pictures is one too many";
}

TEST_F(BadInput, AnEmptyClassIsNamed) {
  picture_folder();
  fs::create_directories(path("pictures/train/quince"));
  fs::create_directories(path("pictures/test/quince"));
  EXPECT_FAILS(run(on_pictures()), 3, "quince");
}

TEST_F(BadInput, ATruncatedCheckpointIsNamedAndTheOneBeforeIsTaken) {
  ASSERT_EQ(run(tiny()).code, 0);
  const std::string newest = last_checkpoint().string();
  fs::resize_file(newest + "/model.safetensors", 1000);
  EXPECT_FAILS(run({"eval", newest}), 4, "model.safetensors");
  EXPECT_FAILS(run(tiny({"--resume=" + newest})), 4, "model.safetensors");
  const Result resumed = run(tiny({"--resume=auto"}));
  EXPECT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_NE(resumed.output.find("checkpoint skipped: " + newest), std::string::npos)
      << resumed.output;
  EXPECT_NE(resumed.output.find("is kept as " + newest + ".unreadable"), std::string::npos)
      << resumed.output;
  EXPECT_EQ(fs::file_size(newest + ".unreadable/model.safetensors"), 1000u);
  EXPECT_GT(fs::file_size(newest + "/model.safetensors"), 1000u) << "reached again";
}

TEST_F(BadInput, AnUnreadableModelFileIsNamed) {
  ASSERT_EQ(run(tiny()).code, 0);
  fs::resize_file(path("runs/run/export/model.qat"), 500);
  EXPECT_FAILS(run({"eval", path("runs/run/export/model.qat")}), 4, "model.qat");
  EXPECT_FAILS(run({"eval", path("nothing")}), 4, "nothing");
}

TEST_F(BadInput, FirstWeightsOfAnotherNetworkAreRefused) {
  ASSERT_EQ(run(tiny()).code, 0);
  EXPECT_FAILS(run(tiny({"model.name=resnet32", "train.init_from=" + path("runs/run")}, "other")),
               4, "train.init_from");
}

TEST_F(BadInput, AFullDiskIsNamedAndTheLastCheckpointStays) {
  ASSERT_EQ(
      run(tiny({"train.qat.epochs=2", "--limit-train-batches", "2", "--max-time", "0s"})).code, 75);
  const std::string before = read(last_checkpoint() / "model.safetensors");
  ASSERT_FALSE(before.empty());
  // No file may grow beyond 64 blocks of 512 bytes: less than the weights take.
  const Result result =
      run(tiny({"train.qat.epochs=2", "--limit-train-batches", "2", "--resume=auto"}),
          "trap '' XFSZ; ulimit -f 64");
  EXPECT_FAILS(result, 4, "File too large");
  EXPECT_TRUE(read(last_checkpoint() / "model.safetensors") == before);
}

TEST_F(BadInput, DivergenceNamesTheStepAndKeepsTheCheckpoint) {
  const Result result = run(tiny({"train.float.lr=1e30", "train.float.epochs=3"}));
  EXPECT_FAILS(result, 5, "step ", "(float, epoch 1)", "is not finite");
  EXPECT_NE(read(path("runs/run/STATUS.json")).find("\"failed\""), std::string::npos);
}

// Steps that end with finite weights, far too large ones: the loss, the constants of the integer
// program or what is evaluated is not finite any more.
TEST_F(BadInput, ANetworkThatIsNotFiniteIsNoResult) {
  const std::string last = "the loss over the test pictures is not finite";
  for (const auto& [far, said] :
       {std::pair{std::vector<std::string>{"train.float.lr=1e15", "--limit-train-batches", "1"},
                  last},
        {{"train.float.lr=1e15", "--limit-train-batches", "1", "train.qat.epochs=0",
          "train.on_nan=skip"},
         last},
        {{"train.qat.lr=1e15", "--limit-train-batches", "1"}, "integer program is"}}) {
    fs::remove_all(path("runs"));
    EXPECT_FAILS(run(tiny(far)), 5, said);
    EXPECT_TRUE(has(read(path("runs/run/STATUS.json")), "\"failed\"")) << far[0];
  }
}

TEST_F(BadInput, EvalOfANetworkThatIsNotFiniteSaysSo) {
  // With skip another epoch might mend it: the first one's checkpoint is there, the second fails.
  EXPECT_FAILS(run(tiny({"train.float.lr=1e15", "--limit-train-batches", "1", "train.qat.epochs=0",
                         "train.float.epochs=2", "train.on_nan=skip"})),
               5, "loss nan", "the loss over the test pictures is not finite; the last checkpoint");
  EXPECT_FAILS(run({"eval", path("runs/run")}), 5, "loss nan", "are not all finite numbers");
}

TEST_F(BadInput, ARunNameThatIsTakenIsRefused) {
  ASSERT_EQ(run(tiny({"--limit-train-batches", "1"})).code, 0);
  EXPECT_FAILS(run(tiny()), 2, "--resume=auto");
}

TEST_F(BadInput, ResumeMustNeedsARun) { EXPECT_FAILS(run(tiny({"--resume=must"})), 2, "must"); }

TEST_F(BadInput, ARunThatIsContinuedByItsPathHasNoOtherName) {
  ASSERT_EQ(run(tiny()).code, 0);
  EXPECT_FAILS(run(tiny({"--resume=" + path("runs/run")}, "branch")), 2, "goes on in",
               "--run-dir and --name mean " + path("runs/branch"), "train.init_from");
  EXPECT_EQ(run(tiny({"--resume=" + path("runs/run")})).code, 0) << "its own name may be given";
}

TEST_F(BadInput, AWordThatIsNoVerbIsRefusedAsOne) {
  EXPECT_FAILS(run({"evla", path("runs/run")}), 2, "'evla'", "nor is it a verb",
               "train, eval, inspect, data, doctor");
}

TEST_F(BadInput, AConfigOfTheCommandLineIsTheOneThatIsMissing) {
  ASSERT_EQ(run(tiny({"train.float.epochs=0"})).code, 0);
  fs::rename(path("runs/run/export/model.qat"), path("lone.qat"));
  fs::rename(last_checkpoint(), path("lone"));
  EXPECT_FAILS(run({"eval", path("lone.qat"), "--config", path("none.yaml")}), 2, "none.yaml",
               "no such file");
  EXPECT_FAILS(run({"inspect", path("lone")}), 2, "give --config FILE");
  const Result result = run({"inspect", path("lone"), "--config", tiny_config()});
  EXPECT_EQ(result.code, 0) << result.output;
}

TEST_F(BadInput, AConfigOfNothingIsRefused) {
  for (const char* text : {"", "---\n", "null\n", "# keys to come\n"})
    EXPECT_FAILS(run({write("nothing.yaml", text)}), 2, "nothing.yaml", "want `key: value` lines");
}

}  // namespace
}  // namespace qt::program
