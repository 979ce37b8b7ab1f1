// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// .npy files, good and hostile: what is not exactly such a file is an error that names it.
#include "npy.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "failure.h"

namespace intflash::internal {
namespace {

namespace fs = std::filesystem;

// A .npy file around this header, of which NumPy's padding is not required, and so many zero bytes.
std::string npy_bytes(const std::string& header, std::size_t data_bytes, char version = 1) {
  std::string bytes = "\x93NUMPY";
  bytes += {version, '\0', static_cast<char>(header.size() & 0xff),
            static_cast<char>(header.size() >> 8)};
  if (version > 1) bytes += std::string(2, '\0');
  return bytes + header + std::string(data_bytes, '\0');
}

NpyArray parse(const std::string& bytes, NpyTypes types = NpyTypes::kFloats) {
  return parse_npy(std::as_bytes(std::span(bytes.data(), bytes.size())), "x.npy", types);
}

// The message of the failure that parsing these bytes must end in.
std::string failure_of(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const Failure& failure) {
    return failure.what();
  }
  return "no failure";
}

void expect_failure(const std::string& bytes, const std::string& part) {
  const std::string message = failure_of(bytes);
  EXPECT_TRUE(message.starts_with("x.npy: ")) << message;
  EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks: " << part;
}

const std::string kGood = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";

class Npy : public testing::Test {
 protected:
  Npy() {
    std::string pattern = (fs::temp_directory_path() / "intflash_npy_XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~Npy() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string contents(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static void write_one(const std::string& file) {
    const float element = 1;
    write_npy_files(std::vector<NpyOutput>{{file, {1}, &element}});
  }
  static std::string write_failure(const std::string& file) {
    try {
      write_one(file);
    } catch (const Failure& failure) {
      return failure.what();
    }
    return "no failure";
  }
  std::size_t files_in_folder() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }

