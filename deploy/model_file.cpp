// deploy/model_file.cpp -- writing and reading model.qat: JSON for the graph, tensors for every
// number that engines use.
#include "deploy/model_file.h"

#include <initializer_list>
#include <set>

#include "core/base/json_fields.h"
#include "core/base/text.h"
#include "core/tensor/safetensors.h"
#include "deploy/validate.h"

namespace qt {
namespace {

using Json = JsonFields::Json;

constexpr const char* format_name = "qattrain.program";
constexpr const char* format_version = "1";
constexpr size_t largest_graph = size_t(16) << 20;  // bytes of JSON
constexpr size_t largest_program = 65536;           // instructions
constexpr int64_t most_code = 1000000000;

// XXH3-128 of names and hashes: of all tensors in the header's order, then of the metadata.
std::string checksum_of(const NamedTensors& tensors, const Metadata& metadata) {
  std::string text;
  for (const auto& [name, tensor] : tensors)
    text += name + " " +
            files::hash_of({static_cast<const char*>(tensor.raw()), size_t(tensor.bytes())}) + "\n";
  for (const auto& [key, value] : metadata)
    if (key != "checksum") text += key + " " + files::hash_of(value) + "\n";
  return files::hash_of(text);
}

// ---- writing ----
class Writer {
 public:
  void write(const Program& program) {
    Json list = Json::array();
    for (const Instruction& at : program.instructions) {
      json_ = Json{{"name", at.name},
                   {"op", name_of(at.operation)},
                   {"inputs", at.inputs},
                   {"output", at.output.vector()}};
      name_ = at.name;
      if (!std::holds_alternative<Classifier>(at.operation)) {
        json_["lo"] = at.lo;
        json_["hi"] = at.hi;
        add_number("step", at.step);
      }
      std::visit([&](const auto& operation) { describe(operation, at); }, at.operation);
      list.push_back(json_);
    }
    const Preprocessing& p = program.preprocessing;
    metadata["format"] = format_name;
    metadata["format_version"] = format_version;
    metadata["program"] = list.dump();
    metadata["preprocessing"] = Json{
        {"height", p.height},
        {"width", p.width},
        {"resize", p.resize},
        {"mean", p.mean},
        {"std", p.std}}.dump();
    metadata["class_names"] = Json(program.class_names).dump();
    metadata["notes"] = Json(program.notes).dump();
    metadata["checksum"] = checksum_of(tensors, metadata);
  }

  NamedTensors tensors;
  Metadata metadata;

 private:
  void add(const std::string& what, const Tensor& t) {
    tensors.emplace_back(name_ + "." + what, t.without_scale());
  }
  void add_number(const std::string& what, float value) { add(what, Tensor::full({1}, value)); }
  void add_weights(const Tensor& codes) {
    json_["weight_lo"] = codes.lo();
    json_["weight_hi"] = codes.hi();
    add("codes", codes);
    add("weight_step", codes.step());
  }

  void describe(const ImageTable& op, const Instruction&) { add("table", op.table); }
  void describe(const Conv& op, const Instruction& at) {
    json_["stride"] = op.shape.stride;
    json_["padding"] = op.shape.padding;
    json_["dilation"] = op.shape.dilation;
    json_["groups"] = op.shape.groups;
    add_weights(op.codes);
    add("m", op.m);
    add("b", op.b);
    if (at.inputs.size() > 1) add_number("residual_ratio", op.residual_ratio);
  }
  void describe(const Add& op, const Instruction&) {
    add_number("m", op.m);
    add_number("r", op.r);
  }
  void describe(const MaxPoolCodes& op, const Instruction&) {
    json_["kernel"] = op.kernel;
    json_["stride"] = op.stride;
    json_["padding"] = op.padding;
  }
  void describe(const AveragePoolCodes& op, const Instruction&) {
    add_number("multiplier", op.multiplier);
  }
  void describe(const FlattenCodes&, const Instruction&) {}
  void describe(const Classifier& op, const Instruction&) {
    add_weights(op.codes);
    add("m", op.m);
    add("bias", op.bias);
  }

  std::string name_;
  Json json_;
};

// ---- reading ----

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path), file_(read_safetensors(path)) {
    for (const auto& [name, tensor] : file_.tensors) by_name_[name] = tensor;
  }

