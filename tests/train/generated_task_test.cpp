// tests/train/generated_task_test.cpp -- the built-in pictures need a network: a linear model of
// the pixels fails on them, a small ResNet does not.
#include <gtest/gtest.h>

#include <string>

#include "tests/core/base/temporary_folder.h"
#include "train/trainer.h"

namespace qt {
namespace {

// Top-1 on the test pictures after float training.
double top1_after(const std::string& model, const std::string& training) {
  Experiment experiment;
  load_config_text(experiment,
                   "model: " + model +
                       "\ndata: {kind: generated, image_size: 32, train_images: 12288, "
                       "test_images: 2000, augmentation: {crop: none, flip: false}}\n"
                       "train: {batch: 64, qat: {epochs: 0}, float: " +
                       training + "}\n",
                   "test.yaml");
  const test::TemporaryFolder folder;
  const RunFolder run = RunFolder::create({.dir = folder.path(), .name = "run"});
  Trainer trainer(experiment, {.show_progress = false});
  trainer.open(&run, {});
  const StopRequests requests;
  EXPECT_EQ(trainer.run(requests), Trainer::Outcome::done);
  return trainer.last_evaluation()->top1;
}

TEST(GeneratedTaskLong, ALinearModelLearnsSomethingAndFails) {
  const double top1 = top1_after("{name: mlp, hidden: []}", "{epochs: 20, lr: 0.002}");
  RecordProperty("top1", std::to_string(top1));
  EXPECT_GT(top1, 15) << "chance is 10";
  EXPECT_LT(top1, 60);
}

TEST(GeneratedTaskLong, ASmallResNetLearnsIt) {
  const double top1 = top1_after("{name: resnet20}", "{epochs: 10, lr: 0.1}");
  RecordProperty("top1", std::to_string(top1));
  EXPECT_GT(top1, 95);
}

}  // namespace
}  // namespace qt
