// tests/data/cifar_test.cpp -- the official CIFAR binary layout, written here record by record.
#include <gtest/gtest.h>

#include "tests/data/files.h"

namespace qt {
namespace {

using test::message_of;
using test::TemporaryFolder;

std::string record(std::vector<int> labels, int first) {
  std::string bytes(labels.begin(), labels.end());
  for (int c = 0; c < 3; ++c)
    for (int p = 0; p < 1024; ++p) bytes.push_back(char(first + c * 50 + p % 32));
  return bytes;
}

const std::string names10 =
    "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";

void write_cifar10(const TemporaryFolder& folder, const std::string& prefix = "") {
  for (int j = 1; j <= 5; ++j)
    folder.write(prefix + "data_batch_" + std::to_string(j) + ".bin",
                 record({j}, j) + record({9}, 90 + j));
  folder.write(prefix + "test_batch.bin", record({3}, 7));
  folder.write(prefix + "batches.meta.txt", names10);
}

DatasetSpec spec_of(const TemporaryFolder& folder, const std::string& kind = "cifar10") {
  return {.kind = kind, .path = folder.text()};
}

TEST(Cifar, ReadsTheOfficialLayoutFromTheFolderOrItsParent) {
  const TemporaryFolder inside, parent;
  write_cifar10(inside);
  write_cifar10(parent, "cifar-10-batches-bin/");
  for (const TemporaryFolder* folder : {&inside, &parent}) {
    const auto train = make_dataset(spec_of(*folder), Split::train);
    ASSERT_EQ(train->size(), 10);
    EXPECT_EQ(train->classes()[3], "cat");
    EXPECT_EQ(train->label(4), 3);
    EXPECT_EQ(train->label(5), 9);
    const std::vector<uint8_t> picture =
        test::picture_of(*train, 5);  // second record of data_batch_3.bin
    ASSERT_EQ(picture.size(), 3072u);
    EXPECT_EQ(picture[0], 93);            // row 0, column 0, red
    EXPECT_EQ(picture[3 * 33 + 2], 194);  // row 1, column 1, blue
    EXPECT_TRUE(train->name(5).ends_with("data_batch_3.bin record 1")) << train->name(5);
    EXPECT_EQ(make_dataset(spec_of(*folder), Split::test)->label(0), 3);
  }
}

TEST(Cifar, Of100ClassesUsesTheFineLabel) {
  const TemporaryFolder folder;
  std::string names;
  for (int i = 0; i < 100; ++i) names += "fine" + std::to_string(i) + "\r\n";
  folder.write("cifar-100-binary/train.bin", record({7, 42}, 1));
  folder.write("cifar-100-binary/test.bin", record({19, 99}, 2));
  folder.write("cifar-100-binary/fine_label_names.txt", names);
  const auto train = make_dataset(spec_of(folder, "cifar100"), Split::train);
  EXPECT_EQ(train->label(0), 42);
  EXPECT_EQ(train->classes()[42], "fine42");
  EXPECT_EQ(test::picture_of(*train, 0)[0], 1);
  EXPECT_EQ(make_dataset(spec_of(folder, "cifar100"), Split::test)->label(0), 99);
}

// The message for a folder after `change`, with the folder's name replaced by PATH.
std::string message_after(const std::function<void(const TemporaryFolder&, DatasetSpec&)>& change) {
  const TemporaryFolder folder;
  write_cifar10(folder);
  DatasetSpec spec = spec_of(folder);
  change(folder, spec);
  std::string text = message_of<Error>([&] { make_dataset(spec, Split::train); });
  test::replace_all(text, folder.text(), "PATH");
  return text;
}

TEST(Cifar, NamesTheFileAndTheCauseOfBadInput) {
  using F = const TemporaryFolder&;
  EXPECT_EQ(message_after([](F, DatasetSpec& spec) { spec.path.clear(); }),
            "data.path is empty; cifar10 needs the folder that holds "
            "cifar-10-batches-bin/data_batch_1.bin");
  EXPECT_EQ(message_after([](F, DatasetSpec& spec) { spec.path += "/none"; }),
            "data.path 'PATH/none' does not exist");
  EXPECT_EQ(message_after([](F folder, DatasetSpec&) {
              std::filesystem::remove(folder.text() + "/data_batch_1.bin");
            }),
            "data.path 'PATH' holds neither data_batch_1.bin nor "
            "cifar-10-batches-bin/data_batch_1.bin, as the binary "
            "version of cifar10 does");
  EXPECT_EQ(message_after([](F folder, DatasetSpec&) {
              std::filesystem::remove(folder.text() + "/data_batch_4.bin");
            }),
            "'PATH/data_batch_4.bin' cannot be opened");
  EXPECT_EQ(message_after([](F folder, DatasetSpec&) {
              folder.write("data_batch_2.bin", std::string(4000, 1));
            }),
            "'PATH/data_batch_2.bin' has 4000 bytes, not a multiple of the 3073 bytes of a cifar10 "
            "record: truncated or "
            "not cifar10 binary");
  EXPECT_EQ(message_after([](F folder, DatasetSpec&) { folder.write("data_batch_2.bin", ""); }),
            "'PATH/data_batch_2.bin' has 0 bytes, not a multiple of the 3073 bytes of a cifar10 "
            "record: truncated or not "
            "cifar10 binary");
  EXPECT_EQ(message_after([](F folder, DatasetSpec&) {
              folder.write("data_batch_2.bin", record({1}, 0) + record({10}, 0));
            }),
            "'PATH/data_batch_2.bin' record 1 has label 10; allowed: 0 to 9");
  EXPECT_EQ(
      message_after([](F folder, DatasetSpec&) { folder.write("batches.meta.txt", "a\nb\n"); }),
      "'PATH/batches.meta.txt' names 2 classes; cifar10 has 10");
  EXPECT_EQ(
      message_after([](F, DatasetSpec& spec) { spec.image_size = 64; }),
      "data.image_size 64: cifar10 pictures are 32x32; allowed: 32, or 0 for the set's own size");
}

TEST(Cifar, UnknownKindListsTheKnownOnes) {
  DatasetSpec spec;
  spec.kind = "cifar11";
  const std::string message = message_of<ConfigError>([&] { make_dataset(spec, Split::train); });
  EXPECT_TRUE(message.starts_with("unknown data set (data.kind) 'cifar11'; known: ")) << message;
  for (const char* name : {"cifar10", "cifar100", "generated", "imagefolder"})
    EXPECT_NE(message.find(name), std::string::npos) << message;
}

}  // namespace
}  // namespace qt