 private:
  fs::path folder_;
};

TEST_F(Npy, ShapeDtypeAndElementsAreRead) {
  std::string bytes = npy_bytes(kGood, 0);
  const float elements[6] = {1, -2, 3.5f, 0, 5, 6};
  bytes.append(reinterpret_cast<const char*>(elements), sizeof elements);
  const NpyArray array = parse(bytes);
  EXPECT_EQ(array.dtype, INTFLASH_F32);
  EXPECT_EQ(array.shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(array.num_elements(), 6);
  EXPECT_EQ(std::memcmp(array.data.data(), elements, sizeof elements), 0);
}

TEST_F(Npy, EveryFormOfAGoodHeaderIsRead) {
  const auto shape_of = [](const std::string& header, std::size_t bytes, char version = 1) {
    return parse(npy_bytes(header, bytes, version)).shape;
  };
  using Shape = std::vector<std::int64_t>;
  EXPECT_EQ(shape_of("{'descr': '<f2', 'fortran_order': False, 'shape': (5,), }   \n", 10),
            Shape{5});
  EXPECT_EQ(shape_of("{\"shape\":(1,1,2),\"fortran_order\":False,\"descr\":\"<f4\"}", 8),
            (Shape{1, 1, 2}));
  EXPECT_EQ(shape_of("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", 4), Shape{});
  EXPECT_EQ(shape_of("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 0, 8)}", 0),
            (Shape{4, 0, 8}));
  EXPECT_EQ(shape_of("{'descr': '<f4', 'fortran_order': True, 'shape': (2,)}", 8), Shape{2});
  EXPECT_EQ(shape_of(kGood, 24, 2), (Shape{2, 3}));
  EXPECT_EQ(shape_of(kGood, 24, 3), (Shape{2, 3}));
}

TEST_F(Npy, WhatIsNotNpyIsRefused) {
  expect_failure("", "not a .npy file");
  expect_failure("\x93NUMP", "not a .npy file");
  expect_failure("PK\x03\x04 and more of a zip", "not a .npy file");
  expect_failure(npy_bytes(kGood, 24, 4), "version 4.0 is not supported");
  expect_failure(npy_bytes(kGood, 24, 0), "version 0.0 is not supported");
}

TEST_F(Npy, EveryTruncationIsRefused) {
  const std::string good = npy_bytes(kGood, 24);
  ASSERT_EQ(parse(good).num_elements(), 6);
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_NE(failure_of(good.substr(0, size)), "no failure") << size << " bytes";
  }
  expect_failure(good.substr(0, good.size() - 1),
                 "truncated: shape (2, 3) needs 24 bytes of elements, the file has 23");
  expect_failure(good + 'x', "bytes after the last element");
}

TEST_F(Npy, OtherDtypesAreNamed) {
  for (const char* descr :
       {"<i8", "|b1", "|u1", "|i1", "<c8", "|O", "=f4", "<f44", "<f16", "", "f4"}) {
    const std::string header =
        std::string("{'descr': '") + descr + "', 'fortran_order': False, 'shape': (1,)}";
    expect_failure(npy_bytes(header, 8), std::string("dtype '") + descr + "' is not supported");
  }
  expect_failure(npy_bytes("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", 4),
                 "structured dtype");
}

// Of 0, infinity, or a normal number that float16 holds.
std::uint16_t half_bits(double value) {
  const int sign = std::signbit(value) ? 0x8000 : 0;
  if (value == 0) return static_cast<std::uint16_t>(sign);
  if (std::isinf(value)) return static_cast<std::uint16_t>(sign | 0x7c00);
  int exponent = 0;
  const double fraction = std::frexp(std::fabs(value), &exponent);  // 0.5 ... 1
  return static_cast<std::uint16_t>(
      sign | ((exponent + 14) << 10 | static_cast<int>(fraction * 2048 - 1024)));
}

// The elements of a file of this type, with the last first where the type's order says so.
std::string element_bytes(const std::string& descr, std::vector<double> elements) {
  std::string bytes;
  for (const double element : elements) {
    std::string one(8, '\0');
    if (descr.ends_with("f8")) {
      std::memcpy(one.data(), &element, 8);
    } else if (descr.ends_with("f4")) {
      const float narrow = static_cast<float>(element);
      std::memcpy(one.data(), &narrow, 4);
      one.resize(4);
    } else {
      const std::uint16_t narrow = half_bits(element);
      std::memcpy(one.data(), &narrow, 2);
      one.resize(2);
    }
    if (descr.starts_with('>')) std::reverse(one.begin(), one.end());
    bytes += one;
  }
  return bytes;
}

std::string file_of(const std::string& descr, const std::string& fortran_order,
                    const std::string& shape, const std::vector<double>& elements) {
  return npy_bytes("{'descr': '" + descr + "', 'fortran_order': " + fortran_order + ", 'shape': (" +
                       shape + ")}",
                   0) +
         element_bytes(descr, elements);
}

std::string bytes_of(const NpyArray& array) {
  return {reinterpret_cast<const char*>(array.data.data()), array.data.size()};
}
std::vector<double> elements_of(const NpyArray& array) {
  std::vector<float> elements(static_cast<std::size_t>(array.num_elements()));
  std::memcpy(elements.data(), array.data.data(), array.data.size());
  return {elements.begin(), elements.end()};
}

TEST_F(Npy, EveryFloatInEitherOrderOfBytesIsRead) {
  const std::vector<double> elements = {1, -2.5, 0.15625, -0.0, 65504, INFINITY};
  for (const char* order : {"<", ">"}) {
    const NpyArray half = parse(file_of(std::string(order) + "f2", "False", "2, 3", elements));
    EXPECT_EQ(half.dtype, INTFLASH_F16);
    EXPECT_EQ(bytes_of(half), element_bytes("<f2", elements));
    for (const char* type : {"f4", "f8"}) {
      const NpyArray array = parse(file_of(std::string(order) + type, "False", "2, 3", elements));
      EXPECT_EQ(array.dtype, INTFLASH_F32);
      EXPECT_EQ(array.shape, (std::vector<std::int64_t>{2, 3}));
      EXPECT_EQ(elements_of(array), elements) << order << type;
    }
  }
}

TEST_F(Npy, Float64IsRoundedToFloat32ThatHoldsIt) {
  constexpr double kMost = std::numeric_limits<float>::max();
  const NpyArray array =
      parse(file_of("<f8", "False", "6,", {1.0 / 3, 0.1, kMost, -kMost, -INFINITY, 1e-300}));
  EXPECT_EQ(elements_of(array), (std::vector<double>{1.0f / 3, 0.1f, kMost, -kMost, -INFINITY, 0}));
  EXPECT_TRUE(std::isnan(elements_of(parse(file_of("<f8", "False", "1,", {NAN})))[0]));
  expect_failure(file_of("<f8", "False", "2, 2", {0, 0, 1e39, 0}),
                 "element [1, 0] is 1e+39, beyond the largest float32");
  expect_failure(file_of(">f8", "True", "2, 2", {0, 0, -1e39, 0}),
                 "element [0, 1] is -1e+39, beyond the largest float32");
  expect_failure(file_of("<f8", "False", "2,", {0}), "truncated");
}

TEST_F(Npy, FortranOrderIsReadIntoCOrder) {
  std::vector<double> fortran(2 * 3 * 4), c(fortran.size());
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 3; ++j) {
      for (int k = 0; k < 4; ++k) {
        fortran[static_cast<std::size_t>(i + 2 * j + 6 * k)] = 100 * i + 10 * j + k;
        c[static_cast<std::size_t>(12 * i + 4 * j + k)] = 100 * i + 10 * j + k;
      }
    }
  }
  EXPECT_EQ(elements_of(parse(file_of("<f4", "True", "2, 3, 4", fortran))), c);
  EXPECT_EQ(elements_of(parse(file_of(">f8", "True", "2, 3, 4", fortran))), c);
  EXPECT_EQ(bytes_of(parse(file_of(">f2", "True", "2, 3, 4", fortran))), element_bytes("<f2", c));
  EXPECT_EQ(parse(file_of("<f4", "True", "4611686018427387904, 0, 8", {})).num_elements(), 0);
  EXPECT_EQ(elements_of(parse(file_of("<f4", "True", "", {7}))), (std::vector<double>{7}));
}

