// tests/train/state_test.cpp -- state.json comes back as it was written, and what it says of the
// run that wrote it.
#include "train/state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"

namespace qt {
namespace {

TEST(TrainState, ComesBackFromJson) {
  TrainState state;
  state.at = {
      .phase = 1, .epoch = 2, .step = 3, .epochs_done = 4, .steps_done = 567, .calibrated = true};
  state.meter = {.loss = 0.1 + 0.2, .correct = 5, .images = 7};
  state.best_top1 = 100.0 / 3;
  state.projections = 11, state.run.seed = 12, state.threads = 2;
  state.run.library = "onednn", state.run.config_hash = "abc", state.run.program_version = "0.1";
  state.run.phases = {"float", "qat"};
  state.run.isa = "avx2", state.run.backward = "f32", state.run.saved = "f16";
  state.run.steps_per_epoch = 13, state.run.training_pictures = 14;
  state.engines = {{"convolution of codes 1x2x2x16 -> 16", "cuDNN 9.19.0 engine 38 (choice 2)"}};
  state.codes = {{"conv1.weight_quant", "-127..127"}};
  const TrainState back = state_from_json(to_json(state), "here");
  EXPECT_EQ(to_json(back), to_json(state));
  EXPECT_EQ(back.meter.loss, 0.1 + 0.2);  // bit for bit
  EXPECT_EQ(*back.best_top1, 100.0 / 3);
  EXPECT_EQ(back.run.phases, state.run.phases);
  EXPECT_EQ(back.engines, state.engines);
  EXPECT_EQ(back.codes, state.codes);
  EXPECT_TRUE(differences(back.run, state.run).empty());
}

TEST(TrainState, RefusesWhatItDidNotWrite) {
  for (const std::string text : {"", "{}", "[1]", "{\"format\": 99}"}) {
    try {
      state_from_json(text, "run/checkpoints/step-00000001");
      ADD_FAILURE() << text;
    } catch (const CheckpointError& e) {
      EXPECT_NE(std::string(e.what()).find("step-00000001/state.json"), std::string::npos);
    }
  }
}

std::string refusal_of_state(const std::string& text) {
  try {
    state_from_json(text, "here");
  } catch (const CheckpointError& e) {
    return e.what();
  }
  return "accepted";
}

TrainState some_state() {
  TrainState state;
  state.at = {.phase = 1, .epoch = 2, .step = 3, .epochs_done = 4, .steps_done = 567};
  state.meter = {.loss = 0.25, .correct = 5, .images = 7};
  state.threads = 2, state.run.phases = {"float", "qat"};
  return state;
}

TEST(TrainState, NamesTheKeyThatIsMissingOrOfAnotherKind) {
  const auto good = nlohmann::json::parse(to_json(some_state()));
  for (const auto& [key, value] : good.items()) {
    const std::string name = "'" + key + "'";
    for (const nlohmann::json& wrong :
         {nlohmann::json(-1), nlohmann::json(1.5), nlohmann::json("no"), nlohmann::json(1e300),
          nlohmann::json::array({1}), nlohmann::json(true), nlohmann::json()}) {
      if (wrong.type() == value.type() || (key == "best_top1" && wrong.is_number())) continue;
      auto changed = good;
      changed[key] = wrong;
      const std::string refused = refusal_of_state(changed.dump());
      if (key == "best_top1" && wrong.is_null()) continue;
      EXPECT_TRUE(refused.starts_with("here/state.json") && refused.find(name) != std::string::npos)
          << key << " " << wrong << ": " << refused;
    }
    auto less = good;
    less.erase(key);
    // Not in early checkpoints.
    const std::set<std::string> optional = {
        "world", "phases",   "engines", "codes",           "skipped",          "config",
        "isa",   "backward", "saved",   "steps_per_epoch", "training_pictures"};
    if (optional.contains(key)) continue;
    EXPECT_EQ(refusal_of_state(less.dump()), "here/state.json has no " + name);
  }
  auto changed = good;
  changed["meter"].erase("loss");
  EXPECT_EQ(refusal_of_state(changed.dump()), "here/state.json: 'meter' has no 'loss'");
  changed = good, changed["threads"] = 1000000;
  EXPECT_NE(
      refusal_of_state(changed.dump()).find("'threads' 1000000, wanted an integer from 0 to 4096"),
      std::string::npos);
}

TEST(TrainState, IsRefusedAtEveryTruncationAndSurvivesEveryFlippedByte) {
  const std::string good = to_json(some_state());
  for (size_t size = 0; size + 2 < good.size(); ++size)
    EXPECT_NE(refusal_of_state(good.substr(0, size)), "accepted") << size;
  for (size_t i = 0; i < good.size(); ++i)
    for (const char byte : {'\0', '"', '{', '9', '\xff'}) {
      std::string changed = good;
      changed[i] = byte;
      refusal_of_state(changed);  // throws nothing else
    }
}

TEST(TrainState, NamesWhatIsNotAsInTheRunOfTheCheckpoint) {
  TrainState then = some_state();
  then.run.world = 2, then.run.library = "onednn", then.run.config_hash = "a",
  then.run.program_version = "0.1";
  then.run.isa = "avx512_bf16", then.run.backward = "bf16", then.run.saved = "f16";
  then.run.steps_per_epoch = 8, then.run.training_pictures = 128;
  EXPECT_TRUE(differences(then.run, then.run).empty());
  TrainState now = then;
  now.run.world = 1, now.run.library = "reference", now.run.config_hash = "b",
  now.run.program_version = "0.2";
  now.run.isa = "avx2", now.run.backward = "f32", now.run.saved = "f32";
  now.run.steps_per_epoch = 4, now.run.training_pictures = 64;
  const std::string bits = ": the last bits may differ",
                    course = ": the run goes on, but not as it would have";
  EXPECT_THAT(
      differences(then.run, now.run),
      testing::ElementsAre(
          "the checkpoint's number of processes is 2, this run's is 1: the order of pictures is "
          "the "
          "same, the last bits are not",
          "the checkpoint's config is another one (its values are not known)" + course,
          "the checkpoint's program version is 0.1, this run's is 0.2" + bits,
          "the checkpoint's library is onednn, this run's is reference" + bits,
          "the checkpoint's instruction set is avx512_bf16, this run's is avx2" + bits,
          "the checkpoint's precision of backward convolutions is bf16, this run's is f32" + bits,
          "the checkpoint's train.saved is f16, this run's is f32" + bits,
          "the checkpoint's number of training pictures is 128, this run's is 64" + course,
          "the checkpoint's number of steps an epoch is 8, this run's is 4" + course));
}

TEST(TrainState, NamesTheConfigKeysThatHaveOtherValues) {
  RunIdentity then;
  then.config = {{"a", "1"}, {"b", "2"}, {"c", "3"}};
  RunIdentity now = then;
  then.config_hash = "x", now.config_hash = "y";
  EXPECT_TRUE(differences(then, now).empty()) << "what else is in the hash does not matter";
  now.config = {{"a", "1"}, {"b", "5"}, {"d", "4"}};
  const std::string course = ": the run goes on, but not as it would have";
  EXPECT_THAT(differences(then, now),
              testing::ElementsAre("the checkpoint's config is another one (b was 2, is 5; c was "
                                   "3, is not set; d was not set, is 4)" +
                                   course));
  for (int i = 0; i < 9; ++i) now.config["e" + std::to_string(i)] = "0";
  EXPECT_THAT(differences(then, now),
              testing::ElementsAre(testing::EndsWith("; and 6 more)" + course)));
}

TEST(TrainState, OfAnEarlyCheckpointNothingIsSaidThatItDoesNotKnow) {
  auto j = nlohmann::json::parse(to_json(some_state()));
  for (const char* key : {"isa", "backward", "saved", "steps_per_epoch", "training_pictures"})
    j.erase(key);
  TrainState now = some_state();
  now.run.isa = "avx2", now.run.backward = now.run.saved = "f32", now.run.steps_per_epoch = 4,
  now.run.training_pictures = 64;
  EXPECT_TRUE(differences(state_from_json(j.dump(), "here").run, now.run).empty());
}

}  // namespace
}  // namespace qt
