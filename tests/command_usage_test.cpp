// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The intflash command's usage: help, wrong options, and streams that take nothing.
#include <string>

#include <gtest/gtest.h>

#include "command.h"

namespace intflash::internal::command {
namespace {

TEST_F(Command, HelpAndVersionSucceed) {
  for (const char* arguments :
       {"--help", "attend --help", "compare --help", "info --help", "bench --help", "plan --help",
        "serve-sim --help", "calibrate --help"}) {
    const Result result = run(arguments);
    EXPECT_EQ(result.code, 0) << arguments;
    EXPECT_NE(result.out.find("Example"), std::string::npos) << arguments;
    EXPECT_EQ(result.err, "") << arguments;
  }
  EXPECT_EQ(run("--version").out, std::string("intflash ") + intflash_version() + "\n");
}

TEST_F(Command, WrongUsageEndsInTwo) {
  const std::string inputs = write_small_inputs();
  expect_failure("", 2, "subcommand is required");
  expect_failure("dance", 2, "dance");
  expect_failure("attend", 2, "--query is required");
  expect_failure("attend " + inputs + " --nonsense", 2, "--nonsense");
  expect_failure("attend " + inputs + " --mode int4", 2, "int4");
  expect_failure("attend " + inputs + " --window -1", 2, "-1");
  expect_failure("attend " + inputs + " --window many", 2, "many");
  expect_failure("attend " + inputs + " --softmax-scale 0", 2, "> 0");
  expect_failure("attend " + inputs + " --softmax-scale nan", 2, "> 0");
  expect_failure("attend " + inputs + " --score-cap -3", 2, "> 0");
  expect_failure("attend " + inputs + " --center q", 2, "q");
  expect_failure("attend " + inputs + " --rotate maybe", 2, "maybe");
  expect_failure("attend " + inputs + " --threads 0", 2, "0");
  expect_failure("attend " + inputs + " --isa avx1024", 2, "avx1024");
  expect_failure("attend " + inputs + " --out same.npy --lse same.npy", 2, "same.npy");
  expect_failure("attend " + inputs + " --out ''", 2, "no file is named");
  expect_failure("calibrate --key k.npy", 2, "--value is required");
  expect_failure("compare", 2, "--query");
  expect_failure("compare --synthetic " + inputs, 2, "--synthetic");
  expect_failure("bench --filter '('", 2, "--filter (");
  expect_failure("bench --filter no_such_case", 2, "no_such_case");
  expect_failure("bench --isa avx1024", 2, "avx1024");
  expect_failure("bench --causal --query q.npy --key k.npy", 2, "--value");
}

TEST_F(Command, ErrorsHaveTheirExitCodeWhereStderrTakesNothing) {
  const std::string command = "'" INTFLASH_COMMAND "' ";
  for (const char* redirection : {" 2>&-", " 2>/dev/full", " 0<&- 1>&- 2>&-"}) {
    SCOPED_TRACE(redirection);
    EXPECT_EQ(code_of(command + "attend --query no.npy --key no.npy --value no.npy" + redirection),
              1);
    EXPECT_EQ(code_of(command + "bench --filter '('" + redirection), 2);
  }
  // The reader has left before anything is said.
  EXPECT_EQ(code_of("bash -c 'exec 2> >(exit); sleep 0.2; " + command +
                    "attend --query no.npy --key no.npy --value no.npy'"),
            1);
}

TEST_F(Command, WhatCannotBePrintedEndsInOneAndSaysSo) {
  const std::string inputs = write_small_inputs();
  const std::string serving = "serve-sim --requests 2 --prompt-mean 4 --output-mean 4 --head-dim 8";
  for (const std::string& line :
       {std::string("--help >/dev/full"), std::string("--version >/dev/full"),
        std::string("--version >&-"), std::string("attend --help >/dev/full"),
        "attend " + inputs + " >/dev/full", "attend " + inputs + " >&-",
        "attend --json " + inputs + " >/dev/full", "compare " + inputs + " >/dev/full",
        "compare --json " + inputs + " >&-", serving + " >/dev/full",
        serving + " --json >/dev/full",
        std::string("bench --quick --isa scalar --filter overhead/q1k16 >/dev/full")}) {
    SCOPED_TRACE(line);
    EXPECT_EQ(code_of("'" INTFLASH_COMMAND "' " + line + " 2>'" + path("stderr") + "'"), 1);
    const std::string said = read_text(path("stderr"));
    EXPECT_TRUE(said.starts_with("intflash: cannot write to standard output")) << said;
  }
}

TEST_F(Command, WhatPrintsNothingNeedsNoStdout) {
  const std::string inputs = write_small_inputs();
  EXPECT_EQ(code_of("'" INTFLASH_COMMAND "' calibrate --key '" + path("k.npy") + "' --value '" +
                    path("v.npy") + "' --key-center '" + path("kc.npy") + "' --value-center '" +
                    path("vc.npy") + "' 0<&- 1>&- 2>&-"),
            0);
  EXPECT_EQ(read_npy(path("kc.npy")).shape, (Shape{2, 32}));
}

TEST_F(Command, AnUnknownPortInTheEnvironmentEndsInOneAndListsThePorts) {
  const Result result = run("attend " + write_small_inputs(), "INTFLASH_ISA=avx1024 ");
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find("scalar"), std::string::npos) << result.err;
}

}  // namespace
}  // namespace intflash::internal::command