TEST_F(Npy, BoolAndUint8AreReadWhereBytesAreAskedFor) {
  for (const char* descr : {"|b1", "|u1"}) {
    const std::string header = std::string("{'descr': '") + descr + "', 'fortran_order': ";
    const NpyArray c = parse(npy_bytes(header + "False, 'shape': (2, 3)}", 0) + "abcdef",
                             NpyTypes::kFloatsAndBytes);
    EXPECT_EQ(c.dtype, INTFLASH_BOOL);
    EXPECT_EQ(c.shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(c.num_elements(), 6);
    EXPECT_EQ(bytes_of(c), "abcdef");
    const NpyArray fortran = parse(npy_bytes(header + "True, 'shape': (2, 3)}", 0) + "adbecf",
                                   NpyTypes::kFloatsAndBytes);
    EXPECT_EQ(bytes_of(fortran), "abcdef");
  }
  EXPECT_EQ(parse(npy_bytes(kGood, 24), NpyTypes::kFloatsAndBytes).dtype, INTFLASH_F32);
}

TEST_F(Npy, LengthsThatOverflowAreRefused) {
  const auto header = [](const std::string& shape) {
    return "{'descr': '<f4', 'fortran_order': False, 'shape': (" + shape + ")}";
  };
  expect_failure(npy_bytes(header("9223372036854775808,"), 0), "does not fit 64 bits");
  expect_failure(npy_bytes(header("99999999999999999999999999999999999999,"), 0),
                 "does not fit 64 bits");
  expect_failure(npy_bytes(header("4611686018427387904,"), 0), "too large");
  expect_failure(npy_bytes(header("4294967296, 4294967296"), 0), "too large");
  // 2^62 elements of 4 bytes: the product is 0 in 64 bits.
  expect_failure(npy_bytes(header("2147483648, 2147483648"), 0), "too large");
  expect_failure(npy_bytes(header("1099511627776, 8"), 64), "truncated");
  expect_failure(npy_bytes(header("-1,"), 0), "a length >= 0 is expected");
  std::string many;
  for (int i = 0; i < 33; ++i) many += "1, ";
  expect_failure(npy_bytes(header(many), 4), "more than 32 dimensions");
}

TEST_F(Npy, HeadersThatAreNoDictionaryAreRefused) {
  const char* const headers[] = {
      "",
      "{",
      "{}",
      "()",
      "{'descr'}",
      "{'descr': }",
      "{'descr': '<f4}",
      "{'descr': '<f4', 'fortran_order': False}",
      "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': 1}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1 1)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1,,)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (,)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (0x1,)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1,",
      "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': '1'}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} more",
      "{'descr': '<f\n4', 'fortran_order': False, 'shape': (1,)}",
      "{'descr': '\x1b[2J', 'fortran_order': False, 'shape': (1,)}",
      "{'descr' '<f4' 'fortran_order' False 'shape' (1,)}",
  };
  for (const char* header : headers) {
    SCOPED_TRACE(header);
    expect_failure(npy_bytes(header, 4), "corrupt .npy header");
  }
}

TEST_F(Npy, MessagesHoldNoControlCharacters) {
  for (int c = 1; c < 256; ++c) {
    const std::string header = "{'" + std::string(1, static_cast<char>(c)) + "': 1}";
    for (const char m : failure_of(npy_bytes(header, 4))) EXPECT_TRUE(m >= ' ' && m <= '~') << c;
  }
}

TEST_F(Npy, AHeaderLongerThanTheFileIsRefused) {
  std::string bytes = npy_bytes(kGood, 24, 2);
  bytes[8] = bytes[9] = bytes[10] = bytes[11] = '\xff';
  expect_failure(bytes, "truncated in the .npy header");
}

TEST_F(Npy, EveryDamagedByteIsAnErrorOrAnotherArray) {
  const std::string good = npy_bytes(kGood, 24);
  for (std::size_t i = 0; i < good.size() - 24; ++i) {
    for (int c = 0; c < 256; ++c) {
      std::string bytes = good;
      bytes[i] = static_cast<char>(c);
      try {
        const NpyArray array = parse(bytes);
        EXPECT_EQ(array.data.size(), 24u);
      } catch (const Failure&) {
      }
    }
  }
}

TEST_F(Npy, WrittenArraysAreReadBack) {
  const std::vector<float> elements = {1, 2, 3, 4, 5, 6, 7, 8};
  for (const std::vector<std::int64_t>& shape :
       {std::vector<std::int64_t>{8}, {2, 4}, {2, 2, 2}, {1, 2, 2, 2}, {0, 3}}) {
    write_npy_files(std::vector<NpyOutput>{{path("a.npy"), shape, elements.data()}});
    const NpyArray array = read_npy(path("a.npy"));
    EXPECT_EQ(array.dtype, INTFLASH_F32);
    EXPECT_EQ(array.shape, shape);
    const auto bytes = std::as_bytes(std::span(elements)).first(array.data.size());
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), array.data.begin()));
    // NumPy aligns the elements to 64 bytes, and so do we.
    EXPECT_EQ((contents("a.npy").size() - array.data.size()) % 64, 0u);
  }
}

