// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The .npy format: 6 bytes of magic, a version, the length of the header, the header (a Python
// dictionary), the elements. Every number in a file is taken for hostile until it is checked
// against the file's length.
#include "npy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>

#include "atomic_file.h"
#include "failure.h"

namespace intflash {
namespace {

static_assert(std::endian::native == std::endian::little,
              "elements are used as they lie in the file");

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr std::size_t kVersion1HeaderStart = 10;  // magic, two bytes of version, two of length
constexpr std::size_t kVersion2HeaderStart = 12;  // the length has four bytes
// NumPy pads headers so that the elements start at a multiple of 64; it allows at most 32
// dimensions.
constexpr std::size_t kDataAlignment = 64;
constexpr std::size_t kMaxDimensions = 32;

struct Header {
  std::string descr;
  bool fortran_order = false;
  std::vector<std::int64_t> shape;
};

// Reads the one form of Python literal that NumPy writes: {'descr': '<f4', 'fortran_order': False,
// 'shape': (2, 3), }
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  Header parse() {
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
      fail("a structured dtype is not supported; float16 ('<f2') and float32 ('<f4') are");
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

intflash_dtype dtype_of(const std::string& descr, const std::string& name) {
  if (descr == "<f2") return INTFLASH_F16;
  if (descr == "<f4") return INTFLASH_F32;
  throw Failure(fmt::format(
      "{}: dtype '{}' is not supported; little-endian float16 ('<f2') and float32 ('<f4') are",
      name, descr));
}

std::size_t dtype_size(intflash_dtype dtype) { return dtype == INTFLASH_F16 ? 2 : 4; }

// The bytes that shape asks for, or an error where they exceed what a file can hold.
std::size_t data_bytes(const std::vector<std::int64_t>& shape, intflash_dtype dtype,
                       const std::string& name) {
  // A zero length makes the array empty whatever the others are; without this an overflow would
  // hide it.
  for (const std::int64_t length : shape) {
    if (length == 0) return 0;
  }
  std::int64_t bytes = static_cast<std::int64_t>(dtype_size(dtype));
  for (const std::int64_t length : shape) {
    if (__builtin_mul_overflow(bytes, length, &bytes)) {
      throw Failure(fmt::format("{}: shape ({}) is too large", name, fmt::join(shape, ", ")));
    }
  }
  return static_cast<std::size_t>(bytes);
}

struct HeaderSpan {
  std::size_t begin;
  std::size_t length;
};

HeaderSpan locate_header(std::span<const std::byte> bytes, const std::string& name) {
  if (bytes.size() < kMagic.size() ||
      std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    throw Failure(fmt::format("{}: not a .npy file", name));
  }
  const auto byte_at = [&](std::size_t i) { return std::to_integer<std::size_t>(bytes[i]); };
  const auto require = [&](std::size_t size) {
    if (bytes.size() >= size) return;
    throw Failure(
        fmt::format("{}: truncated in the .npy header: {} of {} bytes", name, bytes.size(), size));
  };
  require(kVersion1HeaderStart);
  const std::size_t version = byte_at(6);
  if (version != 1 && version != 2) {
    throw Failure(fmt::format("{}: .npy version {}.{} is not supported; 1.0 and 2.0 are", name,
                              version, byte_at(7)));
  }
  HeaderSpan header{kVersion1HeaderStart, byte_at(8) | byte_at(9) << 8};
  if (version == 2) {
    require(kVersion2HeaderStart);
    header = {kVersion2HeaderStart, header.length | byte_at(10) << 16 | byte_at(11) << 24};
  }
  require(header.begin + header.length);
  return header;
}

}  // namespace

std::int64_t NpyArray::num_elements() const {
  return static_cast<std::int64_t>(data.size() / dtype_size(dtype));
}

NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& name) {
  const HeaderSpan span = locate_header(bytes, name);
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + span.begin;
  const Header header = HeaderParser(std::string_view(text, span.length), name).parse();
  NpyArray array;
  array.dtype = dtype_of(header.descr, name);
  array.shape = header.shape;
  if (header.fortran_order && header.shape.size() > 1) {
    throw Failure(
        fmt::format("{}: Fortran order is not supported; save numpy.ascontiguousarray(x)", name));
  }
  const std::span<const std::byte> data = bytes.subspan(span.begin + span.length);
  const std::size_t expected = data_bytes(array.shape, array.dtype, name);
  if (data.size() != expected) {
    throw Failure(fmt::format("{}: {}: shape ({}) needs {} bytes of elements, the file has {}",
                              name,
                              data.size() < expected ? "truncated" : "bytes after the last element",
                              fmt::join(array.shape, ", "), expected, data.size()));
  }
  array.data.assign(data.begin(), data.end());
  return array;
}

namespace {

struct CloseDescriptor {
  explicit CloseDescriptor(int value) : descriptor(value) {}
  ~CloseDescriptor() {
    if (descriptor >= 0) ::close(descriptor);
  }
  CloseDescriptor(const CloseDescriptor&) = delete;
  CloseDescriptor& operator=(const CloseDescriptor&) = delete;
  int descriptor;
};

std::vector<std::byte> read_file(const std::string& path) {
  const auto fail = [&](const char* what) {
    return Failure(fmt::format("{}: cannot {}: {}", path, what, std::strerror(errno)));
  };
  // O_NONBLOCK: opening a pipe that nobody writes would wait for ever.
  const CloseDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status = {};
  if (file.descriptor < 0 || ::fstat(file.descriptor, &status) != 0) throw fail("open");
  if (!S_ISREG(status.st_mode)) throw Failure(fmt::format("{}: not a regular file", path));
  std::vector<std::byte> bytes(static_cast<std::size_t>(status.st_size));
  std::size_t size = 0;
  while (size < bytes.size()) {
    const ssize_t count = ::read(file.descriptor, bytes.data() + size, bytes.size() - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw fail("read");
    if (count == 0) break;  // became shorter meanwhile; the parser reports it as truncated
    size += static_cast<std::size_t>(count);
  }
  bytes.resize(size);
  return bytes;
}

std::string make_header(const std::vector<std::int64_t>& shape) {
  std::string dimensions = fmt::format("{}", fmt::join(shape, ", "));
  if (shape.size() == 1) dimensions += ",";
  std::string text =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", dimensions);
  // Spaces, and a line feed at the end, up to a multiple of 64.
  const std::size_t used = kVersion1HeaderStart + text.size() + 1;
  text.append((kDataAlignment - used % kDataAlignment) % kDataAlignment, ' ');
  text += '\n';
  std::string header(kMagic);
  header +=
      {'\x01', '\x00', static_cast<char>(text.size() & 0xff), static_cast<char>(text.size() >> 8)};
  return header + text;
}

}  // namespace

NpyArray read_npy(const std::string& path) { return parse_npy(read_file(path), path); }

void write_npy_files(std::span<const NpyOutput> outputs) {
  std::vector<std::unique_ptr<AtomicFile>> files;
  for (const NpyOutput& output : outputs) {
    auto file = std::make_unique<AtomicFile>(output.path);
    const std::string header = make_header(output.shape);
    file->write(header.data(), header.size());
    file->write(output.data, data_bytes(output.shape, INTFLASH_F32, output.path));
    file->finish();
    files.push_back(std::move(file));
  }
  for (const auto& file : files) file->commit();
}

}  // namespace intflash
