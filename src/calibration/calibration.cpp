// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Files of `intflash calibrate --budget`, which are JSON, and trusted in nothing. Exceptions are
// thrown, and caught, in this file alone.
#include "intflash/calibration.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/checks.h"
#include "core/structs.h"
#include "pages/codec.h"

struct intflash_calibration {
  std::vector<intflash_head_group> groups;
  std::vector<std::vector<float>> centers;  // where groups point to
};

namespace intflash::internal {
namespace {

using Json = nlohmann::json;

// The caller's function as an iterator over all that it gives.
class ReadIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  struct Source {
    intflash_read_fn read;
    void* user;
    char bytes[4096];
    std::size_t size = 0, at = 0;

    // False at the end.
    bool fill() {
      if (at < size) return true;
      at = 0;
      size = read(user, bytes, sizeof bytes);
      if (size > sizeof bytes) size = 0;
      return size > 0;
    }
  };

  ReadIterator() = default;  // the end
  explicit ReadIterator(Source& source) : source_(source.fill() ? &source : nullptr) {}

  reference operator*() const { return source_->bytes[source_->at]; }
  ReadIterator& operator++() {
    ++source_->at;
    if (!source_->fill()) source_ = nullptr;
    return *this;
  }
  bool operator==(const ReadIterator& other) const { return source_ == other.source_; }

 private:
  Source* source_ = nullptr;
};

struct BadFile {
  std::string message;
};

// A value of JSON. Those of nlohmann's own take memory to give theirs back, which may not be there.
struct Node {
  enum Kind { kNull, kBoolean, kInteger, kNumber, kText, kArray, kObject };
  explicit Node(Kind kind_of_it = kNull) : kind(kind_of_it) {}

  Kind kind;
  std::int64_t integer = 0;
  double number = 0;  // of kInteger too
  std::string text;
  std::vector<Node> elements;
  std::vector<std::string> names;  // of kObject: of each element
};

// Makes a Node of what the parser finds.
class TreeBuilder : public Json::json_sax_t {
 public:
  explicit TreeBuilder(Node& root) : root_(&root) {}

  bool null() override { return add(Node()); }
  bool boolean(bool) override { return add(Node(Node::kBoolean)); }
  bool number_integer(std::int64_t value) override {
    Node node(Node::kInteger);
    node.integer = value;
    node.number = static_cast<double>(value);
    return add(std::move(node));
  }
  bool number_unsigned(std::uint64_t value) override {
    if (value > static_cast<std::uint64_t>(INT64_MAX))
      return number_float(static_cast<double>(value), "");
    return number_integer(static_cast<std::int64_t>(value));
  }
  bool number_float(double value, const std::string&) override {
    Node node(Node::kNumber);
    node.number = value;
    return add(std::move(node));
  }
  bool string(std::string& value) override {
    Node node(Node::kText);
    node.text = std::move(value);
    return add(std::move(node));
  }
  bool binary(Json::binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Node::kObject); }
  bool key(std::string& name) override {
    open_.back()->names.push_back(std::move(name));
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Node::kArray); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t place, const std::string&, const Json::exception&) override {
    throw BadFile{"byte " + std::to_string(place) +
                  ": not JSON, cut short, or a number that is too large"};
  }

 private:
  static constexpr std::size_t kMaxDepth = 16;  // of what the file has: 5

  // true: the parser is to go on.
  bool add(Node node) {
    last_ = open_.empty() ? root_ : &open_.back()->elements.emplace_back();
    *last_ = std::move(node);
    return true;
  }
  bool open(Node::Kind kind) {
    if (open_.size() == kMaxDepth) throw BadFile{"nested too deeply"};
    add(Node(kind));
    open_.push_back(last_);
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  Node* root_;
  Node* last_ = nullptr;
  std::vector<Node*> open_;  // arrays and objects, the outermost first
};

// A value in the file, and the path that leads there.
class Field {
 public:
  Field(const Node& node, std::string path) : node_(&node), path_(std::move(path)) {}

  bool is_null() const { return node_->kind == Node::kNull; }
  Field operator[](const char* name) const {
    const std::vector<std::string>& names = node_->names;
    const auto found = std::find(names.rbegin(), names.rend(), name);  // of equals the last
    if (found == names.rend()) throw BadFile{path_ + (path_.empty() ? "" : ": ") + "no " + name};
    return {node_->elements[static_cast<std::size_t>(names.rend() - found - 1)],
            path_ + (path_.empty() ? "" : ".") + name};
  }
  std::vector<Field> elements() const {
    if (node_->kind != Node::kArray) refuse("must be an array");
    std::vector<Field> fields;
    for (std::size_t i = 0; i < node_->elements.size(); ++i)
      fields.emplace_back(node_->elements[i], path_ + "[" + std::to_string(i) + "]");
    return fields;
  }
  std::int64_t integer(std::int64_t least, std::int64_t most = kMaxExtent) const {
    if (node_->kind != Node::kInteger || node_->integer < least || node_->integer > most)
      refuse("must be an integer, " + std::to_string(least) +
             (most == least ? "" : " ... " + std::to_string(most)));
    return node_->integer;
  }
  std::int64_t head_dim() const {
    const std::int64_t dim = integer(1);
    if (check_head_dim(path_.c_str(), dim) != INTFLASH_OK) throw BadFile{last_error()};
    return dim;
  }
  intflash_codec codec() const {
    const Codec* codec = nullptr;
    for (std::int32_t id = 0; choose_codec(id, 0, codec) == INTFLASH_OK; ++id)
      if (node_->text == codec->name) return codec->id;
    refuse("must name a codec of this library");
  }
  // [heads][dim].
  std::vector<float> center(std::int64_t heads, std::int64_t dim) const {
    std::vector<float> center;
    for (const Field& head : elements()) {
      for (const Field& element : head.elements()) center.push_back(element.finite_float());
      if (static_cast<std::int64_t>(head.node_->elements.size()) != dim)
        head.refuse("must have " + std::to_string(dim) + " numbers");
    }
    if (static_cast<std::int64_t>(center.size()) != heads * dim)
      refuse("must have " + std::to_string(heads) + " heads");
    return center;
  }
  [[noreturn]] void refuse(const std::string& rule) const { throw BadFile{path_ + ": " + rule}; }