  Program read() {
    check_version();
    Program program;
    const Json list = parse("program");
    if (!list.is_array() || list.size() > largest_program)
      refuse("metadata 'program' is not a list of at most " + std::to_string(largest_program) +
             " instructions");
    for (const Json& entry : list)
      program.instructions.push_back(instruction(entry, program.instructions));
    read_preprocessing(program.preprocessing);
    const Json names = parse("class_names"), notes = parse("notes");
    if (!names.is_array()) refuse("metadata 'class_names' is not a list");
    for (const Json& name : names) program.class_names.push_back(string_of(name, "class_names"));
    if (!notes.is_object()) refuse("metadata 'notes' is not an object");
    for (const auto& [key, value] : notes.items()) program.notes[key] = string_of(value, "notes");
    validate(program, path_);
    for (const auto& [name, tensor] : by_name_)
      if (!used_.contains(name)) refuse("tensor " + in_quotes(name) + " belongs to no instruction");
    check_checksum();
    return program;
  }

 private:
  [[noreturn]] void refuse(const std::string& cause) const {
    throw CheckpointError(path_ + ": " + cause);
  }

  const std::string& metadata(const std::string& key) const {
    const auto found = file_.metadata.find(key);
    if (found == file_.metadata.end())
      refuse("metadata '" + key + "' is missing: not a model file of qattrain?");
    return found->second;
  }
  void check_version() const {
    if (metadata("format") != format_name)
      refuse("the format is " + in_quotes(metadata("format")) + ", wanted '" + format_name + "'");
    if (metadata("format_version") != format_version)
      refuse("the format version is " + in_quotes(metadata("format_version")) +
             "; this build reads '" + format_version + "'");
    static const std::set<std::string> known{
        "format", "format_version", "program", "preprocessing", "class_names", "notes", "checksum"};
    for (const auto& [key, value] : file_.metadata)
      if (!known.contains(key)) refuse("unknown metadata " + in_quotes(key));
  }
  // Files of other programs may have none.
  void check_checksum() const {
    const auto found = file_.metadata.find("checksum");
    if (found == file_.metadata.end()) return;
    const std::string now = checksum_of(file_.tensors, file_.metadata);
    if (now != found->second)
      refuse("damaged: the checksum of its contents is " + now + ", the file says " +
             found->second);
  }
  Json parse(const std::string& key) const {
    const std::string& text = metadata(key);
    if (text.size() > largest_graph) refuse("metadata '" + key + "' is longer than 16 MiB");
    // Deep nesting would cost stack when it is destroyed; nothing here nests deeper than three. Of
    // a key that occurs twice another reader might take the other value.
    std::vector<std::set<std::string>> keys;  // of the objects (and lists) that are open
    const auto shallow = [&keys](int, nlohmann::detail::parse_event_t event, Json& value) {
      using Event = nlohmann::detail::parse_event_t;
      if (event == Event::object_start || event == Event::array_start) keys.emplace_back();
      if (event == Event::object_end || event == Event::array_end) keys.pop_back();
      if (keys.size() > 8) throw CheckpointError("nested too deeply");
      if (event == Event::key && !keys.back().insert(value.get<std::string>()).second)
        throw CheckpointError("of an object that has the key " +
                              in_quotes(value.get<std::string>()) + " twice");
      return true;
    };
    try {
      return Json::parse(text, shallow);
    } catch (const nlohmann::json::exception&) {
      refuse("metadata '" + key + "' is not valid JSON");
    } catch (const CheckpointError& error) {
      refuse("metadata '" + key + "' is " + error.what());
    }
  }
  std::string string_of(const Json& value, const std::string& key) const {
    if (!value.is_string()) refuse("metadata '" + key + "' holds something that is not a string");
    return value.get<std::string>();
  }

  void read_preprocessing(Preprocessing& p) const {
    const Json json = parse("preprocessing");
    JsonFields fields(json, path_ + ": metadata 'preprocessing'");
    p.height = fields.integer("height");
    p.width = fields.integer("width");
    p.resize = fields.integer("resize");
    p.mean = fields.three_numbers("mean");
    p.std = fields.three_numbers("std");
    fields.no_others();
  }

