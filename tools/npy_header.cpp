// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "npy_header.h"

#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <utility>

#include "failure.h"

namespace intflash {
namespace {

constexpr std::size_t kMaxDimensions = 32;  // NumPy's own limit

// Reads the one form of Python literal that NumPy writes: {'descr': '<f4', 'fortran_order': False,
// 'shape': (2, 3), }
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  NpyHeader parse() {
    expect('{');
    while (!accept('}')) {
      parse_entry();
      if (accept(',')) continue;
      expect('}');
      break;
    }
    skip_space();
    if (position_ != text_.size()) fail("text after the closing brace");
    if (!descr_ || !fortran_order_ || !shape_) {
      fail("one of 'descr', 'fortran_order' and 'shape' is missing");
    }
    return {*descr_, *fortran_order_, *shape_};
  }

 private:
  void parse_entry() {
    const std::string key = parse_string();
    expect(':');
    if (key == "descr" && !descr_) {
      descr_ = parse_descr();
    } else if (key == "fortran_order" && !fortran_order_) {
      fortran_order_ = parse_bool();
    } else if (key == "shape" && !shape_) {
      shape_ = parse_shape();
    } else {
      fail(fmt::format("unexpected or repeated key '{}'", key));
    }
  }

  std::string parse_descr() {
    skip_space();
    if (position_ < text_.size() && text_[position_] == '[') {
      fail("a structured dtype is not supported; float16, float32 and float64 are");
    }
    return parse_string();
  }

  std::string parse_string() {
    skip_space();
    if (position_ >= text_.size() || (text_[position_] != '\'' && text_[position_] != '"')) {
      fail("a quoted string is expected");
    }
    const char quote = text_[position_++];
    const std::size_t end = text_.find(quote, position_);
    if (end == std::string_view::npos) fail("a quoted string does not end");
    const std::string_view content = text_.substr(position_, end - position_);
    for (const char c : content) {
      // The string may be shown to the user: no control characters reach a terminal.
      if (c < ' ' || c > '~' || c == '\\') fail("a quoted string holds unprintable characters");
    }
    position_ = end + 1;
    return std::string(content);
  }

  bool parse_bool() {
    skip_space();
    for (const auto& [word, value] : {std::pair{"True", true}, std::pair{"False", false}}) {
      if (text_.substr(position_).starts_with(word)) {
        position_ += std::strlen(word);
        return value;
      }
    }
    fail("True or False is expected");
  }

  std::vector<std::int64_t> parse_shape() {
    std::vector<std::int64_t> shape;
    expect('(');
    bool comma = true;
    while (!accept(')')) {
      if (!comma) fail("a comma is expected in 'shape'");
      if (shape.size() == kMaxDimensions) {
        fail(fmt::format("'shape' has more than {} dimensions", kMaxDimensions));
      }
      shape.push_back(parse_length());
      comma = accept(',');
    }
    if (shape.size() == 1 && !comma) fail("'shape' is a number, not a tuple");
    return shape;
  }

  std::int64_t parse_length() {
    skip_space();
    std::int64_t value = 0;
    const std::size_t start = position_;
    for (; position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '9';
         ++position_) {
      if (__builtin_mul_overflow(value, std::int64_t{10}, &value) ||
          __builtin_add_overflow(value, std::int64_t{text_[position_] - '0'}, &value)) {
        fail("a length in 'shape' does not fit 64 bits");
      }
    }
    if (position_ == start) fail("a length >= 0 is expected in 'shape'");
    return value;
  }

  void skip_space() {
    while (position_ < text_.size() && (text_[position_] == ' ' || text_[position_] == '\n'))
      ++position_;
  }

  bool accept(char c) {
    skip_space();
    if (position_ >= text_.size() || text_[position_] != c) return false;
    ++position_;
    return true;
  }

  void expect(char c) {
    if (!accept(c)) fail(fmt::format("'{}' is expected at character {}", c, position_));
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Failure(fmt::format("{}: corrupt .npy header: {}", name_, what));
  }

  std::string_view text_;
  const std::string& name_;
  std::size_t position_ = 0;
  std::optional<std::string> descr_;
  std::optional<bool> fortran_order_;
  std::optional<std::vector<std::int64_t>> shape_;
};

}  // namespace

NpyHeader parse_npy_header(std::string_view text, const std::string& name) {
  return HeaderParser(text, name).parse();
}

}  // namespace intflash