std::string read_failure(const std::string& file) {
  try {
    read_npy(file);
  } catch (const Failure& failure) {
    return failure.what();
  }
  return "no failure";
}

TEST_F(Npy, ReadingNamesTheFile) {
  EXPECT_EQ(read_failure(path("missing.npy")),
            path("missing.npy") + ": cannot open: No such file or directory");
  fs::create_directory(path("folder"));
  EXPECT_EQ(read_failure(path("folder")), path("folder") + ": cannot read: Is a directory");
  std::ofstream(path("empty.npy")).flush();
  EXPECT_EQ(read_failure(path("empty.npy")), path("empty.npy") + ": not a .npy file: it is empty");
  EXPECT_EQ(read_failure("/dev/zero"), "/dev/zero: not a .npy file");
}

// What a pipe says of its size is nothing, and its bytes come in pieces.
TEST_F(Npy, APipeIsReadToItsEnd) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  const auto through_pipe = [&](const std::string& bytes, const auto& read) {
    std::thread writer([&] {
      std::ofstream pipe(path("pipe"), std::ios::binary);
      for (std::size_t i = 0; i < bytes.size(); i += 11) pipe << bytes.substr(i, 11) << std::flush;
    });
    auto result = read(path("pipe"));
    writer.join();
    return result;
  };
  std::vector<double> elements(5000);
  for (std::size_t i = 0; i < elements.size(); ++i) elements[i] = static_cast<double>(i);
  const std::string good = file_of("<f4", "False", "50, 100", elements);
  const auto read_floats = [](const std::string& file) { return read_npy(file); };
  EXPECT_EQ(elements_of(through_pipe(good, read_floats)), elements);
  EXPECT_EQ(through_pipe(good + "x", read_failure),
            path("pipe") +
                ": bytes after the last element: shape (50, 100) needs 20000 bytes of "
                "elements, the file has more");
  EXPECT_EQ(through_pipe(good.substr(0, good.size() - 1), read_failure),
            path("pipe") +
                ": truncated: shape (50, 100) needs 20000 bytes of elements, the file "
                "has 19999");
  // More than there is memory.
  EXPECT_EQ(through_pipe(file_of("<f4", "False", "1099511627776,", {1, 2}), read_failure),
            path("pipe") +
                ": truncated: shape (1099511627776) needs 4398046511104 bytes of "
                "elements, the file has 8");
}

