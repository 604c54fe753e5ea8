// tests/data/imagefolder_test.cpp -- folders of pictures: classes, sizes, bad input and what is
// said about it.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>

#include "data/decode.h"
#include "data/resize.h"
#include "tests/data/files.h"

namespace qt {
namespace {

namespace fs = std::filesystem;
using test::jpeg_of;
using test::message_of;
using test::smooth_picture;
using test::TemporaryFolder;

// Three pictures in each of the classes ant and bee, 20 x 20 unless said otherwise; numbers 0.. in
// file order.
void write_set(const TemporaryFolder& folder, int height = 20, int width = 20) {
  uint32_t number = 0;
  for (const char* split : {"train", "test"})
    for (const char* name : {"ant", "bee"})
      for (const char* file : {"a.jpg", "b.JPEG", "c.Jpg"})
        folder.write(std::string(split) + "/" + name + "/" + file,
                     jpeg_of(smooth_picture(height, width, number++)));
}

DatasetSpec spec_of(const TemporaryFolder& folder) {
  return {
      .kind = "imagefolder", .path = folder.text(), .cache_bytes = int64_t{1} << 30, .threads = 2};
}

std::vector<uint8_t> decoded(uint32_t number, int height = 20, int width = 20) {
  const std::string text = jpeg_of(smooth_picture(height, width, number));
  Image image;
  decode({text.begin(), text.end()}, "f", 1 << 20, image);
  return image.pixels;
}

TEST(ImageFolder, NumbersClassesByNameAndTakesAnyCaseOfExtension) {
  const TemporaryFolder folder;
  write_set(folder);
  folder.write("train/bee/notes.txt", "not a picture");
  folder.write("train/.hidden/x.jpg", "not a class");
  const auto train = make_dataset(spec_of(folder), Split::train);
  EXPECT_EQ(train->classes(), (std::vector<std::string>{"ant", "bee"}));
  ASSERT_EQ(train->size(), 6);
  EXPECT_EQ(train->height(), 20);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(train->label(i), i / 3);
    EXPECT_EQ(test::picture_of(*train, i), decoded(uint32_t(i))) << i;
  }
  EXPECT_EQ(train->name(4), folder.text() + "/train/bee/b.JPEG");
  EXPECT_EQ(test::picture_of(*make_dataset(spec_of(folder), Split::test), 0), decoded(6));
}

TEST(ImageFolder, TellsFormatsByContent) {
  const TemporaryFolder folder;
  write_set(folder);
  folder.write("train/ant/b.JPEG", test::ppm_of(smooth_picture(20, 20, 50)));
  EXPECT_EQ(test::picture_of(*make_dataset(spec_of(folder), Split::train), 1),
            smooth_picture(20, 20, 50).pixels);
}

TEST(ImageFolder, ReadsTheSameFromMemoryAndFromFiles) {
  const TemporaryFolder folder;
  write_set(folder);
  DatasetSpec streaming = spec_of(folder);
  streaming.cache_bytes = std::nullopt;  // as when nothing is said
  const auto memory = make_dataset(spec_of(folder), Split::train),
             files = make_dataset(streaming, Split::train);
  fs::remove_all(folder.text() + "/train/ant");
  EXPECT_EQ(test::picture_of(*memory, 0), decoded(0));
  EXPECT_EQ(message_of<DataError>([&] { test::picture_of(*files, 0); }),
            "'" + folder.text() + "/train/ant/a.jpg': cannot be opened: No such file or directory");
  EXPECT_EQ(test::picture_of(*memory, 5), test::picture_of(*files, 5));
}

TEST(ImageFolder, ResizesTheShorterSideAndCropsTheCentre) {
  const TemporaryFolder folder;
  write_set(folder, 60, 90);
  DatasetSpec spec = spec_of(folder);
  spec.image_size = 28;
  const auto train = make_dataset(spec, Split::train);
  EXPECT_EQ(train->resize_size(), 32);
  Image original, resized;
  EXPECT_EQ(train->original(2, original), 2);
  EXPECT_EQ(original.pixels, decoded(2, 60, 90));
  resized = resize_shorter_side(original, 32);
  std::vector<uint8_t> expected(28 * 28 * 3);
  centre_crop(resized, 28, 28, expected.data());
  EXPECT_EQ(test::picture_of(*train, 2), expected);
}

TEST(ImageFolder, LabelsFollowTheTrainingClassesWhereTheTestSetLacksOne) {
  const TemporaryFolder folder;
  write_set(folder);
  fs::rename(folder.text() + "/test", folder.text() + "/val");
  fs::remove_all(folder.text() + "/val/ant");
  const auto validation = make_dataset(spec_of(folder), Split::test);
  EXPECT_EQ(validation->size(), 3);
  EXPECT_EQ(validation->label(0), 1);
}

// The message for a set after `change`, with the folder's name replaced by PATH.
std::string message_after(const std::function<void(const TemporaryFolder&, DatasetSpec&)>& change,
                          Split split = Split::train) {
  const TemporaryFolder folder;
  write_set(folder);
  DatasetSpec spec = spec_of(folder);
  change(folder, spec);
  std::string text = message_of<DataError>([&] { make_dataset(spec, split); });
  test::replace_all(text, folder.text(), "PATH");
  return text;
}

using F = const TemporaryFolder&;

TEST(ImageFolder, RefusesOtherFormatsAtTheStartAndNamesWhatIsAllowed) {
  using namespace std::string_literals;
  for (const auto& [file, content, format] : {std::tuple{"d.BMP", "BM0123456789"s, "BMP"},
                                              {"d.webp", "RIFF0000WEBPVP8 "s, "WebP"},
                                              {"d.gif", "GIF89a"s, "GIF"},
                                              {"d.tif", "II*\0"s, "TIFF"},
                                              {"d.heic", "\0\0\0 ftypheic"s, "HEIC or AVIF"}}) {
    const auto add = [name = std::string("train/bee/") + file, content = content](
                         F folder, DatasetSpec& spec) {
      spec.cache_bytes = 0;  // nothing is decoded before it is asked for
      folder.write(name, content);
    };
    const std::string message = message_after(add);
    EXPECT_EQ(message, std::string("'PATH/train/bee/") + file + "': " + format +
                           " is not supported; supported: JPEG, PNG, PPM");
  }
}

TEST(ImageFolder, SkipsBmpWhereBadPicturesMayBeSkippedAndReadsAJpegOfThatName) {
  const TemporaryFolder folder;
  write_set(folder);
  folder.write("train/bee/d.bmp", "BM0123456789");
  folder.write("train/bee/e.bmp", jpeg_of(smooth_picture(20, 20, 60)));
  DatasetSpec spec = spec_of(folder);
  spec.on_error = OnError::skip;
  spec.max_bad_fraction = 0.5;
  const auto train = make_dataset(spec, Split::train);
  ASSERT_EQ(train->bad_samples().size(), 1u);
  EXPECT_EQ(train->bad_samples()[0].index, 6);
  EXPECT_EQ(test::picture_of(*train, 7), decoded(60));
  spec.max_bad_fraction = 0.1;
  EXPECT_NE(message_of<DataError>([&] {
              make_dataset(spec, Split::train);
            }).find("d.bmp': BMP is not supported; supported: JPEG, PNG, PPM"),
            std::string::npos);
}

TEST(ImageFolder, NamesWhatIsMissing) {
  const std::string needs =
      "imagefolder needs train/<class>/*.jpg and test/<class>/*.jpg (or val/) in it";
  EXPECT_EQ(message_after([](F, DatasetSpec& spec) { spec.path.clear(); }),
            "data.path is empty; it names a folder, and " + needs);
  EXPECT_EQ(message_after([](F, DatasetSpec& spec) { spec.path += "/none"; }),
            "data.path 'PATH/none' does not exist");
  EXPECT_EQ(message_after([](F, DatasetSpec& spec) { spec.path += "/train/ant/a.jpg"; }),
            "data.path 'PATH/train/ant/a.jpg' is not a folder");
  EXPECT_EQ(
      message_after([](F, DatasetSpec& spec) { spec.path += "/train"; }),
      "data.path 'PATH/train' has no sub-folder train; " + needs + "; folders found: ant, bee");
  EXPECT_EQ(message_after([](F folder, DatasetSpec&) { fs::remove_all(folder.text() + "/test"); },
                          Split::test),
            "data.path 'PATH' has no sub-folder test or val; folders found: train");
  EXPECT_EQ(message_after([](F folder, DatasetSpec&) {
              fs::remove_all(folder.text() + "/train/ant");
              fs::remove_all(folder.text() + "/train/bee");
            }),
            "folder 'PATH/train' holds no class folder");
  EXPECT_EQ(message_after([](F folder, DatasetSpec&) {
              fs::create_directories(folder.text() + "/train/cat");
            }),
            "class folder 'PATH/train/cat' holds no picture (.jpg, .jpeg, .png, .ppm, .pgm)");
  EXPECT_EQ(message_after(
                [](F folder, DatasetSpec&) { fs::create_directories(folder.text() + "/test/cat"); },
                Split::test),
            "class folder 'PATH/test/cat' is no class of the training set; its classes: ant, bee");
  EXPECT_EQ(message_after([](F folder, DatasetSpec&) {
              folder.write("train/ant/a.jpg", jpeg_of(smooth_picture(30, 20, 0)));
            }),
            "the pictures of 'PATH/train' differ in size: set data.image_size, for example to 224");
}

TEST(ImageFolder, NamesTheFirstBadPictureWhateverTheThreads) {
  for (int threads : {1, 4})
    EXPECT_EQ(message_after([&](F folder, DatasetSpec& spec) {
                spec.threads = threads;
                folder.write("train/bee/a.jpg", "hello");
                folder.write("train/bee/b.JPEG", "");
                folder.write("train/bee/c.Jpg", "hello");
              }),
              "'PATH/train/bee/a.jpg': not a JPEG, PNG or PPM picture (it starts with bytes 68 65 "
              "6c 6c)");
  EXPECT_EQ(message_after([](F folder, DatasetSpec&) { folder.write("train/ant/a.jpg", ""); }),
            "'PATH/train/ant/a.jpg': the file is empty");
  EXPECT_TRUE(message_after([](F folder, DatasetSpec&) {
                folder.write("train/ant/b.JPEG", jpeg_of(smooth_picture(20, 20, 1)).substr(0, 640));
              }).starts_with("'PATH/train/ant/b.JPEG': broken JPEG: "));
}

// Only every second picture is looked at to find the size of so many.
TEST(ImageFolder, WithoutImageSizeAPictureOfAnotherSizeIsABadOne) {
  const TemporaryFolder folder;
  for (int i = 0; i < 130; ++i)
    folder.write(
        "train/ant/" + std::to_string(1000 + i) + ".ppm",
        test::ppm_of(i == 7 ? smooth_picture(4, 6, 7) : smooth_picture(4, 4, uint32_t(i))));
  folder.write("train/bee/1.ppm", test::ppm_of(smooth_picture(4, 4, 1)));
  for (int64_t cache_bytes : {int64_t{0}, int64_t{1} << 20}) {
    DatasetSpec spec = spec_of(folder);
    spec.cache_bytes = cache_bytes;
    Image image;
    const auto read = [&] {
      const auto set = make_dataset(spec, Split::train);
      EXPECT_EQ(test::picture_of(*set, 6), smooth_picture(4, 4, 6).pixels);
      test::picture_of(*set, 7);
    };
    const std::string wanted = "'" + folder.text() +
                               "/train/ant/1007.ppm': 6 x 4 pixels in a set of 4 x 4: set "
                               "data.image_size, for example to 4";
    EXPECT_EQ(message_of<DataError>(read), wanted);
    spec.on_error = OnError::skip;
    spec.max_bad_fraction = 0.01;
    const auto skipping = make_dataset(spec, Split::train);
    EXPECT_EQ(skipping->original(7, image), 8);
    EXPECT_EQ(test::picture_of(*skipping, 7), smooth_picture(4, 4, 8).pixels);
    ASSERT_EQ(skipping->bad_samples().size(), 1u);
    EXPECT_EQ(skipping->bad_samples()[0].cause, wanted);
    spec.image_size = 4;  // as they come, all are made of one size
    EXPECT_EQ(make_dataset(spec, Split::train)->original(7, image), 7);
  }
}

TEST(ImageFolder, TrainingAndTestPicturesOfOtherSizesAreRefused) {
  const TemporaryFolder folder;
  write_set(folder);
  const auto message = [&](int image_size) {
    DatasetSpec spec = spec_of(folder);
    spec.image_size = image_size;
    const auto train = make_dataset(spec, Split::train), test = make_dataset(spec, Split::test);
    return message_of<DataError>([&] { check_alike(*train, *test, spec.path); });
  };
  EXPECT_EQ(message(0), "no error");
  for (const char* name : {"ant", "bee"})
    for (const char* file : {"a.jpg", "b.JPEG", "c.Jpg"})
      folder.write(std::string("test/") + name + "/" + file, jpeg_of(smooth_picture(24, 30, 1)));
  EXPECT_EQ(message(0), "the training pictures of '" + folder.text() +
                            "' are 20x20, its test pictures 24x30: set data.image_size, for "
                            "example to 20");
  EXPECT_EQ(message(16), "no error");
}

// A strip of one row is within every limit until its shorter side is made 32 pixels long.
TEST(ImageFolder, TreatsAStripThatCannotBeResizedAsABadPicture) {
  for (const auto& [height, width] : {std::pair{1, 65500}, {65500, 1}}) {
    const TemporaryFolder folder;
    write_set(folder, 60, 60);
    folder.write("train/ant/b.JPEG", jpeg_of(smooth_picture(height, width, 1)));
    DatasetSpec spec = spec_of(folder);
    spec.image_size = 28;
    spec.max_pixels = 32 * 32 * 65499;
    Image image;
    const auto stopping = make_dataset(spec, Split::train);
    for (const std::string& message :
         {message_of<DataError>([&] { test::picture_of(*stopping, 1); }),
          message_of<DataError>([&] { stopping->original(1, image); })})
      EXPECT_EQ(message, "'" + folder.text() + "/train/ant/b.JPEG': " + std::to_string(width) +
                             " x " + std::to_string(height) +
                             " pixels is too long a strip: with a shorter side of 32 it would have "
                             "more than 67070976 pixels");
    spec.on_error = OnError::skip;
    spec.max_bad_fraction = 0.2;
    const auto skipping = make_dataset(spec, Split::train);
    EXPECT_EQ(test::picture_of(*skipping, 1), test::picture_of(*stopping, 2));
    EXPECT_EQ(skipping->bad_samples().size(), 1u);
    spec.max_pixels += 32 * 32;
    EXPECT_EQ(make_dataset(spec, Split::train)->original(1, image), 1) << "just as long as allowed";
  }
}

// They are written into model.qat, whose texts are UTF-8.
TEST(ImageFolder, RefusesNamesOfClassesThatAreNoText) {
  const auto refusal = [](const std::string& name) {
    return message_after(
        [&](F folder, DatasetSpec&) { folder.write("train/" + name + "/a.jpg", ""); });
  };
  const std::string reason = "': the name of a class must be UTF-8 without control characters";
  EXPECT_EQ(refusal("caf\xe9"), "class folder 'PATH/train/caf?" + reason);
  EXPECT_EQ(refusal("a\nb"), "class folder 'PATH/train/a?b" + reason);
  const TemporaryFolder folder;
  write_set(folder);
  fs::rename(folder.text() + "/train/bee", folder.text() + "/train/caf\xc3\xa9");
  EXPECT_EQ(make_dataset(spec_of(folder), Split::train)->classes()[1], "caf\xc3\xa9");
}

TEST(ImageFolder, APipeIsNoPictureAndIsNotWaitedFor) {
  const TemporaryFolder folder;
  write_set(folder);
  ASSERT_EQ(mkfifo((folder.text() + "/train/ant/d.jpg").c_str(), 0600), 0);
  DatasetSpec spec = spec_of(folder);
  spec.cache_bytes = 0;
  const auto train = make_dataset(spec, Split::train);
  EXPECT_EQ(message_of<DataError>([&] { test::picture_of(*train, 3); }),
            "'" + folder.text() + "/train/ant/d.jpg': not a regular file");
}

TEST(ImageFolder, LinksThatLeadBackAreNotFollowed) {
  EXPECT_EQ(message_after([](F folder, DatasetSpec&) {
              fs::create_directory_symlink("..", folder.text() + "/train/loop");
            }),
            "class folder 'PATH/train/loop' holds no picture (.jpg, .jpeg, .png, .ppm, .pgm)");
  EXPECT_EQ(message_after([](F folder, DatasetSpec&) {
              fs::create_symlink("d.jpg", folder.text() + "/train/ant/d.jpg");
            }),
            "'PATH/train/ant/d.jpg': cannot be opened: Too many levels of symbolic links");
  const std::string unusable = ": Too many levels of symbolic links";
  for (const char* kind : {"imagefolder", "cifar10"})
    EXPECT_EQ(message_after([&](F folder, DatasetSpec& spec) {
                fs::create_symlink("self", folder.text() + "/self");
                spec.kind = kind;
                spec.path += "/self";
              }),
              "data.path 'PATH/self' cannot be looked at" + unusable);
  // A class folder elsewhere, and one that is another name of a class, are classes.
  const TemporaryFolder folder;
  write_set(folder);
  fs::create_directory_symlink("ant", folder.text() + "/train/cat");
  EXPECT_EQ(make_dataset(spec_of(folder), Split::train)->size(), 9);
}

TEST(ImageFolder, SkipsBadPicturesListsThemAndTakesTheNextGoodOne) {
  for (int64_t cache_bytes : {int64_t{0}, int64_t{1} << 30}) {
    const TemporaryFolder folder;
    write_set(folder);
    folder.write("train/ant/c.Jpg", "hello");
    folder.write("train/bee/c.Jpg", "");
    DatasetSpec spec = spec_of(folder);
    spec.cache_bytes = cache_bytes;
    spec.on_error = OnError::skip;
    spec.max_bad_fraction = 0.34;
    const auto train = make_dataset(spec, Split::train);
    std::vector<uint8_t> picture(train->picture_bytes());
    EXPECT_EQ(train->read(2, picture.data()), 3);
    EXPECT_EQ(picture, decoded(3));
    EXPECT_EQ(train->read(5, picture.data()), 0);  // around the end
    EXPECT_EQ(picture, decoded(0));
    Image image;
    EXPECT_EQ(train->original(2, image), 3);
    const std::vector<BadSample> bad = train->bad_samples();
    ASSERT_EQ(bad.size(), 2u);
    EXPECT_EQ(bad[0].index, 2);
    EXPECT_EQ(bad[1].cause, "'" + folder.text() + "/train/bee/c.Jpg': the file is empty");
  }
}

TEST(ImageFolder, StopsWhenTooManyPicturesAreBad) {
  EXPECT_EQ(message_after([](F folder, DatasetSpec& spec) {
              spec.on_error = OnError::skip;
              spec.max_bad_fraction = 0.1;
              folder.write("train/bee/b.JPEG", "");
            }),
            "more of the 6 pictures of 'PATH/train' are bad than data.max_bad_fraction = 0.1 "
            "allows; one of them: "
            "'PATH/train/bee/b.JPEG': the file is empty");
}

TEST(ImageFolder, ReadsRealCifarPictures) {
  const char* data = std::getenv("QATTRAIN_DATA");
  if (!data || !fs::exists(fs::path(data) / "cifar10-jpeg.tar.xz"))
    GTEST_SKIP() << "*** NOT TESTED on real pictures: QATTRAIN_DATA names no folder with "
                    "cifar10-jpeg.tar.xz ***";
  const TemporaryFolder folder;
  const std::string command = "tar -xJf '" + std::string(data) + "/cifar10-jpeg.tar.xz' -C '" +
                              folder.text() + "' --wildcards 'train/*/000?.jpg' 'test/*/000?.jpg'";
  ASSERT_EQ(std::system(command.c_str()), 0);
  for (Split split : {Split::train, Split::test}) {
    const auto set = make_dataset(spec_of(folder), split);
    ASSERT_EQ(set->size(), 100);
    EXPECT_EQ(set->classes().size(), 10u);
    EXPECT_EQ(set->classes()[3], "cat");
    EXPECT_EQ(set->label(30), 3);
    EXPECT_EQ(set->picture_bytes(), 3072u);
    double sum = 0;
    for (int64_t i = 0; i < set->size(); ++i)
      for (const uint8_t byte : test::picture_of(*set, i)) sum += byte;
    EXPECT_NEAR(sum / (100 * 3072), 120.7,
                12);  // the mean of all CIFAR-10 within four standard errors
  }
}

}  // namespace
}  // namespace qt