 private:
  float finite_float() const {
    const auto value = static_cast<float>(node_->number);
    const bool is_number = node_->kind == Node::kInteger || node_->kind == Node::kNumber;
    if (!is_number || !std::isfinite(value)) refuse("must be a finite number");
    return value;
  }

  const Node* node_;
  std::string path_;
};

// A layer's center, which stays where it is, or nullptr where the file has null.
const float* add_center(const Field& field, std::int64_t heads, std::int64_t dim,
                        intflash_calibration& calibration) {
  if (field.is_null()) return nullptr;
  return calibration.centers.emplace_back(field.center(heads, dim)).data();
}

void add_layer(const Field& layer, intflash_calibration& calibration) {
  intflash_head_group group{};
  group.layer = layer["layer"].integer(0);
  group.head_dim = layer["head_dim"].head_dim();
  group.head_dim_v = layer["head_dim_v"].head_dim();
  const std::int64_t heads = layer["kv_heads"].integer(1);
  const float* const key = add_center(layer["key_center"], heads, group.head_dim, calibration);
  const float* const value =
      add_center(layer["value_center"], heads, group.head_dim_v, calibration);
  for (const Field& field : layer["groups"].elements()) {
    const std::int64_t first = group.first_kv_head + group.num_kv_heads;
    if (first == heads) field.refuse("behind the last of " + std::to_string(heads) + " kv heads");
    group.first_kv_head = field["first_kv_head"].integer(first, first);
    group.num_kv_heads = field["kv_heads"].integer(1, heads - first);
    group.codec = field["codec"].codec();
    group.window_blocks = field["window_blocks"].integer(0);
    group.sink_blocks = field["sink_blocks"].integer(0);
    group.score_digits = static_cast<std::int32_t>(field["score_digits"].integer(0, 2));
    group.key_center = key == nullptr ? nullptr : key + first * group.head_dim;
    group.value_center = value == nullptr ? nullptr : value + first * group.head_dim_v;
    calibration.groups.push_back(group);
  }
  if (group.first_kv_head + group.num_kv_heads != heads)
    layer["groups"].refuse("must have all " + std::to_string(heads) + " kv heads");
}

void read_file(ReadIterator::Source& source, intflash_calibration& calibration) {
  Node root;
  TreeBuilder builder(root);
  Json::sax_parse(ReadIterator(source), ReadIterator(), &builder);
  const Field file(root, "");
  const std::int64_t version = file["intflash_calibration"].integer(1);
  if (version != INTFLASH_CALIBRATION_VERSION) {
    throw BadFile{"version " + std::to_string(version) + " where " +
                  std::to_string(INTFLASH_CALIBRATION_VERSION) + " is read"};
  }
  std::set<std::int64_t> numbers;
  const Field layers = file["layers"];
  if (layers.elements().empty()) layers.refuse("must not be empty");
  for (const Field& layer : layers.elements()) {
    if (!numbers.insert(layer["layer"].integer(0)).second)
      layer["layer"].refuse("stands there twice");
    add_layer(layer, calibration);
  }
}

}  // namespace
}  // namespace intflash::internal

using namespace intflash::internal;

intflash_status intflash_calibration_load(intflash_read_fn read, void* user,
                                          intflash_calibration** target) {
  if (target == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "calibration = NULL: must point to where the handle goes");
  }
  *target = nullptr;
  if (read == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "read = NULL: must be a function");
  try {
    ReadIterator::Source source{read, user, {}};
    auto calibration = std::make_unique<intflash_calibration>();
    read_file(source, *calibration);
    *target = calibration.release();
    return INTFLASH_OK;
  } catch (const BadFile& bad) {
    return fail(INTFLASH_BAD_FILE, "calibration: %s", bad.message.c_str());
  } catch (const std::bad_alloc&) {
    return fail(INTFLASH_OUT_OF_MEMORY, "calibration: no memory for what the file has");
  }
}

void intflash_calibration_destroy(intflash_calibration* calibration) { delete calibration; }

int64_t intflash_calibration_num_groups(const intflash_calibration* calibration) {
  return calibration == nullptr ? 0 : static_cast<int64_t>(calibration->groups.size());
}

intflash_status intflash_calibration_get_group(const intflash_calibration* calibration,
                                               int64_t index, intflash_head_group* target) {
  if (calibration == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "calibration = NULL: load one first");
  const intflash_status status = check_struct("group", "intflash_head_group", target);
  if (status != INTFLASH_OK) return status;
  const int64_t count = intflash_calibration_num_groups(calibration);
  if (index < 0 || index >= count) {
    return fail(INTFLASH_INVALID_ARGUMENT, "index = %lld: must be 0 ... %lld",
                static_cast<i64>(index), static_cast<i64>(count - 1));
  }
  write_struct(calibration->groups[static_cast<std::size_t>(index)], target);
  return INTFLASH_OK;
}
