// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What `intflash attend` reads and writes: bad files, pipes, and outputs that are left as they
// were.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "command.h"

namespace intflash::internal::command {
namespace {

TEST_F(Command, AttendWritesOutAndLseInTheShapeOfTheQuery) {
  const std::string outputs = " --out '" + path("o.npy") + "' --lse '" + path("l.npy") + "'";
  ASSERT_EQ(run("attend " + write_inputs({4, 5, 16}, {2, 9, 16}, {2, 9, 24}) + outputs).code, 0);
  EXPECT_EQ(read_npy(path("o.npy")).shape, (Shape{4, 5, 24}));
  EXPECT_EQ(read_npy(path("l.npy")).shape, (Shape{4, 5}));
  ASSERT_EQ(
      run("attend " + write_inputs({2, 4, 5, 16}, {2, 1, 9, 16}, {2, 1, 9, 16}) + outputs).code, 0);
  EXPECT_EQ(read_npy(path("o.npy")).shape, (Shape{2, 4, 5, 16}));
  EXPECT_EQ(read_npy(path("l.npy")).shape, (Shape{2, 4, 5}));
}

TEST_F(Command, BadFilesEndInOneAndAreNamed) {
  const std::string inputs = write_small_inputs();
  const std::string bad = path("bad.npy");
  const auto with_bad_query = [&] {
    return "attend --query '" + bad + "' --key '" + path("k.npy") + "' --value '" + path("v.npy") +
           "'";
  };
  expect_failure(with_bad_query(), 1, bad + ": cannot open");
  std::ofstream(bad) << "hello";
  expect_failure(with_bad_query(), 1, bad + ": not a .npy file");
  const std::string good = read_text(path("q.npy"));
  std::ofstream(bad, std::ios::binary) << good.substr(0, good.size() - 1);
  expect_failure(with_bad_query(), 1, bad + ": truncated");
  std::string integers = good;
  integers.replace(integers.find("<f4"), 3, "<i4");
  std::ofstream(bad, std::ios::binary) << integers;
  expect_failure(with_bad_query(), 1, bad + ": dtype '<i4' is not supported");
}

TEST_F(Command, InputsComeFromPipesToo) {
  const std::string inputs = write_small_inputs(), out = " --out '" + path("o.npy") + "'";
  ASSERT_EQ(run("attend " + inputs + out).code, 0);
  const std::string expected = read_text(path("o.npy"));
  for (const char* query : {"-", "/dev/stdin", "<(cat '%')"}) {
    std::string name = query;
    if (const std::size_t i = name.find('%'); i != std::string::npos)
      name.replace(i, 1, path("q.npy"));
    const std::string line = "cat '" + path("q.npy") + "' | '" INTFLASH_COMMAND "' attend --key '" +
                             path("k.npy") + "' --value '" + path("v.npy") + "' --out '" +
                             path("piped.npy") + "' --query " + name;
    std::ofstream(path("script")) << line;
    EXPECT_EQ(code_of("bash '" + path("script") + "' >/dev/null"), 0) << line;
    EXPECT_TRUE(read_text(path("piped.npy")) == expected) << line;
    fs::remove(path("piped.npy"));
  }
  expect_failure("attend --query - --key '" + path("k.npy") + "' --value '" + path("v.npy") + "'",
                 1, "standard input: not a .npy file: it is empty");
}

TEST_F(Command, ShapesThatDisagreeEndInOne) {
  const auto expect = [&](const Shape& query, const Shape& key, const Shape& value,
                          const std::string& part) {
    expect_failure("attend " + write_inputs(query, key, value), 1, part);
  };
  expect({40, 32}, {2, 40, 32}, {2, 40, 32}, "q.npy: shape (40, 32) is neither");
  expect({4, 40, 32}, {2, 40, 16}, {2, 40, 16}, "k.npy: head_dim 16");
  expect({4, 40, 32}, {2, 40, 32}, {1, 40, 32}, "v.npy: number of heads 1");
  expect({4, 40, 32}, {2, 40, 32}, {2, 41, 32}, "v.npy: number of tokens 41");
  expect({2, 4, 8, 16}, {3, 4, 8, 16}, {3, 4, 8, 16}, "k.npy: batch 3");
  expect({3, 8, 16}, {2, 8, 16}, {2, 8, 16}, "heads");
  expect({2, 8, 12}, {2, 8, 12}, {2, 8, 12}, "head_dim");
}

TEST_F(Command, NanInAnInputEndsInOneAndLeavesTheOutputFileAlone) {
  const std::string inputs = write_small_inputs();
  std::vector<float> values(2 * 40 * 32, 1.0f);
  values[77] = NAN;
  write_npy_files(std::vector<NpyOutput>{{path("v.npy"), {2, 40, 32}, values.data()}});
  std::ofstream(path("o.npy")) << "old";
  expect_failure("attend " + inputs + " --out '" + path("o.npy") + "'", 1, "value");
  EXPECT_EQ(read_text(path("o.npy")), "old");
}

TEST_F(Command, AnOutputThatCannotBeWrittenEndsInOne) {
  const std::string inputs = write_small_inputs();
  expect_failure("attend " + inputs + " --out '" + path("none/o.npy") + "'", 1,
                 "none/o.npy: cannot");
  EXPECT_EQ(run("attend " + inputs + " --json --out /dev/full").code, 1);
  fs::create_directory(path("folder"));
  expect_failure("attend " + inputs + " --out '" + path("folder") + "'", 1,
                 "folder: cannot open for writing: Is a directory");
}

TEST_F(Command, OneFileByTwoNamesIsRefusedAndLeftAsItWas) {
  const std::string inputs = write_small_inputs();
  std::ofstream(path("old.npy")) << "old";
  fs::create_directory(path("folder"));
  fs::create_symlink("old.npy", path("link.npy"));
  fs::create_symlink("../new.npy", path("folder/dangling.npy"));
  fs::create_symlink(".", path("here"));
  fs::create_hard_link(path("old.npy"), path("hard.npy"));
  const std::pair<const char*, const char*> pairs[] = {
      {"new.npy", "./new.npy"},    {"new.npy", "folder/../new.npy"},
      {"new.npy", "here/new.npy"}, {"new.npy", "folder/dangling.npy"},
      {"old.npy", "link.npy"},     {"old.npy", "hard.npy"},
      {"old.npy", "here/old.npy"}, {"-", "-"}};
  for (const auto& [first, second] : pairs) {
    const auto file = [&](const std::string& name) { return name == "-" ? name : path(name); };
    expect_failure("attend " + inputs + " --out '" + file(first) + "' --lse '" + file(second) + "'",
                   2, "--out and --lse are the same file");
    expect_failure("calibrate --key '" + path("k.npy") + "' --value '" + path("v.npy") +
                       "' --key-center '" + file(first) + "' --value-center '" + file(second) + "'",
                   2, "--key-center and --value-center are the same file");
  }
  EXPECT_EQ(read_text(path("old.npy")), "old");
  EXPECT_FALSE(fs::exists(path("new.npy")));
  // Devices keep nothing that could be lost.
  EXPECT_EQ(run("attend " + inputs + " --out /dev/null --lse /dev/null").code, 0);
}

TEST_F(Command, AnOutputInStdoutLeavesTheReportToStderr) {
  const std::string inputs = write_small_inputs();
  ASSERT_EQ(run("attend " + inputs + " --out '" + path("o.npy") + "'").code, 0);
  const std::string expected = read_text(path("o.npy"));
  const std::string command = "'" INTFLASH_COMMAND "' attend " + inputs;
  const std::string last = path("last.npy"), report = path("report");
  for (const char* name : {"-", "/dev/stdout"}) {
    for (const std::string& redirection : {" | cat >'" + last + "'", " >'" + last + "'"}) {
      SCOPED_TRACE(name + redirection);
      EXPECT_EQ(code_of("bash -o pipefail -c \"" + command + " --json --out " + name + " 2>'" +
                        report + "'" + redirection + "\""),
                0);
      EXPECT_TRUE(read_text(last) == expected);
      EXPECT_TRUE(Json::accept(read_text(report)));
    }
  }
  // What the shell writes into the same file goes around it.
  ASSERT_EQ(
      code_of("(printf before; " + command + " --out - 2>/dev/null; printf after) >'" + last + "'"),
      0);
  EXPECT_TRUE(read_text(last) == "before" + expected + "after");
  EXPECT_EQ(code_of(command + " --out - >/dev/full 2>/dev/null"), 1);
  EXPECT_EQ(code_of(command + " --out - >&- 2>/dev/null"), 1);
  EXPECT_TRUE(Json::accept(run("bench --quick --isa scalar --filter overhead/q1k16 --json -").out));
}

TEST_F(Command, AReaderThatLeavesEndsInOneWithoutATemporaryFile) {
  const std::string inputs = write_inputs({4, 400, 64}, {2, 400, 64}, {2, 400, 64});
  fs::create_directory(path("folder"));
  EXPECT_EQ(code_of("bash -o pipefail -c \"'" INTFLASH_COMMAND "' attend " + inputs + " --lse '" +
                    path("folder/l.npy") + "' --out - 2>/dev/null | true\""),
            1);
  EXPECT_TRUE(fs::is_empty(path("folder")));
}

TEST_F(Command, AFileMountedOnItsOwnIsWrittenInPlace) {
  const std::string inputs = write_small_inputs();
  std::ofstream(path("host.npy")) << std::string(100000, 'x');
  std::ofstream(path("mounted.npy"));
  const std::string mount = "mount --bind '" + path("host.npy") + "' '" + path("mounted.npy") + "'";
  if (code_of("unshare -rm sh -c \"" + mount + "\" 2>/dev/null") != 0) {
    GTEST_SKIP() << "no right to mount";
  }
  EXPECT_EQ(code_of("unshare -rm sh -c \"" + mount + " && '" INTFLASH_COMMAND "' attend " + inputs +
                    " --out '" + path("mounted.npy") + "'\" >'" + path("stdout") + "'"),
            0);
  EXPECT_EQ(read_npy(path("host.npy")).shape, (Shape{4, 40, 32}));
}

}  // namespace
}  // namespace intflash::internal::command