TEST_F(Npy, AFailureLeavesEveryFileAsItWas) {
  const float element = 1;
  std::ofstream(path("old.npy")) << "old";
  const std::vector<NpyOutput> outputs = {{path("old.npy"), {1}, &element},
                                          {path("no/such/folder.npy"), {1}, &element}};
  EXPECT_THROW(write_npy_files(outputs), Failure);
  EXPECT_EQ(contents("old.npy"), "old");
  EXPECT_EQ(files_in_folder(), 1u);  // nor is a temporary file left
}

TEST_F(Npy, ASymbolicLinkKeepsPointingAtTheFile) {
  const float element = 1;
  std::ofstream(path("target.npy")) << "old";
  fs::create_symlink("target.npy", path("link.npy"));
  write_npy_files(std::vector<NpyOutput>{{path("link.npy"), {1}, &element}});
  EXPECT_TRUE(fs::is_symlink(path("link.npy")));
  EXPECT_EQ(read_npy(path("target.npy")).num_elements(), 1);
}

TEST_F(Npy, ASymbolicLinkToNothingYetMakesItsTarget) {
  fs::create_directory(path("folder"));
  fs::create_symlink("folder/target.npy", path("second.npy"));
  fs::create_symlink("second.npy", path("first.npy"));
  write_one(path("first.npy"));
  EXPECT_TRUE(fs::is_symlink(path("first.npy")));
  EXPECT_TRUE(fs::is_symlink(path("second.npy")));
  EXPECT_EQ(read_npy(path("folder/target.npy")).num_elements(), 1);
  fs::create_symlink("circle.npy", path("circle.npy"));
  EXPECT_EQ(write_failure(path("circle.npy")),
            path("circle.npy") + ": cannot open for writing: Too many levels of symbolic links");
}

TEST_F(Npy, EveryNameOfAFileShowsWhatIsWrittenToOne) {
  std::ofstream(path("a.npy")) << std::string(1000, 'x');  // longer than what comes
  fs::create_hard_link(path("a.npy"), path("b.npy"));
  write_one(path("a.npy"));
  EXPECT_EQ(read_npy(path("b.npy")).num_elements(), 1);
  EXPECT_EQ(files_in_folder(), 2u);
}

