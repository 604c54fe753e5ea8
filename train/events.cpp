// train/events.cpp -- record framing, CRC-32C and the few protobuf messages that TensorBoard reads.
#include "train/events.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdio>

#include "core/base/error.h"

namespace qt {
namespace {

// Field numbers of event.proto, summary.proto, tensor.proto, tensor_shape.proto and types.proto.
namespace event {
constexpr int wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7;
}
namespace summary {
constexpr int value = 1, tag = 1, tensor = 8, metadata = 9;
}
constexpr int metadata_plugin_data = 1, plugin_name = 1;
constexpr int session_status = 1, session_start_status = 1;
namespace tensor {
constexpr int dtype = 1, shape = 2, content = 4, string_value = 8;
constexpr int shape_dim = 2, dim_size = 1;
constexpr int type_float = 1, type_double = 2, type_string = 7;
}  // namespace tensor

// A protobuf message under construction: fields in the order they are added, proto3 defaults left
// to the caller.
class Message {
 public:
  Message& integer(int field, uint64_t value) {
    varint(uint64_t(field) << 3);
    varint(value);
    return *this;
  }
  Message& fixed64(int field, double value) {
    varint(uint64_t(field) << 3 | 1);
    raw(&value, sizeof value);
    return *this;
  }
  Message& bytes(int field, std::string_view value) {
    varint(uint64_t(field) << 3 | 2);
    varint(value.size());
    text_ += value;
    return *this;
  }
  Message& message(int field, const Message& value) { return bytes(field, value.text_); }
  const std::string& text() const { return text_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_ += char(value | 0x80);
    text_ += char(value);
  }
  void raw(const void* from, size_t count) { text_.append(static_cast<const char*>(from), count); }
  std::string text_;
};

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
    table[i] = crc;
  }
  return table;
}

template <class T>
std::string little_endian(const T& value) {
  static_assert(std::endian::native == std::endian::little);
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

double time_or_now(double wall_time) {
  if (wall_time >= 0) return wall_time;
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Message shape_of(std::initializer_list<size_t> extents) {
  Message shape;
  for (const size_t extent : extents)
    shape.message(tensor::shape_dim, Message().integer(tensor::dim_size, extent));
  return shape;
}

// Step 0 is proto3's default and stays out, as the reference writer does it.
Message event_at(double wall_time, int64_t step) {
  Message e;
  e.fixed64(event::wall_time, time_or_now(wall_time));
  if (step) e.integer(event::step, uint64_t(step));
  return e;
}

std::string summary_event(double wall_time, int64_t step, const std::string& tag,
                          const Message& tensor, const char* plugin) {
  const Message metadata =
      Message().message(metadata_plugin_data, Message().bytes(plugin_name, plugin));
  const Message value = Message()
                            .bytes(summary::tag, tag)
                            .message(summary::tensor, tensor)
                            .message(summary::metadata, metadata);
  return event_at(wall_time, step)
      .message(event::summary, Message().message(summary::value, value))
      .text();
}

// One process may open several files within a second.
files::RecordFile new_file(const std::string& folder, double wall_time) {
  static std::atomic<int> serial{0};
  files::make_folder(folder);
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0 || !host[0]) host = {'l', 'o', 'c', 'a', 'l'};
  for (char& c : host)
    if (c == '/') c = '-';
  for (;;) {
    char name[400];
    std::snprintf(name, sizeof name, "/events.out.tfevents.%010lld.%s.%d.%d",
                  static_cast<long long>(wall_time), host.data(), int(getpid()), serial++);
    const std::string path = folder + name;
    // A reused process id within the second: take the next serial number rather than fail.
    if (!files::exists(path)) return {path, files::RecordFile::Open::create};
  }
}

}  // namespace

namespace tfrecord {

uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> table = crc_table();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = table[(crc ^ uint8_t(c)) & 0xff] ^ crc >> 8;
  return ~crc;
}

uint32_t masked(uint32_t crc) { return std::rotr(crc, 15) + 0xa282ead8u; }

std::string framed(std::string_view data) {
  const std::string length = little_endian(uint64_t(data.size()));
  std::string record = length + little_endian(masked(crc32c(length)));
  record += data;
  return record + little_endian(masked(crc32c(data)));
}

std::string file_version_event(double wall_time) {
  return event_at(wall_time, 0).bytes(event::file_version, "brain.Event:2").text();
}

std::string scalar_event(double wall_time, int64_t step, const std::string& tag, float value) {
  const Message number = Message()
                             .integer(tensor::dtype, tensor::type_float)
                             .message(tensor::shape, shape_of({}))
                             .bytes(tensor::content, little_endian(value));
  return summary_event(wall_time, step, tag, number, "scalars");
}

}  // namespace tfrecord

EventWriter::EventWriter(const std::string& folder, double wall_time)
    : file_(new_file(folder, time_or_now(wall_time))) {
  write(tfrecord::file_version_event(time_or_now(wall_time)));
}

void EventWriter::session_start(int64_t step, double wall_time) {
  const Message log = Message().integer(session_status, session_start_status);
  write(event_at(wall_time, step).message(event::session_log, log).text());
}

void EventWriter::scalar(const std::string& tag, int64_t step, double value, double wall_time) {
  write(tfrecord::scalar_event(wall_time, step, tag, float(value)));
}

void EventWriter::histogram(const std::string& tag, int64_t step, const HistogramBars& bars,
                            double wall_time) {
  const size_t k = bars.left.size();
  QT_CHECK(bars.right.size() == k && bars.count.size() == k,
           "histogram " + tag + ": left, right and count differ in length");
  std::string rows;
  for (size_t i = 0; i < k; ++i)
    for (const double value : {bars.left[i], bars.right[i], bars.count[i]})
      rows += little_endian(value);
  const Message table = Message()
                            .integer(tensor::dtype, tensor::type_double)
                            .message(tensor::shape, shape_of({k, 3}))
                            .bytes(tensor::content, rows);
  write(summary_event(wall_time, step, tag, table, "histograms"));
}

void EventWriter::text(const std::string& tag, int64_t step, const std::string& markdown,
                       double wall_time) {
  const Message string = Message()
                             .integer(tensor::dtype, tensor::type_string)
                             .message(tensor::shape, shape_of({}))
                             .bytes(tensor::string_value, markdown);
  write(summary_event(wall_time, step, tag, string, "text"));
}

void EventWriter::image(const std::string& tag, int64_t step, int width, int height,
                        const std::string& encoded, double wall_time) {
  const Message strings = Message()
                              .integer(tensor::dtype, tensor::type_string)
                              .message(tensor::shape, shape_of({3}))
                              .bytes(tensor::string_value, std::to_string(width))
                              .bytes(tensor::string_value, std::to_string(height))
                              .bytes(tensor::string_value, encoded);
  write(summary_event(wall_time, step, tag, strings, "images"));
}

}  // namespace qt
