// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The .npy format: 6 bytes of magic, a version, the length of the header, the header, the elements.
// It is read from front to back, since it may come from a pipe, and no number in it is believed
// before so many bytes are there.
#include "npy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <string_view>

#include "atomic_file.h"
#include "core/checks.h"
#include "failure.h"
#include "npy_elements.h"
#include "npy_header.h"

namespace intflash {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr std::size_t kVersion1HeaderStart = 10;  // magic, two bytes of version, two of length
constexpr std::size_t kVersion2HeaderStart = 12;  // the length has four bytes
constexpr std::size_t kDataAlignment = 64;  // NumPy pads headers so that the elements start there

// The bytes that shape asks for, or an error where they exceed what a file can hold.
std::size_t data_bytes(const std::vector<std::int64_t>& shape, std::size_t element_bytes,
                       const std::string& name) {
  // A zero length makes the array empty whatever the others are; without this an overflow would
  // hide it.
  for (const std::int64_t length : shape) {
    if (length == 0) return 0;
  }
  std::int64_t bytes = static_cast<std::int64_t>(element_bytes);
  for (const std::int64_t length : shape) {
    if (__builtin_mul_overflow(bytes, length, &bytes)) {
      throw Failure(fmt::format("{}: shape ({}) is too large", name, fmt::join(shape, ", ")));
    }
  }
  return static_cast<std::size_t>(bytes);
}

// Fills bytes from the front, and says how many; fewer than there are only at the end.
using ReadBytes = std::function<std::size_t(std::span<std::byte> bytes)>;

// So many more bytes behind those that are there, or as many as come.
void read_behind(const ReadBytes& read, std::size_t size, std::vector<std::byte>& bytes) {
  constexpr std::size_t kFirstChunk = 1 << 16;
  const std::size_t end = bytes.size() + size;
  while (bytes.size() < end) {
    const std::size_t begin = bytes.size();
    bytes.resize(begin + std::min(end - begin, std::max(begin, kFirstChunk)));
    const std::size_t count = read(std::span(bytes).subspan(begin));
    if (count == bytes.size() - begin) continue;
    bytes.resize(begin + count);
    break;
  }
}

NpyHeader read_header(const ReadBytes& read, const std::string& name) {
  std::vector<std::byte> bytes;
  const auto byte_at = [&](std::size_t i) { return std::to_integer<std::size_t>(bytes[i]); };
  const auto require = [&](std::size_t size) {
    read_behind(read, size - bytes.size(), bytes);
    if (bytes.size() == size) return;
    throw Failure(
        fmt::format("{}: truncated in the .npy header: {} of {} bytes", name, bytes.size(), size));
  };
  read_behind(read, kMagic.size(), bytes);
  if (bytes.empty()) throw Failure(fmt::format("{}: not a .npy file: it is empty", name));
  if (bytes.size() < kMagic.size() ||
      std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    throw Failure(fmt::format("{}: not a .npy file", name));
  }
  require(kVersion1HeaderStart);
  const std::size_t version = byte_at(6);
  if (version < 1 || version > 3) {
    throw Failure(fmt::format("{}: .npy version {}.{} is not supported; 1.0, 2.0 and 3.0 are", name,
                              version, byte_at(7)));
  }
  std::size_t begin = kVersion1HeaderStart, length = byte_at(8) | byte_at(9) << 8;
  if (version > 1) {
    require(kVersion2HeaderStart);
    begin = kVersion2HeaderStart;
    length |= byte_at(10) << 16 | byte_at(11) << 24;
  }
  require(begin + length);
  return parse_npy_header({reinterpret_cast<const char*>(bytes.data()) + begin, length}, name);
}

NpyArray read_array(const ReadBytes& read, NpyTypes types, const std::string& name) {
  const NpyHeader header = read_header(read, name);
  const NpyElement element = npy_element(header.descr, types, name);
  const std::size_t expected = data_bytes(header.shape, element.bytes, name);
  NpyArray array;
  read_behind(read, expected, array.data);
  const auto fail = [&](const char* what, const std::string& found) {
    throw Failure(fmt::format("{}: {}: shape ({}) needs {} bytes of elements, the file has {}",
                              name, what, fmt::join(header.shape, ", "), expected, found));
  };
  if (array.data.size() < expected) fail("truncated", fmt::to_string(array.data.size()));
  std::byte next;
  if (read(std::span(&next, 1)) > 0) fail("bytes after the last element", "more");
  convert_elements(element, header, name, array.data);
  array.dtype = element.bytes == 1   ? INTFLASH_BOOL
                : element.bytes == 2 ? INTFLASH_F16
                                     : INTFLASH_F32;
  array.shape = header.shape;
  return array;
}

struct CloseDescriptor {
  explicit CloseDescriptor(int value) : descriptor(value) {}
  ~CloseDescriptor() {
    if (descriptor >= 0) ::close(descriptor);
  }
  CloseDescriptor(const CloseDescriptor&) = delete;
  CloseDescriptor& operator=(const CloseDescriptor&) = delete;
  int descriptor;
};

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

std::int64_t NpyArray::num_elements() const {
  return static_cast<std::int64_t>(data.size()) / internal::dtype_bytes(dtype);
}

NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& name, NpyTypes types) {
  return read_array(
      [&](std::span<std::byte> wanted) {
        const std::size_t count = std::min(wanted.size(), bytes.size());
        std::copy_n(bytes.begin(), count, wanted.begin());
        bytes = bytes.subspan(count);
        return count;
      },
      types, name);
}

NpyArray read_npy(const std::string& path, NpyTypes types) {
  const bool is_stdin = path == "-";
  const std::string name = is_stdin ? "standard input" : path;
  const auto fail = [&](const char* what) {
    return Failure(fmt::format("{}: cannot {}: {}", name, what, std::strerror(errno)));
  };
  const CloseDescriptor file(is_stdin ? ::dup(STDIN_FILENO)
                                      : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.descriptor < 0) throw fail("open");
  return read_array(
      [&](std::span<std::byte> wanted) {
        std::size_t size = 0;
        while (size < wanted.size()) {
          const ssize_t count = ::read(file.descriptor, wanted.data() + size, wanted.size() - size);
          if (count < 0 && errno == EINTR) continue;
          if (count < 0) throw fail("read");
          if (count == 0) break;
          size += static_cast<std::size_t>(count);
        }
        return size;
      },
      types, name);
}

void write_npy_files(std::span<const NpyOutput> outputs) {
  std::vector<std::unique_ptr<AtomicFile>> files;
  for (const NpyOutput& output : outputs) {
    auto file = std::make_unique<AtomicFile>(output.path);
    const std::string header = make_header(output.shape);
    file->write(header.data(), header.size());
    file->write(output.data, data_bytes(output.shape, sizeof(float), output.path));
    file->finish();
    files.push_back(std::move(file));
  }
  for (const auto& file : files) file->commit();
}

}  // namespace intflash
