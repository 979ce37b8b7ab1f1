// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash compare --report`: the library's error by part and by head.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <regex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "command.h"

namespace intflash::internal::command {
namespace {

// Of two batches, with two query heads to a key head.
const Shape kQueryShape = {2, 4, 200, 32}, kKeyShape = {2, 2, 300, 32};

Json json_of(const Result& result) {
  EXPECT_EQ(result.code, 0) << result.err;
  return Json::parse(result.out);
}

Json part_of(const Json& report, const std::string& name) {
  for (const Json& part : report["parts"]) {
    if (part["name"] == name) return part;
  }
  ADD_FAILURE() << "no part " << name;
  return {};
}

double error_of(const Json& report, const std::string& name) {
  return part_of(report, name)["rel_l1"];
}

// Rounding errors of parts that know nothing of each other add up as squares do.
TEST_F(Command, ReportedPartsAddUpToTheLibrary) {
  const Json json = json_of(
      run("compare --report --json --causal " + write_inputs(kQueryShape, kKeyShape, kKeyShape)));
  const double joint = error_of(json, "QK, V and P");
  double squares = 0;
  for (const char* part : {"QK", "V", "P"}) {
    const double error = error_of(json, part);
    EXPECT_GT(error, 0.1 * joint) << part;
    EXPECT_LT(error, joint) << part;
    squares += error * error;
  }
  EXPECT_NEAR(std::sqrt(squares) / joint, 1, 0.1);
  EXPECT_LT(error_of(json, "QK, two digits"), error_of(json, "QK") / 50);
  EXPECT_NEAR(error_of(json, "int8, one digit") / joint, 1, 0.1);
  EXPECT_GT(error_of(json, "fixed point"), 0);
  EXPECT_LT(error_of(json, "fixed point"), joint);
}

TEST_F(Command, TheReportsLibraryIsThatOfCompare) {
  const std::string inputs =
      "--json --softmax-scale 0.3 " + write_inputs(kQueryShape, kKeyShape, kKeyShape);
  const Json json = json_of(run("compare --report " + inputs));
  const Json rows = json_of(run("compare " + inputs))["rows"];
  EXPECT_EQ(json["parts"].back(), part_of(json, "int8"));
  double max_abs = 0;
  for (const Json& head : json["heads"]) max_abs = std::max(max_abs, head["max_abs"].get<double>());
  for (const Json& row : rows) {
    if (row["name"] == "intflash int8") {
      EXPECT_EQ(error_of(json, "int8"), row["error"]["rel_l1"]);
      EXPECT_EQ(max_abs, row["error"]["max_abs"]);
    }
    if (row["name"] == "intflash int8, one digit") {
      EXPECT_EQ(error_of(json, "int8, one digit"), row["error"]["rel_l1"]);
    }
  }
}

TEST_F(Command, ReportedHeadsWeighedByTheirSizeMakeTheWhole) {
  const Json json =
      json_of(run("compare --report --json " + write_inputs(kQueryShape, kKeyShape, kKeyShape)));
  ASSERT_EQ(json["heads"].size(), 4u);
  for (const char* name : {"QK", "V", "P", "QK, V and P", "int8, one digit", "int8"}) {
    const Json part = part_of(json, name);
    ASSERT_EQ(part["rel_l1_by_head"].size(), 4u);
    double error = 0, size = 0;
    for (std::size_t h = 0; h < 4; ++h) {
      const double mean_abs = json["heads"][h]["mean_abs"];
      error += part["rel_l1_by_head"][h].get<double>() * mean_abs;
      size += mean_abs;
    }
    EXPECT_NEAR(error / size, part["rel_l1"], 1e-9) << name;
  }
}

TEST_F(Command, OfOneKeyTheReportFindsOnlyTheValueRounded) {
  const Json json =
      json_of(run("compare --report --json " + write_inputs({2, 3, 32}, {1, 1, 32}, {1, 1, 32})));
  EXPECT_LT(error_of(json, "QK"), 1e-7);
  EXPECT_LT(error_of(json, "P"), 1e-7);
  EXPECT_GT(error_of(json, "V"), 1e-3);
}

TEST_F(Command, ReportedRowsThatSeeNoKeyHaveNoError) {
  const std::string command = "compare --report --json --causal ";
  const Json some = json_of(run(command + write_inputs({1, 5, 32}, {1, 2, 32}, {1, 2, 32})));
  EXPECT_LT(error_of(some, "int8"), 0.05);
  const Json none = json_of(run(command + write_inputs({1, 5, 32}, {1, 0, 32}, {1, 0, 32})));
  for (const Json& part : none["parts"]) EXPECT_EQ(part["rel_l1"], 0) << part;
}

// Whether every element of a picture without comments is closed in order.
bool is_well_formed(const std::string& xml) {
  static const std::regex kTag("<(/?)([a-z]+)((?: [a-zA-Z]+=\"[^\"<&]*\")*)(/?)>");
  std::vector<std::string> open;
  std::string rest = xml;
  for (std::smatch tag; std::regex_search(rest, tag, kTag); rest = tag.suffix()) {
    if (tag.prefix().str().find_first_of("<&") != std::string::npos) return false;
    if (tag[1].length() != 0) {
      if (open.empty() || open.back() != tag[2]) return false;
      open.pop_back();
    } else if (tag[4].length() == 0) {
      open.push_back(tag[2]);
    }
  }
  return open.empty() && rest == "\n";
}

TEST_F(Command, AReportsPictureHasABarForEveryPartAndHead) {
  const std::string command = "compare --report " + write_small_inputs() + " --picture ";
  const Result text = run(command + "'" + path("error.svg") + "'");
  ASSERT_EQ(text.code, 0) << text.err;
  const std::string picture = read_text(path("error.svg"));
  EXPECT_TRUE(is_well_formed(picture)) << picture;
  EXPECT_TRUE(picture.starts_with("<svg ")) << picture;
  const std::regex bar("<rect class=\"bar\"");
  EXPECT_EQ(std::distance(std::sregex_iterator(picture.begin(), picture.end(), bar), {}), 8 + 4);
  EXPECT_LT(picture.find(">int8<"), picture.find(">head 0<"));

  const Result piped = run(command + "-");
  EXPECT_EQ(piped.out, picture);
  EXPECT_EQ(piped.err, text.out);
}

TEST_F(Command, WhatIsWrongWithAReportIsSaidWithItsExitCode) {
  const std::string inputs = write_small_inputs();
  expect_failure("compare --report", 2, "--query");
  expect_failure("compare --report --synthetic", 2, "--report");
  expect_failure("compare --picture p.svg " + inputs, 2, "--report");
  expect_failure("compare --report --picture '' " + inputs, 2, "no file is named");
  expect_failure("compare --report --query x.npy --key x.npy --value x.npy", 1, "x.npy");
  expect_failure("compare --report --picture '" + path("none/p.svg") + "' " + inputs, 1,
                 "none/p.svg: cannot");
  EXPECT_EQ(code_of("'" INTFLASH_COMMAND "' compare --report " + inputs + " >/dev/full 2>&1"), 1);
}

}  // namespace
}  // namespace intflash::internal::command