TEST_F(Npy, AReplacedFileKeepsItsPermissionsAndANewOneHasThoseOfAny) {
  std::ofstream(path("old.npy")) << "old";
  fs::permissions(path("old.npy"), fs::perms{0620});
  write_one(path("old.npy"));
  EXPECT_EQ(fs::status(path("old.npy")).permissions(), fs::perms{0620});
  write_one(path("new.npy"));
  std::ofstream(path("any")) << "any";
  EXPECT_EQ(fs::status(path("new.npy")).permissions(), fs::status(path("any")).permissions());
}

TEST_F(Npy, TheLongestNameThatAFileCanHaveIsWritten) {
  const std::string name(255, 'n');
  write_one(path(name));
  EXPECT_EQ(read_npy(path(name)).num_elements(), 1);
  EXPECT_EQ(files_in_folder(), 1u);
}

TEST_F(Npy, AFolderIsNoOutput) {
  EXPECT_EQ(write_failure(path("")), path("") + ": cannot open for writing: Is a directory");
}

// For its lifetime the process is nobody, where it was root, who may write anything.
class AsNobody {
 public:
  AsNobody() : was_root_(::geteuid() == 0), failed_(was_root_ && ::seteuid(65534) != 0) {}
  ~AsNobody() {
    if (was_root_ && ::seteuid(0) != 0) std::abort();
  }
  bool failed() const { return failed_; }  // in a container that knows root alone

 private:
  bool was_root_;
  bool failed_;
};

TEST_F(Npy, AFileInAFolderThatTakesNoNewOnesIsWrittenInPlace) {
  std::ofstream(path("o.npy")) << std::string(1000, 'x');
  fs::permissions(path("o.npy"), fs::perms{0666});
  fs::permissions(path(""), fs::perms{0555});
  {
    const AsNobody user;
    if (user.failed()) GTEST_SKIP() << "no user but root";
    write_one(path("o.npy"));
    EXPECT_EQ(write_failure(path("new.npy")),
              path("new.npy") + ": cannot create: Permission denied");
  }
  fs::permissions(path(""), fs::perms{0755});
  EXPECT_EQ(read_npy(path("o.npy")).num_elements(), 1);
}

TEST_F(Npy, AFileThatMayNotBeWrittenIsNotReplaced) {
  std::ofstream(path("o.npy")) << "old";
  fs::permissions(path("o.npy"), fs::perms{0444});
  fs::permissions(path(""), fs::perms{0777});
  {
    const AsNobody user;
    if (user.failed()) GTEST_SKIP() << "no user but root";
    EXPECT_EQ(write_failure(path("o.npy")),
              path("o.npy") + ": cannot open for writing: Permission denied");
  }
  EXPECT_EQ(contents("o.npy"), "old");
}

// In a folder such as /tmp only its owner may replace a file that all may write.
TEST_F(Npy, AFileKeepsItsOwner) {
  for (const unsigned mode : {0777u, 01777u}) {
    std::ofstream(path("o.npy")) << std::string(1000, 'x');
    fs::permissions(path("o.npy"), fs::perms{0666});
    fs::permissions(path(""), fs::perms{mode});
    {
      const AsNobody user;
      if (user.failed()) GTEST_SKIP() << "no user but root";
      write_one(path("o.npy"));
    }
    struct stat status = {};
    ASSERT_EQ(::stat(path("o.npy").c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, ::getuid());
    EXPECT_EQ(read_npy(path("o.npy")).num_elements(), 1);
    EXPECT_EQ(files_in_folder(), 1u);
  }
}

TEST_F(Npy, ADeviceIsWrittenAndNotReplaced) {
  const float element = 1;
  write_npy_files(std::vector<NpyOutput>{{"/dev/null", {1}, &element}});
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

}  // namespace
}  // namespace intflash::internal