  // ---- instructions ----
  // A bound of codes, as far as its type goes; validate() knows the rest.
  static int code(JsonFields& fields, const std::string& key) {
    return int(fields.integer(key, -most_code, most_code));
  }
  Tensor tensor(JsonFields& fields, const std::string& what, DType type) {
    const std::string name = name_ + "." + what;
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) fields.refuse("misses its tensor " + in_quotes(name));
    if (found->second.dtype() != type)
      fields.refuse("has the tensor " + in_quotes(name) + " of type " +
                    qt::name_of(found->second.dtype()) + ", wanted " + qt::name_of(type));
    used_.insert(name);
    return found->second;
  }
  float number(JsonFields& fields, const std::string& what) {
    const Tensor t = tensor(fields, what, DType::f32);
    if (t.shape() != Shape{1})
      fields.refuse("has the tensor " + in_quotes(name_ + "." + what) + " of shape " +
                    t.shape().text() + ", wanted [1]");
    return t.data<float>()[0];
  }
  Tensor weights(JsonFields& fields, int rank) {
    const int lo = code(fields, "weight_lo"), hi = code(fields, "weight_hi");
    const Tensor codes = tensor(fields, "codes", DType::i8);
    if (codes.shape().rank() != rank)
      fields.refuse("has codes of shape " + codes.shape().text() + ", wanted " +
                    std::to_string(rank) + " extents");
    return codes.with_scale(tensor(fields, "weight_step", DType::f32), lo, hi);
  }

  Instruction instruction(const Json& json, const std::vector<Instruction>& before) {
    const std::string number_text = std::to_string(before.size());
    JsonFields fields(json, path_ + ": instruction " + number_text);
    Instruction at;
    at.name = name_ = fields.text("name");
    JsonFields named(json, path_ + ": instruction " + number_text + " " + in_quotes(at.name));
    named.get("name");
    const std::string op = named.text("op");
    for (const int64_t input : named.integers("inputs", 2)) {
      if (input < 0 || input >= int64_t(before.size()))
        named.refuse("reads register " + std::to_string(input) + "; only earlier ones may be read");
      at.inputs.push_back(int(input));
    }
    const std::vector<int64_t> extents = named.integers("output", 3);
    for (const int64_t extent : extents)
      if (extent < 1) named.refuse("has the output extent " + std::to_string(extent));
    at.output = Shape(extents);
    if (op != Classifier::name) {
      at.lo = code(named, "lo");
      at.hi = code(named, "hi");
      at.step = number(named, "step");
    }
    at.operation = operation(op, named, at, before);
    named.no_others();
    return at;
  }

  Operation operation(const std::string& op, JsonFields& fields, const Instruction& at,
                      const std::vector<Instruction>& before) {
    if (op == ImageTable::name) return ImageTable{tensor(fields, "table", DType::i8)};
    if (op == Conv::name) return conv(fields, at, before);
    if (op == Add::name) return Add{number(fields, "m"), number(fields, "r")};
    if (op == MaxPoolCodes::name)
      return MaxPoolCodes{fields.integer("kernel"), fields.integer("stride"),
                          fields.integer("padding")};
    if (op == AveragePoolCodes::name) return AveragePoolCodes{number(fields, "multiplier")};
    if (op == FlattenCodes::name) return FlattenCodes{};
    if (op == Classifier::name) {
      const Tensor codes = weights(fields, 2);
      return Classifier{codes, tensor(fields, "m", DType::f32), tensor(fields, "bias", DType::f32)};
    }
    fields.refuse(
        "has the unknown op " + in_quotes(op) +
        "; known: image_table, conv, add, max_pool, global_average_pool, flatten, classifier");
  }

  Conv conv(JsonFields& fields, const Instruction& at, const std::vector<Instruction>& before) {
    Conv op;
    op.codes = weights(fields, 4);
    if (at.inputs.empty()) fields.refuse("has no inputs");
    const Shape& x = before[size_t(at.inputs[0])].output;
    if (x.rank() != 3)
      fields.refuse("reads a register of shape " + x.text() + ", wanted [h, w, c]");
    op.shape = {.n = 0,
                .h = x[0],
                .w = x[1],
                .c = x[2],
                .k = op.codes.dim(0),
                .r = op.codes.dim(1),
                .s = op.codes.dim(2),
                .stride = fields.integer("stride"),
                .padding = fields.integer("padding"),
                .dilation = fields.integer("dilation"),
                .groups = fields.integer("groups")};
    op.m = tensor(fields, "m", DType::f32);
    op.b = tensor(fields, "b", DType::f32);
    if (at.inputs.size() > 1) op.residual_ratio = number(fields, "residual_ratio");
    return op;
  }

  std::string path_;
  SafetensorsFile file_;
  std::map<std::string, Tensor> by_name_;
  std::set<std::string> used_;
  std::string name_;  // of the instruction being read
};

}  // namespace

files::Stamp save_program(const std::string& path, const Program& program) {
  validate(program, "cannot write " + path);
  Writer writer;
  try {
    writer.write(program);
  } catch (const nlohmann::json::exception&) {
    throw CheckpointError("cannot write " + path + ": a layer, class or note is not UTF-8");
  }
  return write_safetensors(path, writer.tensors, writer.metadata);
}

Program load_program(const std::string& path) { return Reader(path).read(); }

}  // namespace qt
